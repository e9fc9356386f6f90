"""Batch jobs on a real Ray: workers and whole jobs killed, broken clips, and each clip edited once."""

import argparse
import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch

pytest.importorskip("ray", reason="the batch extra is not installed")

from liveditor_isa.batch import cluster  # noqa: E402
from liveditor_isa.batch import job as batch_job  # noqa: E402
from liveditor_isa.batch.job import run  # noqa: E402
from liveditor_isa.batch.manifest import read_manifest  # noqa: E402
from liveditor_isa.batch.results import JobError, Results  # noqa: E402
from liveditor_isa.batch.worker import Worker, _is_the_disks  # noqa: E402
from liveditor_isa.command import add_command  # noqa: E402
from liveditor_isa.command import batch as command  # noqa: E402
from liveditor_isa.isa_core import ISAConfig  # noqa: E402
from liveditor_isa.pipelines.request import ModelChoice  # noqa: E402
from liveditor_isa.video.mp4 import write_mp4  # noqa: E402
from waiting import until  # noqa: E402

EDITOR = "fake_editor"
MARK = "LIVEDITOR_TEST_JOB"
"""In the environment of all processes that a job starts, by which they are found."""

SLOW_TO_GO = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's, which may take most of a minute to notice that the rest of a killed Ray is gone; they are not waited for."""

DRIVER = """
import sys
from liveditor_isa.batch.job import run
from liveditor_isa.batch.manifest import read_manifest
from liveditor_isa.batch.worker import Worker  # noqa: E402
from liveditor_isa.isa_core import ISAConfig  # noqa: E402
from liveditor_isa.pipelines.request import ModelChoice
manifest, out, workers, editor = sys.argv[1:]
run(read_manifest(manifest), ModelChoice(), out, workers=int(workers), editor=editor, progress=False)
"""


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory) -> Path:
    """Five frames of 32×32."""
    frames = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 32, 32, 3)
    return write_mp4(tmp_path_factory.mktemp("clip") / "clip.mp4", [frames], Fraction(10))


