"""All parts of LIVEditor-tiny in turn, from nothing: `python -m liveditor_isa.training`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

from safetensors import SafetensorError

from ...data.procedural.footage import read_library
from ...data.procedural.stream import EditStream
from ...errors import sentence
from ...isa_core import ISAConfig
from ...runtime.core_attention import with_isa
from .. import processes
from ..run import run_until
from . import decoder, vae
from .adopt import adopt
from .clips import Sources, both
from .editor import EditorSettings, EditorTrainer, Phase
from .evaluate import by_task, scores
from .exports import EDITOR, ENCODER, open_export
from .latents import LatentPool
from .preview import edit, loss_plot, sheet
from .text import CONFIG, Tokenizer, with_filmed_words

SETTINGS = "config.json"
STAGE_ONE = "stage-one"
SMALL_CLIPS = ((5, 48, 64, 4),)
SMALL = (
    vae.VAESettings(dim=8, steps=30, clips=4, frames=5, size=32),
    decoder.DecoderSettings(steps=10, clips=4, frames=5, size=32),
    EditorSettings(
        dim=128, ffn_dim=256, blocks=2, warm_up=10,
        phases=(Phase(40, SMALL_CLIPS, (2e-3, 1e-3)), Phase(20, SMALL_CLIPS, (5e-4, 1e-4), ISAConfig(block_size=16))),
    ),
)  # fmt: skip
"""Settings of all parts with which they run from start to end in minutes on two cores of a CPU, and learn little."""

ADOPTED, ADOPTED_BATCHES = (9, 144, 208), 8
"""Frames, height and width of the clips by which an editor is turned to another VAE, and batches of them."""

CHECKPOINT, LOG, SCORES = "editor_checkpoint.pt", "editor_log.jsonl", "scores.json"


def train(
    folder: Path,
    minutes: float,
    device: str,
    vae_settings=None,
    decoder_settings=None,
    settings=None,
    sources: Sources = Sources(),
):
    """All runs in turn, within `minutes`. Raises Stopped where a signal came, ValueError for a folder of other sizes, or an edition that
    the editor cannot begin with."""
    end = time.monotonic() + 60 * minutes

    def left() -> float:
        return (end - time.monotonic()) / 60

    vae_settings, decoder_settings = vae_settings or vae.VAESettings(), decoder_settings or decoder.DecoderSettings()
    settings = settings or EditorSettings()
    if sources.edition and not any((folder / name).exists() for name in (CHECKPOINT, EDITOR)):
        check_edition(sources.edition, settings)  # the editor's turn comes behind the VAE's
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
        vae.train_vae(folder, minutes, device, vae_settings, sources)
        processes.wait()
    if (
        vae.is_finished(folder, vae_settings)
        and decoder.steps_done(folder / vae.EXPORT) < decoder_settings.steps
        and left() > 0
    ):
        decoder.train_decoder(folder, left(), device, decoder_settings, sources)
        processes.wait()
    if vae.is_finished(folder, vae_settings) and left() > 0:
        train_editor(folder, left(), device, settings, sources)


def train_editor(folder: Path, minutes: float, device: str, settings: EditorSettings, sources: Sources = Sources()):
    autoencoder = vae.load_export(folder / vae.EXPORT, device)
    library = read_library(sources.pictures).to(device)
    pools: dict[tuple, LatentPool] = {}

    def batches(step: int, size: tuple):
        if size not in pools:
            frames, height, width, edits = size
            # Drawing twice as many takes the CPU little longer.
            stream = EditStream(processes.own_seed(settings.seed), 2 * edits, frames, height, width, device, library=library)
            pools[size] = LatentPool(autoencoder, stream, tokenizer, edits)
        return pools[size].draw(step)

    trainer = EditorTrainer(settings, batches, device)
    if (folder / CHECKPOINT).exists():
        trainer.load(folder / CHECKPOINT)
    elif (folder / EDITOR).exists():
        trainer.load_export(folder / EDITOR, folder / ENCODER)
    elif sources.edition:
        begin_with(trainer, sources.edition, autoencoder)
    tokenizer = Tokenizer(trainer.vocabulary)
    end, stage_one, first = time.monotonic() + 60 * minutes, settings.full_attention_steps, processes.rank() == 0

    def run(steps: int):
        left = (end - time.monotonic()) / 60
        if trainer.done < steps and left > 0:
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
    loss_plot({name: file for name, file in logs.items() if file.exists()}, folder / "loss.png")
    if trainer.done >= settings.steps:
        judge(trainer, tokenizer, autoencoder, folder, end)


def check_edition(edition: Path, settings: EditorSettings):
    """Raises ValueError in one sentence where `begin_with` could not open the files, or they are of other sizes."""
    try:
        export = open_export(edition / EDITOR, edition / ENCODER)
        vae.load_export(edition / vae.EXPORT, "cpu")
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        files = ", ".join((EDITOR, ENCODER, vae.EXPORT))
        raise ValueError(
            f"--edition {edition} is not an earlier run's ({sentence(error).rstrip('.')}): it needs {files}."
        ) from None
    if (export.dim, export.ffn_dim, export.blocks) != (settings.dim, settings.ffn_dim, settings.blocks):
        raise ValueError(f"--edition {edition} has an editor of other sizes than these settings: name another.")


def begin_with(trainer: EditorTrainer, edition: Path, autoencoder):
    """The editor of an earlier edition, for latents of the VAE `autoencoder`, at the first step of its training."""
    trainer.load_export(edition / EDITOR, edition / ENCODER)
    trainer.done = trainer.started = 0
    trainer.vocabulary = with_filmed_words(trainer.vocabulary)
    stream = EditStream(trainer.settings.seed, 16, *ADOPTED, trainer.device)
    earlier = vae.load_export(edition / vae.EXPORT, trainer.device)
    adopt(trainer.network, earlier, autoencoder, (both(stream[number]) for number in range(ADOPTED_BATCHES)))
    # Two GPUs need not round alike.
    processes.share(trainer.weights)
    trainer.average_anew()


def judge(trainer: EditorTrainer, tokenizer: Tokenizer, autoencoder, folder: Path, end: float = float("inf")):
    """Scores and pictures of edits by the averaged weights, of the size trained last: with full attention, and with ISA too once
    that is trained. No scores once `end`, of time.monotonic, is over.
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
            if time.monotonic() > end:
                return
            output = edit(network, trainer.encoder, tokenizer, autoencoder, batch.source, batch.instructions)
            judged[name].append((batch, scores(batch, output)))
            if batch is judged[name][0][0]:
                sheet(batch, output, folder / f"edits-{name.split()[0].lower()}.png")
    result = {"steps": trainer.done, "size": size, **{name: by_task(batches) for name, batches in judged.items()}}
    (folder / SCORES).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
