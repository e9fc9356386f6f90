"""LTX, with sound or without: [target | guides] in the video's self-attention. Sound has an attention of its own, which stays full.

Guides are the last frames of the latent. Core leaves out tokens whose mask is negative, those between a half-size guide's say.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from ...isa_core import TokenLayout
from ...runtime import decisions
from ...runtime.finite import tensors_of
from .parts import Part


def layout(network, inputs: dict) -> TokenLayout | str:
    guides, entries = inputs.get("keyframe_idxs"), inputs.get("guide_attention_entries") or ()
    if guides is None or not guides.shape[2]:
        return decisions.no_context("add a guide with its IC-LoRA")
    if any(entry["strength"] != 1 or entry.get("pixel_mask") is not None for entry in entries):
        return decisions.GUIDES_MASKED
    counts = [entry["pre_filter_count"] for entry in entries] or [guides.shape[2]]
    if sum(counts) != guides.shape[2]:
        raise ValueError("entries of other guides: core itself says so")
    kept = ~torch.any(network.patchifier.patchify(inputs["denoise_mask"])[0] < 0, dim=-1)[0]
    of_guides = kept[-guides.shape[2] :].split(counts)
    video, *sound = tensors_of(inputs["x"])
    # The lengths of all segments are read back from the device at once.
    target, *contexts = torch.stack([part.sum() for part in (kept[: -guides.shape[2]], *of_guides)]).tolist()
    if not target or not sum(contexts):
        return decisions.no_context("add a guide with its IC-LoRA")
    found = TokenLayout.of(("target", target), *(("context", tokens) for tokens in contexts if tokens))
    reference = inputs.get("ref_audio")
    others = [each.shape[2] + (reference["tokens"].shape[1] if reference else 0) for each in sound] + [
        inputs["context"].shape[1]
    ]
    return decisions.other_as_long(found.total) if found.total in others else found


def blocks(network) -> list[tuple[str, int]]:
    return [("double_block", number) for number in range(len(network.transformer_blocks))]


def parts(base, cond: dict, shapes: Sequence) -> list[Part]:
    """Without frames: a conditioning does not hold the guides, which are in the latent."""
    entries = [entry for entry in cond.get("guide_attention_entries") or () if entry.get("latent_shape")]
    frames, height, width = shapes[0][2:]
    guides = sum(entry["pre_filter_count"] for entry in entries) // (height * width)
    contexts = [Part(tuple(entry["latent_shape"])) for entry in entries if prod(entry["latent_shape"])]
    return [Part((frames - guides, height, width)), *contexts] if contexts and frames > guides else []
