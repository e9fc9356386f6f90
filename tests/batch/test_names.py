"""Names in a batch: what cannot be a file's name is one clip's fault, or known before Ray and a model are started."""

import csv
import json
import os
import sys
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import pytest
import torch
from liveditor_isa.batch import job as batch_job
from liveditor_isa.batch.job import run
from liveditor_isa.batch.manifest import read_manifest
from liveditor_isa.batch.results import Results
from liveditor_isa.batch.worker import Worker
from liveditor_isa.command import main
from liveditor_isa.pipelines.request import ModelChoice
from liveditor_isa.video.mp4 import write_mp4


@pytest.fixture
def job(monkeypatch):
    """A job whose one worker is this process."""

    def in_this_process(ray, pending, pool, arguments):
        worker = Worker(*arguments)
        for clip in pending:
            yield json.loads(worker({"row": batch_job.row_of(clip)})["row"])

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "support"))
    monkeypatch.setattr(batch_job.cluster, "connected", lambda address: nullcontext())
    monkeypatch.setattr(batch_job.cluster, "pool_for", lambda *_, **__: None)
    monkeypatch.setattr(batch_job, "_stream", in_this_process)
    return lambda path, out: run(read_manifest(path), ModelChoice(), out, editor="fake_editor", progress=False)


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory) -> Path:
    frames = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 32, 32, 3)
    return write_mp4(tmp_path_factory.mktemp("clip") / "clip.mp4", [frames], Fraction(10))


def manifest(folder: Path, *videos: str) -> Path:
    path = folder / "clips.jsonl"
    path.write_text("".join(json.dumps({"video": video, "prompt": "fine"}) + "\n" for video in videos), encoding="utf-8")
    return path


def test_a_video_whose_name_is_too_long_is_that_clips_fault(job, tmp_path, clip_file):
    """It stopped the whole job."""
    (tmp_path / "good.mp4").symlink_to(clip_file)
    summary = job(manifest(tmp_path, "a" * 300 + ".mp4", "good.mp4"), tmp_path / "out")
    assert (summary.done, summary.quarantined) == (1, 1)
    assert main(["batch", str(tmp_path / "clips.jsonl"), "--out", str(tmp_path / "other"), "--dry-run"]) == 1


def test_a_folder_whose_file_system_takes_no_such_names_is_known_before(job, tmp_path, clip_file, monkeypatch):
    (tmp_path / f"{'a' * 80}.mp4").symlink_to(clip_file)
    monkeypatch.setattr(os, "pathconf", lambda folder, name: 40 if name == "PC_NAME_MAX" else 4096)
    monkeypatch.setattr(batch_job.cluster, "connected", lambda address: pytest.fail("Ray is started"))
    with pytest.raises(OSError, match="takes 84 bytes of the 40 that"):
        job(manifest(tmp_path, f"{'a' * 80}.mp4"), tmp_path / "out")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are text")
def test_a_folder_whose_name_is_no_text_keeps_no_summary_from_being_written(job, tmp_path, clip_file):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe6"))
    folder.mkdir()
    (folder / "good.mp4").symlink_to(clip_file)
    out = folder / "out"
    assert job(manifest(folder, "good.mp4"), out).done == 1
    with open(out / "metrics.csv", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["video"].endswith("\\udce6/good.mp4")
    Results(out).log({"id": "good", "reason": "\udce6", "traceback": "\udce6"})


def test_names_of_devices_are_no_ids(tmp_path):
    names = [clip.id for clip in read_manifest(manifest(tmp_path, "con.mp4", "com1.mov", "console.mp4"))]
    assert names == ["clip_con", "clip_com1", "console"]


def test_a_job_in_this_process_needs_no_ray_and_an_editor_may_make_facts_alone(clip_file, tmp_path, monkeypatch):
    def none(*_):
        raise AssertionError("Ray is started")

    editor = ModuleType("facts_only")
    editor.load = lambda choice: choice
    editor.edit_file = lambda pipe, edit, output, progress: (None, {"seen": edit.prompt})
    monkeypatch.setitem(sys.modules, "facts_only", editor)
    monkeypatch.setattr(batch_job.cluster, "connected", none)
    clips = read_manifest(manifest(tmp_path, str(clip_file), str(clip_file)))
    summary = run(clips, ModelChoice(), tmp_path / "out", editor="facts_only", progress=False, here=True)
    assert summary.done == summary.edited == 2
    results = Results(tmp_path / "out")
    assert results.record("clip")["run"] == {"seen": "fine"} and not results.video("clip").exists()
    assert run(clips, ModelChoice(), tmp_path / "out", editor="facts_only", progress=False, here=True).edited == 0
