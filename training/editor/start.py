"""The network that a run starts with, and which of its weights are trained."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import init_empty_weights

from ...checkpoint.included import path_of
from ...checkpoint.keys import MEMORY, CheckpointError, check_keys, is_dead_weight
from ...checkpoint.opening import Checkpoint, open_checkpoint
from ...checkpoint.scaled import Unscaled
from ...optional import needed
from ...pipelines import EXTRA
from ...pipelines.checkpoint import configuration, diffusers_names
from ...pipelines.request import ModelChoice
from ...pipelines.transformer import LIVEditorTransformer3DModel
from .settings import FULL, LORA, Lora, Model

log = logging.getLogger(__name__)

ADAPTER = "default"
"""peft's name for the only one."""


def file_of(model: Model) -> Path:
    """The network's file or folder."""
    return Path(path_of("diffusion_model") if model.start == ModelChoice.model else model.start)


def opened(model: Model) -> tuple[Checkpoint, bool]:
    """The checked checkpoint, and whether it is plain Wan's, which lacks what LIVEditor adds. Raises CheckpointError, or OSError where there is none."""
    checkpoint = Unscaled(open_checkpoint(file_of(model)))
    shapes = {name: shape for name, shape in checkpoint.shapes.items() if not is_dead_weight(name)}
    plain = "head.modulation" in shapes and f"{MEMORY}.weight" not in shapes
    if plain:
        if shapes.get("patch_embedding.weight", (0, 16))[1] != 16:
            raise CheckpointError(
                f"{checkpoint.path.name} is Wan's image-to-video model: start from text-to-video's high-noise one."
            )
        shapes |= added_shapes(shapes)
    check_keys(shapes)
    if plain and model.trains == LORA:
        raise CheckpointError(
            f"{checkpoint.path.name} is plain Wan: what LIVEditor adds to it has to be trained first, and is no part of a LoRA. "
            'Set model.trains to "new" or "full".'
        )
    return checkpoint, plain


def added_shapes(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Of the weights that LIVEditor adds to a Wan of `shapes`, by official names."""
    embedding = {
        f"{MEMORY}.{part}": shapes[f"patch_embedding.{part}"]
        for part in ("weight", "bias")
        if f"patch_embedding.{part}" in shapes
    }
    blocks = {match[1] for name in shapes if (match := re.match(r"(blocks\.\d+)\.self_attn\.q\.weight$", name))}
    return embedding | {f"{block}.self_attn.alpha_1.weight": (1, shapes["head.modulation"][-1]) for block in blocks}


def is_new(name: str) -> bool:
    """Whether a weight, by diffusers' or official name, is one that LIVEditor adds to Wan."""
    return name.startswith(MEMORY) or ".alpha_1." in name


def load(model: Model, dtype: torch.dtype) -> LIVEditorTransformer3DModel:
    """Weights stay mapped to the file until they are used, where their type does not change.

    dtype: of weights that are not trained, but for those that Wan keeps in fp32. Trained ones keep the file's until `trainable` is asked.
    Of plain Wan, the second patch embedding starts as a copy of the first, and the gates are closed: the coarse residual begins at nothing.
    """
    checkpoint, plain = opened(model)
    for note in checkpoint.notes:
        log.info(note)
    with init_empty_weights():
        network = LIVEditorTransformer3DModel(**configuration(checkpoint))
    weights = {}
    for official, name in diffusers_names(network).items():
        if plain and is_new(official):
            source = official.replace(MEMORY, "patch_embedding")
            weight = (
                checkpoint.tensor(source).clone()
                if source in checkpoint.shapes
                else torch.zeros(added_shapes(checkpoint.shapes)[official])
            )
        else:
            weight = checkpoint.tensor(official)
        weights[name] = weight if model.trains == FULL else weight.to(kept_in(name, dtype))
    network.load_state_dict(weights, assign=True)
    if plain:
        log.info("%s is plain Wan: the second patch embedding and the gates are new", checkpoint.path.name)
    return network.train()


def kept_in(name: str, dtype: torch.dtype) -> torch.dtype:
    """The type of a weight that is not trained."""
    return (
        torch.float32 if any(part in name.split(".") for part in LIVEditorTransformer3DModel._keep_in_fp32_modules) else dtype
    )


def choose_trained(network: LIVEditorTransformer3DModel, model: Model, lora: Lora, seed: int) -> None:
    """Marks the weights that are trained, and adds a LoRA's. They stay in their types.

    Raises ValueError for a LoRA's target that the network has not.
    """
    network.requires_grad_(False)
    if model.trains == FULL:
        network.requires_grad_(True)
    elif model.trains == LORA:
        add_lora(network, lora, seed)
    else:
        for name, weight in network.named_parameters():
            weight.requires_grad_(is_new(name))


def add_lora(network: LIVEditorTransformer3DModel, lora: Lora, seed: int) -> None:
    """Raises ValueError for a target that the network has not."""
    peft = needed("peft", "peft", EXTRA)
    layers = targets(network, lora)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the same on all processes
        network.add_adapter(peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha or lora.rank, target_modules=layers), ADAPTER)
    for name, weight in network.named_parameters():
        if ".lora_" in name:
            weight.data = weight.data.float()


def targets(network: torch.nn.Module, lora: Lora) -> list[str]:
    """Names of the linear layers that get a LoRA."""
    official = {name.removesuffix(".weight"): own.removesuffix(".weight") for name, own in diffusers_names(network).items()}
    linear = {
        name: own for name, own in official.items()
        if name.startswith("blocks.") and isinstance(_module(network, own), torch.nn.Linear)
    }  # fmt: skip
    found = []
    for target in lora.targets:
        layers = [own for name, own in linear.items() if name.endswith(f".{target}")]
        if not layers:
            known = sorted({re.sub(r"^blocks\.\d+\.", "", name) for name in linear})
            raise ValueError(f"lora.targets: no block has a {target!r}; there are {', '.join(known)}.")
        found += layers
    return sorted({*found})


def _module(network: torch.nn.Module, name: str) -> torch.nn.Module | None:
    try:
        return network.get_submodule(name)
    except AttributeError:
        return None


def trained(network: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Names and weights that are trained, in order."""
    return ((name, weight) for name, weight in network.named_parameters() if weight.requires_grad)
