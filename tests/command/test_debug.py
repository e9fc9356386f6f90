"""`liveditor --debug`: the traceback of an error, which is a sentence otherwise and goes to the log."""

import logging

import pytest
import torch
from liveditor_isa.command import convert, main

MISSING = ["convert", "missing.bin", "out.safetensors"]


@pytest.mark.parametrize("arguments", [["--debug", *MISSING], [*MISSING, "--debug"]])
def test_debug_lets_the_error_through(arguments):
    with pytest.raises(FileNotFoundError):
        main(arguments)


def test_debug_reaches_batch_too(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        main(["--debug", "batch", str(tmp_path / "missing.jsonl"), "--out", str(tmp_path / "out")])


def test_without_it_a_sentence_is_printed_and_the_traceback_logged(capsys, caplog):
    with caplog.at_level(logging.INFO):
        assert main(MISSING) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info[0] is FileNotFoundError and record.exc_info[2] is not None


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")])
def test_out_of_memory_says_what_to_do(monkeypatch, capsys, error):
    def fail(options):
        raise error

    monkeypatch.setattr(convert, "run", fail)
    assert main(MISSING) == 2
    assert capsys.readouterr().err.startswith("liveditor convert: Out of memory (")


def test_a_fault_of_the_device_keeps_its_traceback(monkeypatch):
    class AcceleratorError(RuntimeError):
        pass

    def fail(options):
        raise AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(convert, "run", fail)
    with pytest.raises(AcceleratorError):
        main(MISSING)
