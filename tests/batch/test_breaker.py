"""Which failures stop a batch job, and where their tracebacks are."""

import json
from contextlib import nullcontext

import pytest
import torch
from liveditor_isa.batch import job as batch_job
from liveditor_isa.batch.manifest import Clip
from liveditor_isa.batch.results import JobError
from liveditor_isa.batch.worker import Worker
from liveditor_isa.pipelines.request import Edit, ModelChoice
from liveditor_isa.runtime.finite import FiniteGuard

EDITOR = """
import json
import torch
from liveditor_isa.runtime.finite import require_finite
from liveditor_isa.video.source import FileSource


def load(choice):
    if choice.model == "missing":
        return {}["a part"]
    return "a model"


def edit_file(pipe, edit, output, progress=True):
    if edit.prompt == "overflow":
        require_finite(torch.full((2,), torch.inf), torch.nn.Linear(1, 1))
    if edit.prompt == "no video":
        FileSource(edit.video)
    if edit.prompt == "refused":
        raise ValueError("width and height must be multiples of 16.")
    if edit.prompt == "fault of a library":
        json.loads("{")
    if edit.prompt == "out of memory":
        torch.empty(10**15)
    open(output, "wb").close()
    return output, {}
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Runs a job of clips with these prompts in this process; start.attempts lists the clips it tried."""
    (tmp_path / "breaking_editor.py").write_text(EDITOR)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(batch_job.cluster, "connected", lambda address: nullcontext())
    monkeypatch.setattr(batch_job.cluster, "pool_for", lambda *_, **__: None)
    (tmp_path / "clip.mp4").write_bytes(b"not a video")

    def in_this_process(ray, pending, pool, arguments):
        worker = Worker(*arguments)
        for clip in pending:
            start.attempts.append(clip.id)
            yield json.loads(worker({"row": batch_job.row_of(clip)})["row"])

    monkeypatch.setattr(batch_job, "_stream", in_this_process)

    def start(prompts, model="tiny", **options):
        start.attempts = []
        edits = [Edit(str(tmp_path / "clip.mp4"), prompt) for prompt in prompts]
        clips = [Clip(f"clip_{index}", index + 1, edit, prompt) for index, (edit, prompt) in enumerate(zip(edits, prompts))]
        return batch_job.run(clips, ModelChoice(model), start.out, editor="breaking_editor", progress=False, **options)

    start.out = tmp_path / "out"
    return start


def test_a_model_that_overflows_stops_the_job_after_three_clips(start):
    """In fp16 it would at every clip, at full cost."""
    with pytest.raises(JobError, match="3 clips in a row failed alike.*not finite although its weights are.*errors.log"):
        start(["overflow"] * 10)
    assert len(start.attempts) == 3
    assert not list((start.out / "quarantine").iterdir()), "no clip is to blame"
    assert (start.out / "errors.log").read_text().count("in require_finite") == 3


@pytest.mark.slow
def test_bad_input_does_not_stop_it(start):
    summary = start(["no video", "refused"] * 4)
    assert (summary.quarantined, len(start.attempts)) == (8, 8)
    records = [json.loads(path.read_text()) for path in (start.out / "quarantine").iterdir()]
    assert {record["kind"] for record in records} == {"bad input"} and not any("traceback" in record for record in records)
    assert not (start.out / "errors.log").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("prompt", "place"), [("fault of a library", "in raw_decode"), ("out of memory", "torch.empty")])
def test_what_a_library_raises_is_no_bad_input_whatever_its_class(start, prompt, place):
    """json's error is a ValueError."""
    with pytest.raises(JobError, match="3 clips in a row failed alike"):
        start([prompt] * 5)
    assert len(start.attempts) == 3 and place in (start.out / "errors.log").read_text()


def test_the_traceback_of_one_that_failed_alone_is_in_its_record(start):
    summary = start(["overflow", "fine"])
    record = json.loads((start.out / "quarantine/clip_0.json").read_text())
    assert (summary.done, record["kind"]) == (1, "NotFiniteError") and "in require_finite" in record["traceback"]


def test_the_traceback_of_a_model_that_cannot_be_loaded_is_kept(start):
    with pytest.raises(JobError, match="The model cannot be loaded: KeyError: 'a part'"):
        start(["fine"], "missing")
    assert 'return {}["a part"]' in (start.out / "errors.log").read_text()


def test_every_result_that_is_not_finite_is_of_one_class():
    """In pipelines and nodes alike, so that the job, and a server's client, can tell it from bad input."""
    from liveditor_isa.comfyui.vae_decode import _check
    from liveditor_isa.errors import NotFiniteError
    from liveditor_isa.video.geometry import first_frames

    class VAE:
        latent_channels = 16

        def throw_exception_if_invalid(self):
            pass

    bad, network = torch.full((1, 16, 1, 2, 2), torch.nan), torch.nn.Linear(1, 1)
    broken = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(broken.weight, torch.nan)
    for call in (
        lambda: _check(VAE(), bad),
        lambda: list(first_frames([bad], 1, "use dtype fp32")),
        lambda: FiniteGuard().run(lambda again: bad, network, torch.ones(1)),
        lambda: FiniteGuard().run(lambda again: bad, network, bad),
        lambda: FiniteGuard().run(lambda again: bad, broken, torch.ones(1)),
    ):
        with pytest.raises(NotFiniteError):
            call()