@pytest.fixture(autouse=True)
def workers_find_the_editor(monkeypatch, tmp_path):
    support = str(Path(__file__).parents[1] / "support")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([support, *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv(MARK, str(tmp_path))
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp", ignore_cleanup_errors=True) as short:  # Ray's sockets lie in it
        monkeypatch.setenv("TMPDIR", short)
        monkeypatch.setattr(tempfile, "tempdir", short)
        yield
        until(lambda: not processes(str(tmp_path)), "processes are left", 30, every=0.05)


def processes(mark: str) -> list[str]:
    """Command lines of what a job started, this process left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            if f"{MARK}={mark}".encode() not in environment or folder.name == str(os.getpid()):
                continue
            command = (folder / "cmdline").read_text().replace("\0", " ").strip()
            if command in SLOW_TO_GO and (folder / "stat").read_text().split()[3] == "1":
                os.kill(int(folder.name), signal.SIGKILL)
            elif command:
                found.append(command[:80])
        except OSError:
            pass
    return found


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


@pytest.mark.slow
@pytest.mark.parametrize("count, workers", [(10, 1), pytest.param(100, 2, marks=pytest.mark.long)])
def test_many_clips_with_everything_killed_on_the_way(clip_file, tmp_path, count, workers):
    """The whole job is killed at a third, a worker at two thirds, two clips are corrupt: all other outputs, each once."""
    prompts = [f"slowly {5 / count}"] * count  # so that the job is killed before it gets to the clip that kills its worker
    killed, corrupt, whole = count * 7 // 10, (count * 4 // 10, count * 9 // 10), count - 2
    prompts[killed] = f"die-once {tmp_path / 'killed'}"
    manifest = manifest_of(tmp_path / "clips", clip_file, prompts, corrupt=corrupt)
    out = tmp_path / "out"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(manifest), str(out), str(workers), EDITOR])
    try:
        enough = lambda: len(names(out, "records/*.json")) >= count // 3  # noqa: E731
        until(lambda: enough() or driver.poll() is not None, "the job does not get on", 300, every=0.05)
        assert enough(), f"the job ended with status {driver.returncode}"
        with pytest.raises(JobError, match=f"Another process is at this job .process {driver.pid} "):
            run(read_manifest(manifest), ModelChoice(), out, editor=EDITOR, progress=False)
    finally:
        driver.kill()
        driver.wait()
    # Ray's own processes notice and go; the restart does not wait for them.
    before = names(out, "records/*.json")
    first = edits(manifest)

    summary = run(read_manifest(manifest), ModelChoice(), out, workers=workers, editor=EDITOR, progress=False)

    good = {f"clip_{index:03}" for index in range(count)} - {f"clip_{index:03}" for index in corrupt}
    assert (summary.clips, summary.done, summary.quarantined, summary.pending) == (count, whole, 2, 0)
    assert names(out, "*.mp4") == names(out, "records/*.json") == good
    assert names(out, "quarantine/*.json") == {f"clip_{index:03}" for index in corrupt}
    assert (tmp_path / "killed").exists()
    again = json.loads((out / f"records/clip_{killed:03}.json").read_text())
    assert again["attempt"] == 2 and again["run"]["nice"] == os.nice(0)
    # What was done before is not done again; only what was at work when it was killed is begun twice.
    again = edits(manifest) - first
    assert not set(again) & before
    assert whole - len(before) - 2 <= summary.edited <= whole - len(before)
    assert all(count == (2 if name == f"clip_{killed:03}" else 1) for name, count in again.items())
    for name in good:
        with av.open(str(out / f"{name}.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == 5
    for index in corrupt:
        reason = json.loads((out / f"quarantine/clip_{index:03}.json").read_text())["reason"]
        assert reason.startswith("The video cannot be read")
    with open(out / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"clip_{index:03}" for index in range(count)]
    assert Counter(row["status"] for row in rows) == {"done": whole, "quarantined": 2}
    assert rows[0]["frames"] == "5" and rows[0]["backend"] == "none" and rows[corrupt[0]]["reason"]
    assert len(everything(out)) == whole + whole + 2 + len(["summary.json", "metrics.csv", "job.json", "lock"])

    finished = edits(manifest)
    assert run(read_manifest(manifest), ModelChoice(), out, workers=2, editor=EDITOR, progress=False).edited == 0
    assert edits(manifest) == finished


# What follows needs no Ray: the worker runs in this process.


@pytest.fixture
def job(clip_file, tmp_path, monkeypatch):
    """start(prompts) makes a manifest; the job's workers are one, here."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "support"))
    monkeypatch.setattr(batch_job.cluster, "connected", lambda address: nullcontext())
    monkeypatch.setattr(batch_job.cluster, "pool_for", lambda *_, **__: None)
    monkeypatch.setattr(batch_job, "_stream", in_this_process)

    def start(prompts, corrupt=()):
        manifest = manifest_of(tmp_path / "clips", clip_file, prompts, corrupt)
        return lambda choice=ModelChoice(), **options: run(
            read_manifest(manifest), choice, tmp_path / "out", editor=EDITOR, progress=False, **options
        )

    start.out = tmp_path / "out"
    start.manifest = tmp_path / "clips/clips.jsonl"
    return start


def in_this_process(ray, pending, pool, arguments):
    worker = Worker(*arguments)
    for clip in pending:
        yield json.loads(worker({"row": batch_job.row_of(clip)})["row"])


def reason_of(out: Path, name: str) -> str:
    return json.loads((out / f"quarantine/{name}.json").read_text())["reason"]


def attempts_that_died(clip: str, out: Path, count: int, file: str | None = None, text: str = ""):
    """As they are left in the folder of the run that is going."""
    (run_folder,) = (out / ".batch").glob("run-*")
    for number in range(1, count + 1):
        folder = run_folder / clip / str(number)
        folder.mkdir(parents=True)
        if file:
            (folder / file).write_text(text)


def test_a_clip_that_keeps_killing_its_worker_is_given_up(job, monkeypatch):
    def deaths_first(ray, pending, pool, arguments):
        attempts_that_died("clip_000", job.out, 3)
        attempts_that_died("clip_001", job.out, 3, "last-words", "CUDA error: an illegal memory access")
        attempts_that_died("clip_002", job.out, 2)
        return in_this_process(ray, pending, pool, arguments)

    monkeypatch.setattr(batch_job, "_stream", deaths_first)
    summary = job(["fine"] * 4)()
    assert (summary.done, summary.quarantined) == (2, 2)
    assert "3 workers in turn were killed over this clip" in reason_of(job.out, "clip_000")
    assert "died over this clip (CUDA error: an illegal memory access)" in reason_of(job.out, "clip_001")
    assert json.loads((job.out / "records/clip_002.json").read_text())["attempt"] == 3


def test_a_model_that_kills_its_workers_stops_the_job_and_no_clip_is_blamed(job, monkeypatch):
    def deaths_first(ray, pending, pool, arguments):
        attempts_that_died("clip_000", job.out, 3, "loading")
        return in_this_process(ray, pending, pool, arguments)

    monkeypatch.setattr(batch_job, "_stream", deaths_first)
    with pytest.raises(JobError, match="killed while they loaded the model"):
        job(["fine"] * 2)()
    assert not names(job.out, "quarantine/*")


def test_a_device_that_fails_ends_the_worker_and_leaves_its_words(job, monkeypatch):
    class Ended(BaseException):
        pass

    def end(status):
        (words,) = (job.out / ".batch").glob("run-*/clip_000/1/last-words")
        assert status == 1 and "illegal memory access" in words.read_text()
        raise Ended

    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended):
        job(["device"])()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "model", "sentence"),
    [
        (["fine", "full", "fine"], "tiny", "The disk is full: 0 MB are free"),
        (["fine"], "missing", "The model cannot be loaded: There is no model called missing."),
        (["fine", "broken", "broken", "broken", "fine"], "tiny", "3 clips in a row failed alike, the last with: KeyError"),
    ],
)
def test_what_would_fail_every_clip_stops_the_job(job, prompts, model, sentence):
    start = job(prompts)
    with pytest.raises(JobError, match=sentence):
        start(ModelChoice(model))
    assert not names(job.out, "quarantine/*")
    assert len(names(job.out, "*.mp4")) == len(names(job.out, "records/*")) == (1 if model == "tiny" else 0)
    summary = json.loads((job.out / "summary.json").read_text())
    assert summary["pending"] == len(prompts) - summary["done"]
    assert not list((job.out / ".batch").glob("*run-*"))
    if not summary["done"]:  # nothing keeps the name from being corrected
        assert start(ModelChoice()).done == len(prompts)


