"""Memory that core's estimates leave out: of the context of its own in-context Wan (Bernini; ComfyUI issue 14672), and of
contexts that are kept for reuse.

Core's estimate is proportional to a latent's size. So what else is needed is told to it as a longer latent.
"""

from __future__ import annotations

from contextlib import contextmanager
from math import ceil, prod

import comfy.model_management
import comfy.sampler_helpers

from ..runtime.in_context import CONTEXT_LATENTS, InContextNetwork
from ..runtime.kept_context import GPU, LEFT_FREE, MAIN_MEMORY, ONE, Keeping
from . import windows
from .hosts import contexts_of, keeps_of, number_of_blocks
from .hosts.parts import tokens_of

COUNTED = "memory_usage_factor_conds"
"""Attribute of core's models: the conditions whose size counts when core forms a batch."""

TAKEN = 0.52
"""Memory of a step of core's in-context Wan as a share of core's estimate for as many tokens, with a small margin."""


def count_context(clone):
    """Have ModelPatcher `clone` count its context, unless its model does so already."""
    counted = clone.get_model_object(COUNTED)
    if CONTEXT_LATENTS not in counted:
        clone.add_object_patch(COUNTED, (*counted, CONTEXT_LATENTS))


@contextmanager
def shape_to_estimate(patcher, noise_shape, conds: dict[str, list[dict]], model_options: dict | None, keeping: Keeping | None):
    """Yields the shape of a latent for which core estimates the memory of a run. Meanwhile `conds` hold what one step holds.

    noise_shape: [B, C, T, h, w], of pictures [B, C, h, w]. keeping: of contexts for reuse, None without it.
    """
    kept = kept_bytes(patcher, noise_shape[0], conds, keeping) if keeping else 0  # also of what windows leave out
    with windows.cut(conds, (model_options or {}).get("context_handler")):
        if not isinstance(patcher.model.diffusion_model, InContextNetwork):
            noise_shape = with_context(noise_shape, conds)
        yield with_kept(patcher, noise_shape, conds, kept, keeping) if keeping else noise_shape


def with_context(noise_shape, conds: dict[str, list[dict]]) -> list[int]:
    """Shape [B, C, T, h, w] of a latent without context that core would set as much memory aside for as noise and the
    largest context of `conds` take together."""
    contexts = (cond.get(CONTEXT_LATENTS) or () for each in conds.values() for cond in each or ())
    largest = max((sum(prod(latent.shape[2:]) for latent in latents) for latents in contexts), default=0)
    batch, channels, frames, *sides = noise_shape
    if largest:
        frames = ceil(TAKEN * (frames + largest / prod(sides)))
    return [batch, channels, frames, *sides]


def with_kept(patcher, noise_shape, conds: dict[str, list[dict]], needed: int, keeping: Keeping) -> list[int]:
    """Shape of a latent for which core would set `needed` bytes of kept contexts aside too, if they belong on the GPU: by choice,
    or because they fit beside the weights and a step."""
    base = patcher.model
    batch, channels, frames, *sides = noise_shape
    total = comfy.model_management.get_total_memory(patcher.load_device)
    beside = patcher.model_size() + comfy.sampler_helpers.estimate_memory(patcher, noise_shape, conds)[0]
    if keeping.device == MAIN_MEMORY or (keeping.device != GPU and beside + needed > (1 - LEFT_FREE) * total):
        return list(noise_shape)
    # Core estimates for both passes of guidance, and for one what weights must leave free: that counts where not all fit.
    passes = 1 if keeping.device == GPU else 2
    of_a_frame = base.memory_required([passes * batch, channels, 1, *sides])
    return [batch, channels, frames + ceil(needed / of_a_frame), *sides]


def kept_bytes(patcher, batch: int, conds: dict[str, list[dict]], keeping: Keeping) -> int:
    """Memory of the contexts of a run: each of its conditions keeps its own, or one keeps it for all. batch: of the noise.

    Windows that overlap keep more, a guidance of 1 less.
    """
    network = patcher.model.diffusion_model
    if (keeps := keeps_of(network)) is None:
        return 0
    contexts = [contexts_of(keeps, network, cond) for entries in conds.values() for cond in entries or ()]
    if keeping.copies == ONE:
        contexts = [max(contexts, key=lambda latents: sum(latent.numel() for latent in latents), default=[])]
    tokens = sum(tokens_of(latent, keeps.patch(network)) for latents in contexts for latent in latents)
    width, of_head = keeps.width(network)
    numbers = 2 * number_of_blocks(network) * batch * tokens * width
    element_size = comfy.model_management.dtype_size(patcher.model.get_dtype_inference())
    return sum(keeping.sizes_of(numbers, element_size, of_head))
