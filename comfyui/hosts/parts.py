"""Grids of token groups, and the frames under their heat maps."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

import torch


@dataclass(frozen=True)
class Part:
    """A token group: a target, or one context.

    grid: tokens over time, height and width, in raster order. frames: [T, h, w, 3] uint8, or None.
    """

    grid: tuple[int, int, int]
    frames: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        return prod(self.grid)


def grid_of(shape, patch_size) -> tuple[int, ...]:
    """Tokens over time, height and width of a latent of `shape` [B, C, T, h, w], or [B, C, h, w], once padded to whole patches."""
    sides = [1] * (5 - len(shape)) + [*shape[2:]]
    return tuple(ceil(side / patch) for side, patch in zip(sides, patch_size))


def tokens_of(latent: torch.Tensor, patch_size) -> int:
    """Of a latent [B, C, T, h, w] or [B, C, h, w]."""
    return prod(grid_of(latent.shape, patch_size))


def over_first(target: tuple[int, int, int], contexts: list[Part]) -> list[Part]:
    """The target and its contexts. It is drawn over the first of the same number of frames: an edit has its source's shape."""
    under = next((part.frames for part in contexts if part.frames is not None and part.grid[0] == target[0]), None)
    return [Part(target, under), *contexts]


def frames_of(latent: torch.Tensor, latent_format) -> torch.Tensor | None:
    """[1, C, T, h, w] or [1, C, h, w] -> [T, h, w, 3] as core's own preview of a latent shows it."""
    if latent_format.latent_rgb_factors is None:
        return None
    latent = latent if latent.ndim == 5 else latent[:, :, None]
    latent = latent_format.process_in(latent[:1].float().cpu())[0]
    factors = torch.tensor(latent_format.latent_rgb_factors)
    bias = torch.tensor(latent_format.latent_rgb_factors_bias or [0.0, 0.0, 0.0])
    if len(factors) != len(latent):
        return None
    colours = torch.einsum("cthw,cd->thwd", latent, factors) + bias
    return ((colours + 1) * 127.5).clamp(0, 255).to(torch.uint8)
