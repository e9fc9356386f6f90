"""The token groups of a sampling run: their grids, and the frames under their heat maps."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.model_management
import torch

from .hosts import BERNINI, host_of, parts_of
from .hosts.bernini import FRAMES
from .hosts.parts import Part

__all__ = ["FRAMES", "Part", "scene", "shown_frames"]


def scene(guider, noise: torch.Tensor, shapes: Sequence | None = None) -> list[Part]:
    """The token groups that `guider` (core's CFGGuider, before it samples) will sample: the targets, then the contexts.

    Nothing without context, or where no single video is denoised. shapes: of the latents that core packed into `noise`.
    """
    base = guider.model_patcher.model
    host = host_of(base.diffusion_model) or BERNINI
    groups = (getattr(guider, "conds", None) or {}).values()
    shapes = [noise.shape] if shapes is None else shapes
    found = (parts_of(host, base, cond, shapes) for conds in groups for cond in conds or ())
    return next(filter(None, found), [])


def shown_frames(frames: torch.Tensor, height: int = 160) -> torch.Tensor:
    """[4n+1, H, W, 3] in 0..1 -> [n+1, h, w, 3] uint8 of at most that height: one for each latent frame."""
    every = frames[::4].movedim(-1, 1)
    scale = min(1.0, height / every.shape[2])
    size = [max(1, round(side * scale)) for side in every.shape[2:]]
    small = torch.cat([torch.nn.functional.interpolate(frame[None].float(), size, mode="area") for frame in every])
    return (small * 255).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).to(comfy.model_management.intermediate_device())
