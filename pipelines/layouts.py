"""Positions of target and context in the sequence of diffusers' transformers, from the arguments of their forward call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import torch

from ..isa_core import TokenLayout


@dataclass(frozen=True)
class Arguments:
    """How a kind of transformer takes its tokens, by the arguments of its forward call, {name: value}.

    layout: the token groups, where the text counts as the target's.
    target_alone: the arguments without context, from them and the number of the target's image tokens; None where a call has
        more that goes with the context.
    positions: the module that computes the tokens' positions, where those of text and target depend on the context.
    text_mask: the argument that hides tokens of the text.
    """

    layout: Callable[[dict], TokenLayout]
    target_alone: Callable[[dict, int], dict | None]
    positions: str | None = None
    text_mask: str | None = None


def flux_layout(arguments: dict) -> TokenLayout:
    """FLUX Kontext: [text | target | images]; the first coordinate of a token's id counts the images."""
    numbers = arguments["img_ids"].reshape(-1, arguments["img_ids"].shape[-1])[:, 0]
    target, *context = torch.unique_consecutive(numbers, return_counts=True)[1].tolist()
    return TokenLayout(arguments["encoder_hidden_states"].shape[1] + target, tuple(context))


def flux_alone(arguments: dict, target: int) -> dict | None:
    if _is_controlled(arguments):
        return None
    return {
        **arguments,
        "hidden_states": arguments["hidden_states"][:, :target],
        "img_ids": arguments["img_ids"][..., :target, :],
    }


def qwen_layout(arguments: dict) -> TokenLayout:
    """Qwen-Image-Edit: [text | target | images]; the sizes are given for each image of the batch, and are all alike."""
    target, *context = map(prod, _sizes(arguments["img_shapes"][0]))
    return TokenLayout(arguments["encoder_hidden_states"].shape[1] + target, tuple(context))


def qwen_alone(arguments: dict, target: int) -> dict | None:
    if _is_controlled(arguments):
        return None
    return {
        **arguments,
        "hidden_states": arguments["hidden_states"][:, :target],
        "img_shapes": [_sizes(sizes)[:1] for sizes in arguments["img_shapes"]],
    }


def _sizes(sizes) -> list[tuple[int, int, int]]:
    """Of one item of a batch, which may be given as one size."""
    return sizes if isinstance(sizes, list) else [sizes]


def _is_controlled(arguments: dict) -> bool:
    return any(arguments.get(f"controlnet_{kind}_samples") is not None for kind in ("block", "single_block"))


KNOWN: dict[str, Arguments] = {
    "FluxTransformer2DModel": Arguments(flux_layout, flux_alone),
    # Its text stands behind the largest image, which may be one of the context's.
    "QwenImageTransformer2DModel": Arguments(qwen_layout, qwen_alone, "pos_embed", "encoder_hidden_states_mask"),
}
"""By the transformer's class."""


def arguments_of(transformer) -> Arguments:
    """Raises ValueError for a transformer of another kind."""
    kind = type(transformer).__name__
    if kind not in KNOWN:
        raise ValueError(
            f"attach_isa does not know where {kind} keeps its context: pass layout=, a TokenLayout or a function that "
            f"makes one of the forward call's arguments. Known: {', '.join(KNOWN)}, LIVEditorTransformer3DModel."
        )
    found = KNOWN[kind]
    # Qwen-Image-Layered makes several pictures, of which the layout knows one.
    return replace(found, target_alone=_unknown) if getattr(transformer.config, "use_layer3d_rope", False) else found


def _unknown(arguments: dict, target: int) -> None:
    return None