def test_a_full_disk_hides_no_sentence(job, monkeypatch):
    """Nor can the summary be written then."""

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Results, "write_summary", fail)
    with pytest.raises(JobError, match="The disk is full: 0 MB are free"):
        job(["full"])()


def test_the_folder_of_the_results_is_no_clips_fault(tmp_path):
    inside, outside = (
        OSError(errno.EACCES, "Permission denied", str(folder / "a.mp4")) for folder in (tmp_path / "out", tmp_path)
    )
    assert _is_the_disks(inside, tmp_path / "out") and not _is_the_disks(outside, tmp_path / "out")


def test_failures_that_differ_are_each_clips_own(job):
    summary = job(["broken", "broken", "fine", "broken", "fine"])()
    assert (summary.done, summary.quarantined) == (2, 3)
    assert "traceback" in json.loads((job.out / "quarantine/clip_000.json").read_text())


def test_a_worker_killed_between_video_and_record_leaves_one_of_each(job):
    start = job(["fine"])
    start()
    (job.out / "records/clip_000.json").unlink()
    assert start().edited == 1
    assert names(job.out, "*.mp4") == names(job.out, "records/*.json") == {"clip_000"}


def test_a_worker_of_an_earlier_run_can_finish_nothing(clip_file, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "support"))
    results = Results(tmp_path / "out")
    (clip,) = read_manifest(manifest_of(tmp_path / "clips", clip_file, ["fine"]))
    with results.claim({}):
        pass
    work = results.folder / ".batch/run-0"  # what a killed run leaves
    work.mkdir()
    worker = Worker(EDITOR, ModelChoice(), str(results.folder), str(work))
    folder, _ = worker._begin(clip.id)
    made = write_mp4(folder / "made.mp4", [torch.zeros(1, 32, 32, 3)], Fraction(10))
    with results.claim({}):
        with pytest.raises(FileNotFoundError):
            results.publish(clip.id, made, {}, folder)
        outcome = json.loads(worker({"row": batch_job.row_of(clip)})["row"])
    assert outcome["status"] == "stopped" and "taken over by another run" in outcome["reason"]
    assert everything(results.folder) == [".batch/job.json", ".batch/lock"]


