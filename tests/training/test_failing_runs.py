"""What goes wrong in runs of `liveditor train`, in one sentence each, and what is asked for before a run begins."""

import errno
import os
import sys
from dataclasses import replace

import pytest
import torch
from liveditor_isa.training.editor import loop
from liveditor_isa.training.editor.advice import OutOfMemory
from liveditor_isa.training.editor.parallel import leave
from liveditor_isa.training.editor.start import is_new
from liveditor_isa.training.editor.trainer import Trainer
from safetensors.torch import load_file
from small_training import recipe, write_encoded, write_network
from torch.distributed.checkpoint import FileSystemWriter


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("network") / "liveditor.safetensors")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_encoded(tmp_path_factory.mktemp("pairs") / "shards")


def test_a_damaged_checkpoint_and_a_full_disk_are_sentences(network, pairs, tmp_path, monkeypatch):
    of, folder = recipe(network, pairs, "new", steps=1), tmp_path / "run/checkpoints/step-00000001"
    with monkeypatch.context() as patch:
        patch.setattr(FileSystemWriter, "write_data", full_disk)
        with pytest.raises(RuntimeError, match=r"step-00000001 cannot be written \(No space left on device\): make room"):
            loop.run(of, tmp_path / "run", "cpu", progress=False)
    loop.run(of, tmp_path / "run", "cpu", progress=False)
    shard = next(folder.glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(RuntimeError, match="step-00000001 cannot be read: delete it, and"):
        loop.run(of, tmp_path / "run", "cpu", progress=False)


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_half_precision_trains_on_a_cpu(network, pairs, tmp_path):
    of = recipe(network, pairs, "new", steps=1, stage={"rate": 1e-4})
    try:
        file = loop.run(replace(of, model=replace(of.model, dtype="bf16")), tmp_path / "run", "cpu", progress=False).file
    finally:
        leave()
    before, after = load_file(network), load_file(file)
    assert all(torch.equal(before[name].bfloat16(), after[name]) != is_new(name) for name in after)


def test_what_a_run_needs_later_is_asked_for_at_its_start(network, pairs, tmp_path, monkeypatch):
    clips = {"every": 1, "clips": [{"video": str(tmp_path / "gone.mp4"), "prompt": "Let it snow"}]}
    with pytest.raises(ValueError, match="no file .*gone.mp4"):
        loop.run(recipe(network, pairs, validation=clips), tmp_path / "run", "cpu", progress=False)
    for package, settings in (
        ("torchao", {"optimiser": {"eight_bit": True}}),
        ("tensorboard", {"operation": {"tensorboard": True}}),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(RuntimeError, match=f"^{package} .*: install it into this Python with pip install {package}"):
            loop.run(recipe(network, pairs, **settings), tmp_path / "run", "cpu", progress=False)
    assert not (tmp_path / "run").exists()


def test_out_of_memory_names_what_to_change(network, pairs, tmp_path, monkeypatch):
    def full(self):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes.")

    monkeypatch.setattr(Trainer, "step", full)
    with pytest.raises(
        OutOfMemory, match=r"take memory.offload_activations = true, more processes .*memory.offload_weights = true.*--plan"
    ):
        loop.run(recipe(network, pairs), tmp_path / "run", "cpu", progress=False)


def test_what_cannot_be_trained_is_a_sentence(network, pairs, tmp_path):
    with pytest.raises(ValueError, match="no block has a 'w'; there are .*ffn.0.*self_attn.q"):
        loop.run(recipe(network, pairs, "lora", lora={"targets": ["w"]}), tmp_path / "a", "cpu", progress=False)
    with pytest.raises(ValueError, match="cannot be read"):
        loop.run(recipe(network, tmp_path / "nowhere"), tmp_path / "b", "cpu", progress=False)
    with pytest.raises(ValueError, match="holds no pair"):
        (tmp_path / "empty").mkdir()
        loop.run(recipe(network, tmp_path / "empty"), tmp_path / "c", "cpu", progress=False)
    with pytest.raises(ValueError, match="encoded by another text encoder or VAE"):
        other = write_encoded(tmp_path / "other", text_width=64)
        loop.run(recipe(network, other), tmp_path / "d", "cpu", progress=False)
    with pytest.raises(ValueError, match="cannot be shared by 4 groups"):
        recipe(network, pairs).check_groups(4)
