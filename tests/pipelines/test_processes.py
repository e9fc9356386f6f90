"""Job schedulers set some of torchrun's variables: only all of them make a process one of several."""

import os

import pytest
import torch
from liveditor_isa.command import main
from liveditor_isa.pipelines import parallel
from liveditor_isa.runtime import torchrun as torchrun_of
from liveditor_isa.training import processes
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

TORCHRUN = {
    "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip

SCHEDULERS = {
    "RANK alone": {"RANK": "1"},
    "a script for SLURM": {"RANK": "1", "WORLD_SIZE": "8", "LOCAL_RANK": "1"},
    "an address too": {"RANK": "1", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "node-0"},
    "empty ones": {**dict.fromkeys(TORCHRUN, ""), "RANK": "1"},
}


@pytest.fixture(params=SCHEDULERS)
def scheduler(request, monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in SCHEDULERS[request.param].items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def torchrun(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)


def test_a_process_of_a_scheduler_works_alone(scheduler, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert torchrun_of.is_first() and parallel.check_processes() == 1
    assert parallel.local_device() == torch.device("cuda", 0)
    assert processes.join("cpu") == "cpu" and processes.count() == 1


def test_the_command_writes_its_video_there(monkeypatch, sample_video, tmp_path, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    out = tmp_path / "out.mp4"
    small = ["--size", "64x48", "--frames", "1", "--steps", "1", "--device", "cpu", "--no-isa"]
    assert main(["edit", str(sample_video), "Let it snow", "--out", str(out), *small]) == 0
    assert out.exists() and str(out) in capsys.readouterr().out
    assert "RANK" in os.environ


def test_a_process_of_torchrun_is_one_of_several(torchrun, monkeypatch):
    """GPUs are counted on one machine, and so are the processes that need one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert parallel.check_processes() == 4 and not torchrun_of.is_first()
    assert parallel.local_device() == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="torchrun started 4 processes here, but there are 2 GPUs"):
        parallel.check_processes()


def test_torchrun_ends_with_the_sentence(torchrun, monkeypatch, tmp_path, capsys):
    """The first process alone prints it; all of them tell torchrun, whose summary comes last."""
    for rank in "0", "1":
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / rank))
        assert main(["edit", "missing.mp4", "Let it snow", "--json"]) == 2
        told, shown = "There is no file missing.mp4: check the name.", capsys.readouterr()
        assert shown.err == (f"liveditor edit: {told}\n" if rank == "0" else "") and bool(shown.out) == (rank == "0")
        summary = ChildFailedError("liveditor_isa", {0: ProcessFailure(0, 1, 2, str(tmp_path / rank))}).format_msg()
        assert f"traceback : {told}" in summary
