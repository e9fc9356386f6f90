"""Batch jobs on a real Ray: workers and whole jobs killed, broken clips, and each clip edited once."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch

pytest.importorskip("ray", reason="the batch extra is not installed")

from liveditor_isa.batch.job import run  # noqa: E402
from liveditor_isa.batch.manifest import read_manifest  # noqa: E402
from liveditor_isa.batch.results import JobError, Results  # noqa: E402
from liveditor_isa.pipelines.edit import ModelChoice  # noqa: E402
from liveditor_isa.video.mp4 import write_mp4  # noqa: E402

EDITOR = "fake_editor"
MARK = "LIVEDITOR_TEST_JOB"
"""In the environment of all processes that a job starts, by which they are found."""

DRIVER = """
import sys
from liveditor_isa.batch.job import run
from liveditor_isa.batch.manifest import read_manifest
from liveditor_isa.pipelines.edit import ModelChoice
run(read_manifest(sys.argv[1]), ModelChoice(), sys.argv[2], workers=2, editor=sys.argv[3], progress=False)
"""


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory) -> Path:
    """Five frames of 32×32."""
    frames = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 32, 32, 3)
    return write_mp4(tmp_path_factory.mktemp("clip") / "clip.mp4", [frames], Fraction(10))


@pytest.fixture(autouse=True)
def workers_find_the_editor(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv(MARK, str(tmp_path))
    yield
    wait_until(lambda: not processes(str(tmp_path)), "processes are left")


def wait_until(happens, otherwise: str, seconds: float = 60):
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, otherwise
        time.sleep(0.05)


def processes(mark: str) -> list[str]:
    """Command lines of what a job started, this process left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            if f"{MARK}={mark}".encode() in environment and folder.name != str(os.getpid()):
                found.append((folder / "cmdline").read_text().replace("\0", " ")[:80])
        except OSError:
            pass
    return [line for line in found if line]


def manifest_of(folder: Path, clip_file: Path, prompts: list[str], corrupt: tuple[int, ...] = ()) -> Path:
    """clip_000.mp4, ... and a manifest of them."""
    folder.mkdir(exist_ok=True)
    for index in range(len(prompts)):
        video = folder / f"clip_{index:03}.mp4"
        shutil.copy(clip_file, video)
        if index in corrupt:
            # One that was cut off, so that its index is missing, and one that is no video at all.
            video.write_bytes(clip_file.read_bytes()[:200] if index == corrupt[0] else b"not a video")
    manifest = folder / "clips.jsonl"
    rows = [{"video": f"clip_{index:03}.mp4", "prompt": prompt} for index, prompt in enumerate(prompts)]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def edits(manifest: Path) -> Counter:
    return Counter((manifest.parent / "edits.log").read_text().split())


def names(folder: Path, pattern: str) -> set[str]:
    return {path.stem for path in folder.glob(pattern)}


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_hundred_clips_with_everything_killed_on_the_way(clip_file, tmp_path):
    """The whole job is killed at a third, a worker at two thirds, two clips are corrupt: 98 outputs, each once."""
    prompts = ["slowly 0.02"] * 100
    prompts[70] = f"die-once {tmp_path / 'killed'}"
    manifest = manifest_of(tmp_path / "clips", clip_file, prompts, corrupt=(40, 90))
    out = tmp_path / "out"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(manifest), str(out), EDITOR])
    try:
        wait_until(lambda: len(names(out, "records/*.json")) >= 33, "the job does not get on", 120)
        with pytest.raises(JobError, match=f"Another process is at this job .process {driver.pid} "):
            run(read_manifest(manifest), ModelChoice(), out, editor=EDITOR, progress=False)
    finally:
        driver.kill()
        driver.wait()
    # Ray's own processes notice and go; the restart does not wait for them.
    before = names(out, "records/*.json")
    first = edits(manifest)

    summary = run(read_manifest(manifest), ModelChoice(), out, workers=2, editor=EDITOR, progress=False)

    good = {f"clip_{index:03}" for index in range(100)} - {"clip_040", "clip_090"}
    assert (summary.clips, summary.done, summary.quarantined, summary.pending) == (100, 98, 2, 0)
    assert names(out, "*.mp4") == names(out, "records/*.json") == good
    assert names(out, "quarantine/*.json") == {"clip_040", "clip_090"}
    assert (tmp_path / "killed").exists()
    assert json.loads((out / "records/clip_070.json").read_text())["attempt"] == 2
    # What was done before is not done again; only what was at work when it was killed is begun twice.
    again = edits(manifest) - first
    assert not set(again) & before
    assert 98 - len(before) - 2 <= summary.edited <= 98 - len(before)
    assert all(count == (2 if name == "clip_070" else 1) for name, count in again.items())
    for name in good:
        with av.open(str(out / f"{name}.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == 5
    for name in ("clip_040", "clip_090"):
        reason = json.loads((out / f"quarantine/{name}.json").read_text())["reason"]
        assert reason.startswith("The video cannot be read")
    with open(out / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"clip_{index:03}" for index in range(100)]
    assert Counter(row["status"] for row in rows) == {"done": 98, "quarantined": 2}
    assert rows[0]["frames"] == "5" and rows[0]["backend"] == "none" and rows[40]["reason"]
    assert len(everything(out)) == 98 + 98 + 2 + len(["summary.json", "metrics.csv", "job.json", "lock"])

    finished = edits(manifest)
    assert run(read_manifest(manifest), ModelChoice(), out, workers=2, editor=EDITOR, progress=False).edited == 0
    assert edits(manifest) == finished
