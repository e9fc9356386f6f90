"""Training leaves core's own switches alone: ComfyUI's nodes may run in the same process."""

import os
import subprocess
import sys
from pathlib import Path

import comfy.model_management
import pytest
import torch
from liveditor_isa.data.procedural.stream import EditStream
from liveditor_isa.training.tiny import text, vae
from liveditor_isa.training.tiny.editor import EditorSettings, EditorTrainer, Phase
from liveditor_isa.training.tiny.latents import LatentPool

IMPORT = """
from comfy_headless import import_comfy

import_comfy()
import comfy.model_management  # with the CPU, as it was told
import torch
from comfy.cli_args import args

args.cpu, torch.cuda.is_available = False, lambda: False
import liveditor_isa.training.tiny.whole_run  # and so all of its modules

assert args.cpu is False
"""

SIZE = (5, 48, 64, 2)


def run(*command: str, path: Path):
    paths = os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_importing_training_does_not_tell_core_where_to_run():
    run("-c", IMPORT, path=Path(__file__).parents[2] / "scripts")


def test_core_believes_that_it_trains_only_while_it_does():
    """Its rotary embedding has no gradient otherwise."""
    settings = EditorSettings(dim=128, ffn_dim=128, blocks=1, phases=(Phase(1, (SIZE,), (1e-3, 1e-3)),))
    frames, height, width, edits = SIZE
    stream, tokenizer = EditStream(0, edits, frames, height, width), text.Tokenizer(text.vocabulary())
    pool = LatentPool(vae.new_network(8).eval(), stream, tokenizer, edits, batches=1, every=1)
    seen = []

    def batches(step, size):
        return pool.draw(step)

    trainer = EditorTrainer(settings, batches, "cpu")
    trainer.network.blocks[0].register_forward_hook(lambda *_: seen.append(comfy.model_management.in_training))
    weights = dict(trainer.network.named_parameters())
    torch.nn.init.normal_(weights["head.head.weight"], std=0.02)  # at its 0 of the start nothing else has a gradient
    assert not comfy.model_management.in_training
    trainer.step()
    assert seen == [True] and not comfy.model_management.in_training
    query = weights["blocks.0.self_attn.q.weight"]
    assert torch.isfinite(query.grad).all() and query.grad.any()


@pytest.mark.slow
def test_exported_files_are_opened_in_one_place(tmp_path):
    """For going on, and for looking: the same weights, the same words."""
    from liveditor_isa.training.tiny.editor import load_networks
    from liveditor_isa.training.tiny.exports import EDITOR, ENCODER

    settings = EditorSettings(dim=128, ffn_dim=256, blocks=2)
    trainer = EditorTrainer(settings, lambda *_: None, "cpu")
    trainer.done = 7
    trainer.export(tmp_path / EDITOR, tmp_path / ENCODER)
    network, encoder, tokenizer = load_networks(tmp_path / EDITOR, tmp_path / ENCODER, "cpu")
    again = EditorTrainer(settings, lambda *_: None, "cpu")
    again.load_export(tmp_path / EDITOR, tmp_path / ENCODER)
    assert again.done == again.started == 7 and again.vocabulary == trainer.vocabulary
    loaded = [*network.parameters(), *encoder.parameters()]
    assert all(map(torch.equal, loaded, again.weights)) and not any(weight.requires_grad for weight in loaded)
    assert torch.equal(tokenizer(["Let it snow"]), text.Tokenizer(trainer.vocabulary)(["Let it snow"]))
