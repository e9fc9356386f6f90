"""Positions of target and context in the sequence of diffusers' transformers, from the arguments of their forward call."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch

from ..isa_core import TokenLayout


def flux_layout(arguments: dict) -> TokenLayout:
    """FLUX Kontext: [text | target | images]; the first coordinate of a token's id counts the images."""
    numbers = arguments["img_ids"].reshape(-1, arguments["img_ids"].shape[-1])[:, 0]
    target, *context = torch.unique_consecutive(numbers, return_counts=True)[1].tolist()
    return TokenLayout(arguments["encoder_hidden_states"].shape[1] + target, tuple(context))


def qwen_layout(arguments: dict) -> TokenLayout:
    """Qwen-Image-Edit: [text | target | images]; the sizes are given for each image of the batch, and are all alike."""
    sizes = arguments["img_shapes"][0]
    target, *context = [prod(size) for size in (sizes if isinstance(sizes, list) else [sizes])]
    return TokenLayout(arguments["encoder_hidden_states"].shape[1] + target, tuple(context))


READERS: dict[str, Callable[[dict], TokenLayout]] = {
    "FluxTransformer2DModel": flux_layout,
    "QwenImageTransformer2DModel": qwen_layout,
}
"""Layout functions by the transformer's class."""


def layout_reader(transformer) -> Callable[[dict], TokenLayout]:
    """Raises ValueError for a transformer of another kind."""
    kind = type(transformer).__name__
    if kind not in READERS:
        raise ValueError(
            f"attach_isa does not know where {kind} keeps its context: pass layout=, a TokenLayout or a function that "
            f"makes one of the forward call's arguments. Known: {', '.join(READERS)}, LIVEditorTransformer3DModel."
        )
    return READERS[kind]
