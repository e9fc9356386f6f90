"""Orders of tokens in which a block is a compact tile of the video instead of a piece of its rows."""

from __future__ import annotations

from functools import lru_cache

import torch

from ..layout import TokenLayout

TILE = (4, 4, 4)
"""Tokens of a compact tile in time, height and width: one block of 64."""


@lru_cache
def tile_order(
    grid: tuple[int, int, int], layout: TokenLayout, device: torch.device, tile: tuple[int, int, int] = TILE
) -> torch.Tensor:
    """[S] raster token numbers, tile after tile within each group: `x[:, order]`, and back by `[:, order.argsort()]`.

    grid: patches of every group in time, height and width. RoPE is in q and k by then, so their order is free.
    Tiles at the far edges are as small as the grid leaves them.
    """
    places = torch.meshgrid(*(torch.arange(size, device=device) for size in grid), indexing="ij")
    tiles = [-(-size // side) for size, side in zip(grid, tile)]
    number = torch.zeros((), dtype=torch.long, device=device)
    for place, side, count in zip(places, tile, tiles):
        number = number * count + place // side
    within = number.flatten().argsort(stable=True)
    starts = torch.arange(0, layout.total, len(within), device=device)
    return (starts[:, None] + within).flatten()