@pytest.mark.slow
def test_quarantine_is_left_alone_until_asked_or_mended(job, clip_file):
    start = job(["fine"] * 3, corrupt=(0, 1))
    (job.manifest.parent / "clip_002.mp4").unlink()
    assert start().quarantined == 3
    assert reason_of(job.out, "clip_002").startswith("There is no file")
    begun = edits(job.manifest)
    assert start().quarantined == 3 and edits(job.manifest) == begun
    assert start(retry_quarantined=True).quarantined == 3 and edits(job.manifest)["clip_001"] == 2
    shutil.copy(clip_file, job.manifest.parent / "clip_001.mp4")
    shutil.copy(clip_file, job.manifest.parent / "clip_002.mp4")
    summary = start()
    assert (summary.done, summary.quarantined, edits(job.manifest)["clip_000"]) == (2, 1, 2)
    assert names(job.out, "quarantine/*") == {"clip_000"}


def test_a_changed_row_is_refused_and_redone_on_request(job):
    job(["fine"] * 2)()
    first = (job.out / "records/clip_001.json").read_text()
    start = job(["fine", "fine indeed"])
    with pytest.raises(JobError, match=r"clip_001 \(line 2\): edited already, but from another row"):
        start()
    assert (job.out / "records/clip_001.json").read_text() == first
    summary = start(redo_changed=True)
    assert (summary.edited, summary.done) == (1, 2)
    assert edits(job.manifest) == {"clip_000": 1, "clip_001": 2}
    assert names(job.out, "*.mp4") == {"clip_000", "clip_001"}


def test_a_manifest_may_grow_and_be_done_in_parts(job):
    assert job(["fine"] * 3)(limit=2).pending == 1
    summary = job(["fine"] * 5)(limit=2)
    assert (summary.done, summary.edited, summary.pending) == (4, 2, 1)
    assert set(edits(job.manifest).values()) == {1}


def test_clips_whose_videos_are_gone_stay_done(job):
    start = job(["fine"] * 2)
    start()
    (job.manifest.parent / "clip_000.mp4").unlink()
    assert start().done == 2


def test_another_jobs_folder_is_refused(job, tmp_path):
    start = job(["fine"])
    start()
    with pytest.raises(JobError, match="belongs to a job with other settings .isa keep_ratio 0.125, now 0.25"):
        start(ModelChoice(isa=ISAConfig(keep_ratio=0.25)))
    with pytest.raises(JobError, match="other settings .context_refresh 1.0, now 0.0, isa True, now False"):
        start(ModelChoice(isa=None))
    start(ModelChoice(device="cpu", offload="model"))  # the same job elsewhere
    start(ModelChoice(context_refresh=1))  # what the default is
    with pytest.raises(JobError, match="holds other files than a batch job's"):
        Results(job.manifest.parent).check({})
    with pytest.raises(JobError, match="is a file"):
        Results(job.manifest).check({})


