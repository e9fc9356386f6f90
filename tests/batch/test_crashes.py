"""Workers that end by a crash of native code are told from workers that are killed for want of memory."""

import json
import os
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import pytest
import torch

pytest.importorskip("ray", reason="the batch extra is not installed")

from liveditor_isa.batch import job as batch_job  # noqa: E402
from liveditor_isa.batch.crashes import crash_in, name_of, noted  # noqa: E402
from liveditor_isa.batch.job import run  # noqa: E402
from liveditor_isa.batch.manifest import read_manifest  # noqa: E402
from liveditor_isa.batch.results import JobError  # noqa: E402
from liveditor_isa.batch.worker import Worker  # noqa: E402
from liveditor_isa.pipelines.request import ModelChoice  # noqa: E402
from liveditor_isa.video.mp4 import write_mp4  # noqa: E402

REAL = {"connected": batch_job.cluster.connected, "pool_for": batch_job.cluster.pool_for, "_stream": batch_job._stream}


@pytest.fixture
def job(tmp_path, monkeypatch):
    """start(prompts) runs a job of one clip per prompt, whose worker is a process that is started again when it dies."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "support"))
    monkeypatch.setattr(batch_job.cluster, "connected", lambda address: nullcontext())
    monkeypatch.setattr(batch_job.cluster, "pool_for", lambda *_, **__: None)
    monkeypatch.setattr(batch_job, "_stream", in_processes)

    def start(prompts, model="tiny"):
        frames = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 32, 32, 3)
        rows = []
        for index, prompt in enumerate(prompts):
            video = write_mp4(tmp_path / f"clip_{index}.mp4", [frames], Fraction(10))
            rows.append(json.dumps({"video": video.name, "prompt": prompt}))
        (tmp_path / "clips.jsonl").write_text("\n".join(rows))
        clips = read_manifest(tmp_path / "clips.jsonl")
        return run(clips, ModelChoice(model), start.out, editor="fake_editor", progress=False)

    start.out = tmp_path / "out"
    return start


def in_processes(ray, pending, pool, arguments):
    """As Ray does: a clip whose worker dies is given to the next one."""
    for clip in pending:
        while True:
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(writer, Worker(*arguments)({"row": batch_job.row_of(clip)})["row"].encode())
                os._exit(0)
            os.close(writer)
            with open(reader, encoding="utf-8") as answer:
                text = answer.read()
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
                yield json.loads(text)
                break


def why(job, index: int) -> dict:
    return json.loads((job.out / f"quarantine/clip_{index}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name, called", [("SIGSEGV", "Segmentation fault"), ("SIGABRT", "Aborted"), ("SIGBUS", "Bus error")])
def test_a_crash_is_called_so_and_where_it_happened(job, name, called):
    summary = job([f"crash {name}", "fine"])
    assert (summary.done, summary.quarantined) == (1, 1)
    told = why(job, 0)
    assert told["kind"] == "crashed" and told["attempt"] == 3
    assert (
        f"3 workers in turn were lost over this clip, by a crash in native code ({called} in fake_editor.py, line"
        in told["reason"]
    )
    assert "edit_file)" in told["reason"] and "most likely for want of memory" not in told["reason"]
    assert f"Fatal Python error: {called}" in told["traceback"]
    assert called in (job.out / "errors.log").read_text()


def test_a_killed_worker_is_still_taken_for_want_of_memory(job):
    job(["die", "fine"])
    assert why(job, 0)["kind"] == "killed" and "most likely for want of memory" in why(job, 0)["reason"]


def test_a_model_that_crashes_its_workers_stops_the_job(job):
    with pytest.raises(
        JobError, match=r"crashed in native code while they loaded the model \(Segmentation fault in fake_editor"
    ):
        job(["fine", "fine"], model="crash")
    assert not list((job.out / "quarantine").glob("*"))


def test_what_ends_well_leaves_no_note_and_faults_go_where_they_went(tmp_path):
    import faulthandler

    before = faulthandler.is_enabled()
    with noted(tmp_path):
        assert faulthandler.is_enabled()
    assert faulthandler.is_enabled() == before and crash_in([tmp_path, tmp_path / "missing"]) is None


@pytest.mark.parametrize(
    "note, name",
    [
        (
            'Fatal Python error: Segmentation fault\n\nThread 0x1 (most recent call first):\n  File "/a/b.py", line 3 in wait\n\n'
            'Current thread 0x2 [ray::map] (most recent call first):\n  File "/x/sound.py", line 80 in blocks\n',
            "Segmentation fault in sound.py, line 80, blocks",
        ),
        (
            'Windows fatal exception: access violation\n\nCurrent thread 0x2 (most recent call first):\n  File "C:\\x\\mp4.py", line 8 in f\n',
            "access violation in mp4.py, line 8, f",
        ),
        ("Fatal Python error: Aborted\n\nCurrent thread 0x2 (most recent call first):\n  <no Python frame>\n", "Aborted"),
        ("Fatal Python error: Bus er", "Bus er"),
    ],
)
def test_a_note_is_read(note, name):
    assert name_of(note) == name


@pytest.mark.long
def test_a_crash_in_a_worker_of_rays(job, monkeypatch):
    """Ray has handlers of its own for the signal, and a thread of its own for the work."""
    for part in ("connected", "pool_for"):
        monkeypatch.setattr(batch_job.cluster, part, REAL[part])
    monkeypatch.setattr(batch_job, "_stream", REAL["_stream"])
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))
    summary = job(["crash SIGSEGV"])
    assert summary.quarantined == 1 and "(Segmentation fault in fake_editor.py" in why(job, 0)["reason"]
