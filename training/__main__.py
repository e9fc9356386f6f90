"""Trains LIVEditor-tiny from nothing: its VAE, then its text encoder and its network together.

    python -m liveditor_isa.training --out FOLDER [--minutes 60]
    torchrun --nproc-per-node 2 -m liveditor_isa.training --out FOLDER        # on two GPUs

Needs ComfyUI on the Python path, and a GPU. Stopped, by --minutes or otherwise, the same command goes on where it was; from
the exported files alone it goes on too, with an optimiser that starts anew. FOLDER gets the three files that Load LIVEditor
takes, logs, a loss plot, and pictures and scores of edits of clips that were never shown.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from . import processes, vae  # vae first: tells core whether there is a GPU
from .editor import EditorSettings, EditorTrainer
from .evaluate import by_task, scores
from .latents import LatentPool
from .preview import edit, loss_plot, sheet
from .run import run_until
from .stream import EditStream
from .text import CONFIG, Tokenizer

SETTINGS = "config.json"
EDITOR, ENCODER = "liveditor_tiny.safetensors", "umt5_tiny.safetensors"
CHECKPOINT, LOG, SCORES = "editor_checkpoint.pt", "editor_log.jsonl", "scores.json"


def train(folder: Path, minutes: float, device: str, vae_settings=None, settings=None):
    """Both runs in turn, within `minutes`; see the module's words."""
    start = time.monotonic()
    vae_settings, settings = vae_settings or vae.VAESettings(), settings or EditorSettings()
    if not processes.rank():
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "vae": asdict(vae_settings),
            "editor": asdict(settings),
            "text_encoder": CONFIG,
            "processes": processes.count(),
        }
        (folder / SETTINGS).write_text(json.dumps(config, indent=2) + "\n")
    if not vae.is_finished(folder, vae_settings):
        vae.train_vae(folder, minutes, device, vae_settings)
        processes.wait()
    left = minutes - (time.monotonic() - start) / 60
    if vae.is_finished(folder, vae_settings) and left > 0:
        train_editor(folder, left, device, settings)


def train_editor(folder: Path, minutes: float, device: str, settings: EditorSettings):
    autoencoder = vae.load_export(folder / vae.EXPORT, device)
    pools: dict[tuple, LatentPool] = {}

    def batches(step: int, size: tuple):
        if size not in pools:
            frames, height, width, edits = size
            # Drawing twice as many takes the CPU hardly longer.
            stream = EditStream(processes.own_seed(settings.seed), 2 * edits, frames, height, width, device)
            pools[size] = LatentPool(autoencoder, stream, tokenizer, edits)
        return pools[size].draw(step)

    trainer = EditorTrainer(settings, batches, device)
    if (folder / CHECKPOINT).exists():
        trainer.load(folder / CHECKPOINT)
    elif (folder / EDITOR).exists():
        trainer.load_export(folder / EDITOR, folder / ENCODER)
    tokenizer = Tokenizer(trainer.vocabulary)
    run_until(trainer, "editor", folder / CHECKPOINT, folder / LOG, minutes)
    if processes.rank():
        return
    trainer.export(folder / EDITOR, folder / ENCODER)
    loss_plot({"VAE": folder / vae.LOG, "editor": folder / LOG}, folder / "loss.png")
    trainer.use_average()
    unseen = EditStream(settings.seed, 28, *settings.phases[0].sizes[0][:3], device, split="held-out")
    found = []
    for batch in (unseen[0], unseen[1], unseen[2]):
        output = edit(trainer.network, trainer.encoder, tokenizer, autoencoder, batch.source, batch.instructions)
        found.append((batch, scores(batch, output)))
        if len(found) == 1:
            sheet(batch, output, folder / "edits.png")
    (folder / SCORES).write_text(json.dumps({"steps": trainer.done, **by_task(found)}, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--minutes", type=float, default=60, help="stop after this long")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    train(options.out, options.minutes, processes.join(options.device))
    processes.leave()


if __name__ == "__main__":
    main()