def test_the_command_says_what_happened(job, capsys):
    job(["fine"] * 3, corrupt=(1,))
    parser = argparse.ArgumentParser(prog="liveditor batch")
    add_command("batch", parser)

    def execute(*arguments):
        outcome = command.run(parser.parse_args([str(job.manifest), "--out", str(job.out), *arguments]), EDITOR)
        return outcome.status, capsys.readouterr()

    status, said = execute("--dry-run")
    assert status == 1 and "3 clips: 3 to edit, 0 done" in said.out and not job.out.exists()
    assert "line 2, clip_001: The video cannot be read" in said.out and said.out.count("put in quarantine") == 1
    status, said = execute("--dry-run", "--lora", "no.safetensors")
    assert status == 2 and "There is no LoRA no.safetensors" in said.err
    status, said = execute()
    assert status == 1 and said.out.startswith(f"2 of 3 clips are in {job.out}, 2 of them edited now")
    assert "clip_001: The video cannot be read" in said.err
    status, said = execute("--no-isa")
    assert status == 2 and "belongs to a job with other settings" in said.err
    status, said = execute("--no-isa", "--keep-ratio", "0.2")
    assert status == 2 and "--keep-ratio is a setting of sparse attention, which --no-isa turns off" in said.err
    assert "clips.jsonl" in parser.format_help()


@pytest.mark.parametrize(
    ("nodes", "options", "expected"),
    [
        ([{"CPU": 8}], {}, (1, 8, 0)),
        ([{"CPU": 8}], {"workers": 3}, (3, 2, 0)),
        ([{"CPU": 8, "GPU": 2}], {}, (2, 4, 1)),
        ([{"CPU": 8, "GPU": 2}], {"gpus_per_worker": 0.5}, (4, 2, 0.5)),
        ([{"CPU": 8, "GPU": 2}], {"device": "cpu"}, (1, 8, 0)),
        ([{"CPU": 4}, {"CPU": 64, "GPU": 8}, {"CPU": 16, "GPU": 4}], {"is_local": False}, (10, 4, 1)),
        ([{"CPU": 4}], {"is_local": False, "workers": 6, "device": "cuda"}, (6, 1, 1)),
        ([{"CPU": 2}], {"workers": 3}, "Each worker takes a CPU core; there is room for 2, not for 3."),
        ([{"CPU": 8}], {"device": "cuda"}, "Each worker takes 1 of a GPU; there is room for 0, not for 1."),
        ([{"CPU": 8, "GPU": 2}], {"device": "cuda:1"}, "use CUDA_VISIBLE_DEVICES"),
    ],
)
def test_workers_take_what_the_machines_have(nodes, options, expected):
    """Of ten clips: how many workers, the CPU cores and GPUs of each."""
    ray = SimpleNamespace(
        nodes=lambda: [{"Alive": True, "Resources": node} for node in nodes] + [{"Alive": False, "Resources": {}}]
    )
    options = {"workers": None, "gpus_per_worker": 1.0, "is_local": True, "pending": 10, "device": "auto"} | options
    choice = ModelChoice(device=options.pop("device"))
    if isinstance(expected, str):
        with pytest.raises((JobError, ValueError), match=re.escape(expected)):
            cluster.pool_for(ray, choice, **options)
    else:
        pool = cluster.pool_for(ray, choice, **options)
        assert (pool.size, pool.cpus, pool.gpus) == expected


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_said_at_once():
    with pytest.raises(JobError, match="The Ray cluster at 127.0.0.1:1 cannot be reached"):
        with cluster.connected("127.0.0.1:1"):
            pass


def test_a_ray_that_does_not_start_is_said(monkeypatch):
    import ray

    def timed_out(**_):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", timed_out)
    with pytest.raises(JobError, match="Ray cannot start on this machine .The current node timed out during startup.: see"):
        with cluster.connected(None):
            pass
