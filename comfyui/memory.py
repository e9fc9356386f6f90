"""Memory for the context of core's own in-context Wan (Bernini), which core's estimates leave out (ComfyUI issue 14672)."""

from __future__ import annotations

from math import ceil, prod

import comfy.patcher_extension

from ..runtime.in_context import CONTEXT_LATENTS

COUNTED = "memory_usage_factor_conds"
"""Attribute of core's models: the conditions whose size counts when core forms a batch."""

TAKEN = 0.52
"""Memory of a step of core's in-context Wan as a share of core's estimate for as many tokens, with a small margin."""


def count_context(clone):
    """Have ModelPatcher `clone` count its context, unless its model does so already."""
    counted = clone.get_model_object(COUNTED)
    if CONTEXT_LATENTS not in counted:
        clone.add_object_patch(COUNTED, (*counted, CONTEXT_LATENTS))
        clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, "liveditor_isa", around_prepare)


def around_prepare(executor, model, noise_shape, conds, *args, **kwargs):
    """PREPARE_SAMPLING: reserve memory for the context too, before weights get the rest."""
    return executor(model, with_context(noise_shape, conds), conds, *args, **kwargs)


def with_context(noise_shape, conds: dict[str, list[dict]]) -> list[int]:
    """Shape [B, C, T, h, w] of a latent without context that core would set as much memory aside for as noise and the
    largest context of `conds` take together."""
    contexts = (cond.get(CONTEXT_LATENTS) or () for each in conds.values() for cond in each or ())
    largest = max((sum(prod(latent.shape[2:]) for latent in latents) for latents in contexts), default=0)
    batch, channels, frames, *sides = noise_shape
    if largest:
        frames = ceil(TAKEN * (frames + largest / prod(sides)))
    return [batch, channels, frames, *sides]
