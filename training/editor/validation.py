"""Edits by the pipeline that users run, with the weights as they are now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ...pipelines.edit import edit_file, pipeline_of
from .parallel import local
from .trainer import Trainer


def validate(trainer: Trainer, out: Path, on_step: Callable[[int, int], None]) -> list[Path]:
    """Writes the recipe's validation clips into `out`/step-…, and returns them. All processes call this; the first one writes.

    on_step: of `edit_file`. Raises what an edit raises.
    """
    spread, network = trainer.spread, trainer.network
    pipe = pipeline_of(trainer.recipe.model.choice, spread.dtype, network)
    pipe.text_encoder.to(spread.device)
    pipe.vae.to(spread.device)
    folder, made = out / f"step-{trainer.done:08}", []
    folder.mkdir(parents=True, exist_ok=True)
    network.eval()
    try:
        with _averaged(trainer), _in_type(network, spread.dtype):
            for number, edit in enumerate(trainer.recipe.validation.edits):
                path = folder / f"{number}.mp4"
                path.unlink(missing_ok=True)
                made.append(edit_file(pipe, edit, path, progress=False, on_step=on_step)[0])
    finally:
        network.train()
    return made


@contextmanager
@torch.no_grad()
def _averaged(trainer: Trainer) -> Iterator[None]:
    """The averaged weights in the network, for as long."""
    if trainer.averaged is None:
        yield
        return
    pairs = [(local(weight.detach()), local(averaged)) for weight, averaged in zip(trainer.weights, trainer.averaged)]

    def swap():
        for weight, averaged in pairs:
            before = weight.clone()
            weight.copy_(averaged)
            averaged.copy_(before)

    swap()
    try:
        yield
    finally:
        swap()


@contextmanager
def _in_type(network, dtype: torch.dtype) -> Iterator[None]:
    """The network takes latents and texts of any type: sharded weights tell the pipeline the type that they are kept in."""

    def cast(_, args, kwargs):
        latents, time, text, context = args
        return (latents.to(dtype), time, text.to(dtype), [latent.to(dtype) for latent in context]), kwargs

    hook = network.register_forward_pre_hook(cast, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
