"""The token layout of core's own in-context Wan (Bernini's `context_latents`), which core does not publish."""

from __future__ import annotations

from math import ceil, prod

from ..isa_core import TokenLayout
from ..runtime import decisions
from ..runtime.in_context import CONTEXT_LATENTS


def token_grid(latent, patch_size) -> tuple[int, ...]:
    """Tokens over time, height and width of a latent [B, C, T, h, w] once padded to whole patches."""
    return tuple(ceil(size / patch) for size, patch in zip(latent.shape[2:], patch_size))


def native_layout(network, x, text, **inputs) -> TokenLayout | str:
    """Layout of a WanModel call with inputs `x` [B, C, T, h, w] and `text` [B, L, C]; a sentence with the reason where ISA cannot act.

    That is without context, with inputs that add tokens of another kind, and when the text is as long as the
    sequence: then cross-attention could not be told from self-attention.
    """
    if inputs.get("reference_latent") is not None:
        return decisions.REFERENCE_LATENT
    if not (context_latents := inputs.get(CONTEXT_LATENTS)):
        return decisions.no_context()
    if inputs.get("time_dim_concat") is not None:
        return decisions.added_frames("time_dim_concat")
    target, *context = (prod(token_grid(latent, network.patch_size)) for latent in (x, *context_latents))
    layout = TokenLayout(target, tuple(context))
    return decisions.text_as_long(layout.total) if text is not None and layout.total == text.shape[1] else layout
