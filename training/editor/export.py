"""The result of a training in one file that ComfyUI and diffusers open: weights or a LoRA in safetensors, under ComfyUI's names."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from safetensors.torch import save_file

from ...checkpoint.convert import require_space
from ...checkpoint.files import replacing
from ...checkpoint.keys import core_metadata
from ...checkpoint.lora import ALPHA, DOWN, UP
from ...pipelines.checkpoint import diffusers_names
from .. import processes
from .parallel import whole
from .settings import LORA
from .start import ADAPTER
from .trainer import Trainer

log = logging.getLogger(__name__)

WEIGHTS, ADDITIONS = "liveditor.safetensors", "lora.safetensors"

COMFYUIS = "diffusion_model."
"""What ComfyUI puts before the names of a network's layers in LoRA files."""

STORED = torch.bfloat16


def export(trainer: Trainer, out: Path) -> Path:
    """Writes the averaged weights, or the last where nothing is averaged, in bf16. All processes call this; the first one writes.

    The first process needs room for all of them in main memory. Raises OSError for a full disk.
    """
    lora = trainer.recipe.model.trains == LORA
    path = out / (ADDITIONS if lora else WEIGHTS)
    first = processes.rank() == 0
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in _lora(trainer) if lora else _weights(trainer):
        gathered = whole(weight.detach()).to("cpu", STORED).contiguous()
        if first:
            tensors[name] = gathered
    if not first:
        return path
    metadata = {"format": "pt", "steps": str(trainer.done)}
    if lora:
        settings = trainer.recipe.lora
        layers = [name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN)]
        tensors |= {f"{layer}{ALPHA}": torch.tensor(float(settings.alpha or settings.rank)) for layer in layers}
    else:
        metadata |= core_metadata({name: tuple(weight.shape) for name, weight in tensors.items()})
    require_space(out, sum(weight.nbytes for weight in tensors.values()))
    with replacing(path) as partial:
        save_file(tensors, partial, metadata)
    return path


def _weights(trainer: Trainer):
    """Official names and weights of the whole network."""
    written, network = trainer.written, dict(trainer.network.named_parameters())
    return ((official, written.get(own, network[own])) for official, own in diffusers_names(network).items())


def _lora(trainer: Trainer):
    plain = [name.replace(".base_layer.", ".") for name, _ in trainer.network.named_parameters() if ".lora_" not in name]
    for official, own in diffusers_names(plain).items():
        layer = own.removesuffix(".weight")
        for part, ending in (("lora_A", DOWN), ("lora_B", UP)):
            if (weight := trainer.written.get(f"{layer}.{part}.{ADAPTER}.weight")) is not None:
                yield f"{COMFYUIS}{official.removesuffix('.weight')}.{ending}", weight
