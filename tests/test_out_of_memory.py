"""Where memory runs out, nobody is told that a file is damaged: errors.is_out_of_memory, and every place that asks it."""

import errno
import importlib
import pickle

import av
import comfy.cli_args
import comfy.sd
import pytest
import torch
from liveditor_isa import errors
from liveditor_isa.checkpoint import opening, pickles
from liveditor_isa.checkpoint.keys import CheckpointError
from liveditor_isa.comfyui import loaders
from liveditor_isa.comfyui.architecture import register
from liveditor_isa.optional import needed
from liveditor_isa.pipelines import folders, text_encoder
from liveditor_isa.video import source
from make_tiny_model import ENCODER, MODEL, VAE


def cpu_allocator():
    try:
        torch.empty(10**15)
    except RuntimeError as error:
        return error


MEMORY_RAN_OUT = {
    "Python": MemoryError(),
    "torch, GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "torch, CPU": cpu_allocator(),
    "torch, Windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4000000 bytes."),
    "a mapped file": RuntimeError("unable to mmap 9000000 bytes from file </a.bin>: Cannot allocate memory (12)"),
    "the system": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "ffmpeg": av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory"),
}

OTHER = (
    RuntimeError("shape mismatch"),
    ValueError("The clip ran out of memory of its past"),
    OSError(errno.ENOSPC, "No space left on device"),
    KeyError("out of memory"),
)


@pytest.fixture(params=MEMORY_RAN_OUT)
def ran_out(request):
    return MEMORY_RAN_OUT[request.param]


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


def test_memory_is_known_by_its_errors_and_nothing_else_is(ran_out):
    assert errors.is_out_of_memory(ran_out)
    assert not any(map(errors.is_out_of_memory, OTHER))
    assert errors.sentence(MemoryError()).startswith("Out of memory (no memory is left): ask for fewer frames")


def test_what_a_library_raises_over_it_counts_too(ran_out):
    with pytest.raises(OSError) as caught:
        try:
            raise ran_out
        except BaseException:
            raise OSError("Unable to load weights from checkpoint file")  # noqa: B904  as diffusers does
    assert errors.is_out_of_memory(caught.value)
    with pytest.raises(ValueError) as caught:
        try:
            raise ran_out
        except BaseException:
            raise ValueError("a sentence of its own") from None
    assert not errors.is_out_of_memory(caught.value)


def came_through(call, ran_out):
    """Whether `call` ends in the very error, and in no sentence about a file."""
    with pytest.raises(type(ran_out)) as caught:
        call()
    assert caught.value is ran_out and not isinstance(caught.value, CheckpointError)


def test_a_pickle_is_not_called_damaged(models, monkeypatch, ran_out):
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", failing(ran_out))
        came_through(lambda: opening.open_checkpoint(models / MODEL), ran_out)
    monkeypatch.setattr(pickles.pickletools, "genops", failing(ran_out))
    came_through(lambda: opening.open_checkpoint(models / MODEL), ran_out)


def test_a_damaged_pickle_still_is(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(CheckpointError, match="no torch checkpoint"):
        opening.open_checkpoint(tmp_path / "a.bin")


@pytest.mark.parametrize("part", ["diffusion model", "text encoder", "VAE"])
def test_comfyuis_loaders_do_not_blame_the_file(models, monkeypatch, ran_out, part):
    load, name, inner = {
        "diffusion model": (loaders.load_diffusion_model, MODEL, "load_diffusion_model_state_dict"),
        "text encoder": (loaders.load_text_encoder, ENCODER, "CLIP"),
        "VAE": (loaders.load_vae, VAE, "VAE"),
    }[part]
    monkeypatch.setattr(comfy.sd, inner, failing(ran_out))
    options = {"convert": False} if part == "diffusion model" else {}
    came_through(lambda: load(str(models / name), **options), ran_out)


def test_diffusers_folders_and_text_encoder_do_not(models, tmp_path, monkeypatch, ran_out):
    def read():
        with folders.said_of(tmp_path, "VAE"):
            raise ran_out

    came_through(read, ran_out)
    monkeypatch.setattr(text_encoder, "_tokenizer", failing(ran_out))
    came_through(lambda: text_encoder.load_text_encoder(models / ENCODER), ran_out)


def test_a_video_is_not_called_unreadable(monkeypatch, ran_out):
    monkeypatch.setattr(source.av, "open", failing(ran_out))
    came_through(lambda: source.FileSource(b"video"), ran_out)


def test_a_package_is_not_called_broken(monkeypatch, ran_out):
    monkeypatch.setattr(importlib, "import_module", failing(ran_out))
    came_through(lambda: needed("package", "package"), ran_out)


def test_a_model_that_core_cannot_build_is_not_the_files_fault(models, monkeypatch):
    """Its names and shapes were looked at before."""
    register()
    with monkeypatch.context() as patch:
        patch.setattr(comfy.cli_args.args, "force_channels_last", True)
        with pytest.raises(RuntimeError, match="start ComfyUI without it") as caught:
            loaders.load_diffusion_model(str(models / MODEL), convert=False)
    assert "--force-channels-last" in str(caught.value) and "download" not in str(caught.value)
    monkeypatch.setattr(comfy.sd, "load_diffusion_model_state_dict", failing(TypeError("an argument too many")))
    with pytest.raises(RuntimeError, match="an argument too many.*the file itself is whole"):
        loaders.load_diffusion_model(str(models / MODEL), convert=False)
