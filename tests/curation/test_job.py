"""Data runs as processes of their own, killed and started again: nothing is lost and nothing made twice."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import torch

pytest.importorskip("cv2", reason="the data extra is not installed")
pytest.importorskip("scenedetect", reason="the data extra is not installed")

import fake_pairs  # noqa: E402
from liveditor_isa.video.mp4 import write_mp4  # noqa: E402
from waiting import until  # noqa: E402

pytestmark = pytest.mark.long

SETTINGS = {
    "frames": 5, "fps": 8, "width": 96, "height": 64, "planner": "fake_pairs", "frame_editor": "fake_pairs", "video_editor": "fake_pairs",
    "video_candidates": 1,
}  # fmt: skip
BOUNDS = {"length": {"least": 0.5}, "size": {"least": 64}, "motion": None, "sharpness": None, "duplicate": None}
CLIPS = 8


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Raw videos, each a clip with one edit."""
    for seed in range(CLIPS):
        coarse = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(seed))
        picture = torch.nn.functional.interpolate(coarse, (64, 128), mode="bicubic")[0].clamp(0, 1).movedim(0, -1)
        frames = torch.stack([picture.roll(index, 1)[:, 16:112] for index in range(6)])
        write_mp4(tmp_path / f"raw{seed}.mp4", [frames], Fraction(8), crf=10)
    rows = [{"video": f"raw{seed}.mp4", "licence": "CC0"} for seed in range(CLIPS)]
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    (tmp_path / "gates.json").write_text(json.dumps(BOUNDS), encoding="utf-8")
    support = str(Path(fake_pairs.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([support, *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv(fake_pairs.LOG, str(tmp_path / "edits.log"))
    return tmp_path


def started(place: Path) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "liveditor_isa",
        "data",
        "run",
        "clips.jsonl",
        "--out",
        "pairs",
        "--settings",
        "settings.json",
    ]
    options = ["--gates", "gates.json", "--here", "all", "--device", "cpu", "--until", "videos", "--json"]
    return subprocess.Popen(
        [*command, *options], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def ended(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err.decode(errors="replace")[-2000:]
    return json.loads(out)


def records(place: Path, stage: str) -> list[str]:
    return sorted(path.stem for path in (place / "pairs" / stage / "records").glob("*.json"))


def edits(place: Path) -> Counter:
    """{pair's id and frames: how often the edit began}."""
    return Counter(line.rsplit(" ", 1)[0] for line in (place / "edits.log").read_text(encoding="utf-8").splitlines())


def test_a_killed_run_goes_on_where_it_was(place, monkeypatch):
    monkeypatch.setenv(fake_pairs.PROPOSALS, "style sepia")
    first = started(place)
    until(lambda: len(records(place, "4-frames")) >= 2 or first.poll() is not None, seconds=300)
    assert first.poll() is None, first.communicate()
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    before = records(place, "4-frames")
    assert 2 <= len(before)
    done = ended(started(place))
    assert done["stages"]["videos"]["done"] == CLIPS
    assert done["stages"]["frames"]["edited"] == CLIPS - len(before)
    finished = {
        name: number for name, number in edits(place).items() if name.rpartition(" ")[0] in before and name.endswith(" 1")
    }
    assert set(finished.values()) == {1}  # frames that had a record were not made again
    assert all(summary["edited"] == 0 for summary in ended(started(place))["stages"].values())
