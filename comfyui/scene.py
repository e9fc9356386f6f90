"""The token groups of a sampling run: their grids, and the frames under their heat maps."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import comfy.model_management
import torch

from ..runtime.in_context import CONTEXT_LATENTS
from .native_context import token_grid

FRAMES = "liveditor_isa_frames"
"""Conditioning key beside `context_latents`: for every context its frames, [T, h, w, 3] uint8, one per latent frame."""


@dataclass(frozen=True)
class Part:
    """A token group: the target, or one context.

    grid: tokens over time, height and width, in raster order. frames: [T, h, w, 3] uint8, or None.
    """

    grid: tuple[int, int, int]
    frames: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        return prod(self.grid)


def scene(guider, noise: torch.Tensor) -> list[Part]:
    """The token groups that `guider` (core's CFGGuider, before it samples) will sample: the target, then the contexts.

    Nothing without context, or where no single video is denoised. The target is drawn over the first context: an edit
    has its source's shape.
    """
    network, latent_format = (getattr(guider.model_patcher.model, name) for name in ("diffusion_model", "latent_format"))
    groups = (getattr(guider, "conds", None) or {}).values()
    cond = next((cond for conds in groups for cond in conds or () if CONTEXT_LATENTS in cond), {})
    latents = cond.get(CONTEXT_LATENTS)
    videos = [noise, *latents] if isinstance(latents, list) and latents else []
    if not videos or not hasattr(network, "patch_size") or any(latent.ndim != 5 for latent in videos):
        return []
    frames = cond.get(FRAMES) or [_frames_of(latent, latent_format) for latent in latents]
    target, *grids = (token_grid(latent, network.patch_size) for latent in videos)
    contexts = [Part(grid, shown) for grid, shown in zip(grids, frames)]
    return [Part(target, contexts[0].frames if contexts[0].grid == target else None), *contexts]


def _frames_of(latent: torch.Tensor, latent_format) -> torch.Tensor | None:
    """[1, C, T, h, w] -> [T, h, w, 3] as core's own preview of a latent shows it."""
    if latent_format.latent_rgb_factors is None:
        return None
    latent = latent_format.process_in(latent[:1].float().cpu())[0]
    factors = torch.tensor(latent_format.latent_rgb_factors)
    bias = torch.tensor(latent_format.latent_rgb_factors_bias or [0.0, 0.0, 0.0])
    colours = torch.einsum("cthw,cd->thwd", latent, factors) + bias
    return ((colours + 1) * 127.5).clamp(0, 255).to(torch.uint8)


def shown_frames(frames: torch.Tensor, height: int = 160) -> torch.Tensor:
    """[4n+1, H, W, 3] in 0..1 -> [n+1, h, w, 3] uint8 of at most that height: one for each latent frame."""
    every = frames[::4].movedim(-1, 1)
    scale = min(1.0, height / every.shape[2])
    size = [max(1, round(side * scale)) for side in every.shape[2:]]
    small = torch.cat([torch.nn.functional.interpolate(frame[None].float(), size, mode="area") for frame in every])
    return (small * 255).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).to(comfy.model_management.intermediate_device())
