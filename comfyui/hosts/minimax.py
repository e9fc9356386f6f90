"""MiniMax H3: [text | keyframes or references | target sound | target video]. A video reference has its sound's tokens, then its own.

Text, sound and keyframes stay exact: they are few, and speech breaks without.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from ...isa_core import TokenLayout
from ...isa_core.exact_rows import rows_of
from ...runtime import decisions
from .keeping import Keeps, Spans
from .parts import Part, frames_of, grid_of, over_first

KINDS = {"text": "exact", "cond": "exact", "ref_img": "context", "ref_audio": "exact", "audio": "exact", "video": "target"}
"""Core's kinds of segments, and ISA's. Others stay exact."""


def layout(network, inputs: dict) -> TokenLayout | str:
    found = TokenLayout.of(
        *((KINDS.get(kind, "exact"), stop - start) for start, stop, kind in _packed(network, inputs).segments if stop > start)
    )
    return found if found.context else decisions.no_context("give the model a reference image or video")


def _packed(network, inputs: dict):
    """Core's PackedLayout of the call, as the network takes or makes it."""
    (video, sound), payload = inputs["x"], inputs.get("minimax_payload") or {}
    _, height, width = grid_of(video.shape, network.patch_size)
    signature = (inputs["context"].shape[1], video.shape[2], 2 * height, 2 * width, sound.shape[-1])
    found = payload.get("layout")
    if found is not None and found.signature == signature:
        return found
    packed = sys.modules[type(network).__module__].PackedLayout
    # A newer core has no `frame_count`, neither here nor there.
    return packed(*signature, **{name: payload[name] for name in ("keyframes", "refs", "frame_count") if name in payload})


def of_call(inputs: dict) -> list[torch.Tensor]:
    payload = inputs.get("minimax_payload") or {}
    return [*payload.get("cond_video_latents", ()), *payload.get("cond_audio_latents", ())]


def of_block(args: dict, spans: Spans) -> dict:
    """Positions, and which row of the modulation is whose, (start, stop, row) each."""
    found, at = [], 0
    for start, tokens in spans:
        parts = ((max(a, start), min(b, start + tokens), row) for a, b, row in args["mod_segments"])
        found += [(a - start + at, b - start + at, row) for a, b, row in parts if a < b]
        at += tokens
    return {"rope_freqs": rows_of(args["rope_freqs"], spans), "mod_segments": found}


def width(network) -> tuple[int, int]:
    attention = network.blocks[0].attn
    return attention.heads * attention.head_dim, attention.head_dim


KEEPS = Keeps(
    of_call,
    of_condition=lambda cond: [block["latent"] for block in cond.get("minimax_refs") or () if "latent" in block],
    patch=lambda network: network.patch_size,
    width=width,
    placed_by=lambda inputs: inputs["context"].shape[1],  # all positions are counted from the text's end
    of_block=of_block,
)


def parts(base, cond: dict, shapes: Sequence) -> list[Part]:
    latents = KEEPS.of_condition(cond)
    patch = base.diffusion_model.patch_size
    contexts = [Part(grid_of(latent.shape, patch), frames_of(latent, base.latent_format)) for latent in latents]
    return over_first(grid_of(shapes[0], patch), contexts) if contexts else []
