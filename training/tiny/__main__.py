"""Trains LIVEditor-tiny from nothing: its VAE, the VAE's decoder, then its text encoder and its network together.

    python -m liveditor_isa.training --out FOLDER [--minutes 60]
    torchrun --nproc-per-node 2 -m liveditor_isa.training --out FOLDER        # on two GPUs

Needs ComfyUI on the Python path, and a GPU. Stopped, by --minutes or otherwise, the same command goes on where it was; from
the exported files alone it goes on too, with an optimiser that starts anew. FOLDER gets the three files that Load LIVEditor
takes, logs, a loss plot, and pictures and scores of edits of clips that were never shown; its folder stage-one gets the
network and text encoder as they were before ISA came in, to compare with.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from ...comfyui.startup import use_cpu_without_gpu

if __name__ == "__main__":  # before core's modules are imported
    use_cpu_without_gpu()

from ...data.procedural.stream import EditStream  # noqa: E402
from ...runtime.core_attention import with_isa  # noqa: E402
from .. import processes  # noqa: E402
from ..run import run_until  # noqa: E402
from . import decoder, vae  # noqa: E402
from .editor import EditorSettings, EditorTrainer  # noqa: E402
from .evaluate import by_task, scores  # noqa: E402
from .exports import EDITOR, ENCODER  # noqa: E402
from .latents import LatentPool  # noqa: E402
from .preview import edit, loss_plot, sheet  # noqa: E402
from .text import CONFIG, Tokenizer  # noqa: E402

SETTINGS = "config.json"
STAGE_ONE = "stage-one"
CHECKPOINT, LOG, SCORES = "editor_checkpoint.pt", "editor_log.jsonl", "scores.json"


def train(folder: Path, minutes: float, device: str, vae_settings=None, decoder_settings=None, settings=None):
    """All runs in turn, within `minutes`; see the module's docstring."""
    end = time.monotonic() + 60 * minutes

    def left() -> float:
        return (end - time.monotonic()) / 60

    vae_settings, decoder_settings = vae_settings or vae.VAESettings(), decoder_settings or decoder.DecoderSettings()
    settings = settings or EditorSettings()
    if not processes.rank():
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "vae": asdict(vae_settings),
            "decoder": asdict(decoder_settings),
            "editor": asdict(settings),
            "text_encoder": CONFIG,
            "processes": processes.count(),
        }
        (folder / SETTINGS).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if not vae.is_finished(folder, vae_settings):
        vae.train_vae(folder, minutes, device, vae_settings)
        processes.wait()
    if (
        vae.is_finished(folder, vae_settings)
        and decoder.steps_done(folder / vae.EXPORT) < decoder_settings.steps
        and left() > 0
    ):
        decoder.train_decoder(folder, left(), device, decoder_settings)
        processes.wait()
    if vae.is_finished(folder, vae_settings) and left() > 0:
        train_editor(folder, left(), device, settings)


def train_editor(folder: Path, minutes: float, device: str, settings: EditorSettings):
    autoencoder = vae.load_export(folder / vae.EXPORT, device)
    pools: dict[tuple, LatentPool] = {}

    def batches(step: int, size: tuple):
        if size not in pools:
            frames, height, width, edits = size
            # Drawing twice as many takes the CPU little longer.
            stream = EditStream(processes.own_seed(settings.seed), 2 * edits, frames, height, width, device)
            pools[size] = LatentPool(autoencoder, stream, tokenizer, edits)
        return pools[size].draw(step)

    trainer = EditorTrainer(settings, batches, device)
    if (folder / CHECKPOINT).exists():
        trainer.load(folder / CHECKPOINT)
    elif (folder / EDITOR).exists():
        trainer.load_export(folder / EDITOR, folder / ENCODER)
    tokenizer = Tokenizer(trainer.vocabulary)
    end, stage_one, first = time.monotonic() + 60 * minutes, settings.full_attention_steps, processes.rank() == 0

    def run(steps: int):
        left = (end - time.monotonic()) / 60
        run_until(trainer, "editor", folder / CHECKPOINT, folder / LOG, left, steps)

    if trainer.done < stage_one:
        run(stage_one)
        if first and trainer.done == stage_one:
            (folder / STAGE_ONE).mkdir(exist_ok=True)
            trainer.export(folder / STAGE_ONE / EDITOR, folder / STAGE_ONE / ENCODER)
    if trainer.done >= stage_one:
        run(settings.steps)
    if not first:
        return
    trainer.export(folder / EDITOR, folder / ENCODER)
    logs = {"VAE": folder / vae.LOG, "its decoder": folder / decoder.LOG, "editor": folder / LOG}
    loss_plot(logs, folder / "loss.png")
    judge(trainer, tokenizer, autoencoder, folder)


def judge(trainer: EditorTrainer, tokenizer: Tokenizer, autoencoder, folder: Path):
    """Scores and pictures of edits by the averaged weights, of the size trained last: with full attention, and with ISA too once
    that is trained.
    """
    trainer.use_average()
    phase, _ = trainer.settings.phase_at(max(0, trainer.done - 1))
    size = phase.sizes[0][:3]
    networks = {"full attention": trainer.network}
    if phase.isa:
        networks["ISA"] = partial(trainer.network, transformer_options=with_isa(phase.isa))
    unseen = EditStream(trainer.settings.seed, 28, *size, trainer.device, split="held-out")
    judged = {name: [] for name in networks}
    for batch in (unseen[0], unseen[1]):
        for name, network in networks.items():
            output = edit(network, trainer.encoder, tokenizer, autoencoder, batch.source, batch.instructions)
            judged[name].append((batch, scores(batch, output)))
            if batch is judged[name][0][0]:
                sheet(batch, output, folder / f"edits-{name.split()[0].lower()}.png")
    result = {"steps": trainer.done, "size": size, **{name: by_task(batches) for name, batches in judged.items()}}
    (folder / SCORES).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


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
