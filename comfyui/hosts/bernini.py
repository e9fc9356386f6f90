"""Core's own in-context Wan, Bernini: [target | video to edit | references], every item of `context_latents` in its turn."""

from __future__ import annotations

from collections.abc import Sequence

from comfy.ldm.wan.model import WanModel

from ...isa_core import TokenLayout
from ...runtime import decisions
from ...runtime.in_context import CONTEXT_LATENTS
from .keeping import Keeps
from .parts import Part, frames_of, grid_of, tokens_of

FRAMES = "liveditor_isa_frames"
"""Conditioning key beside `context_latents`: for every context its frames, [T, h, w, 3] uint8, one per latent frame."""


KEEPS = Keeps(
    of_call=lambda inputs: inputs.get(CONTEXT_LATENTS) or [],
    of_condition=lambda cond: cond.get(CONTEXT_LATENTS) or [],
    patch=lambda network: network.patch_size,
    width=lambda network: (network.dim, network.dim // network.num_heads),
    left_out=CONTEXT_LATENTS,
)
"""Of LIVEditor's own network too."""


def serves(network) -> bool:
    """Wan variants with a forward pass of their own (VACE, camera, ...) append other tokens and are left alone."""
    kind = type(network)
    return isinstance(network, WanModel) and kind.forward_orig is WanModel.forward_orig and kind.forward is WanModel.forward


def layout(network, inputs: dict) -> TokenLayout | str:
    return native_layout(
        network, inputs["x"], inputs["context"], **{k: v for k, v in inputs.items() if k not in ("x", "context")}
    )


def parts(base, cond: dict, shapes: Sequence) -> list[Part]:
    """As of LIVEditor, which has its own network."""
    network, latents = base.diffusion_model, cond.get(CONTEXT_LATENTS)
    videos = (
        [*shapes, *(latent.shape for latent in latents)] if isinstance(latents, list) and latents and len(shapes) == 1 else []
    )
    if not videos or not hasattr(network, "patch_size") or any(len(shape) != 5 for shape in videos):
        return []
    frames = cond.get(FRAMES) or [frames_of(latent, base.latent_format) for latent in latents]
    target, *grids = (grid_of(shape, network.patch_size) for shape in videos)
    contexts = [Part(grid, shown) for grid, shown in zip(grids, frames)]
    return [Part(target, contexts[0].frames if contexts[0].grid == target else None), *contexts]


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
    target, *context = (tokens_of(latent, network.patch_size) for latent in (x, *context_latents))
    layout = TokenLayout(target, tuple(context))
    return decisions.text_as_long(layout.total) if text is not None and layout.total == text.shape[1] else layout
