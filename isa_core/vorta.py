"""VORTA (arXiv 2505.18809): every head attends in full, over a coreset of tokens, or within a sliding window of tiles.

A router that sees the noise level alone chooses the expert. Its authors trained routers for text to video, where there is one
token group. Here coresets are formed within each group, and a window covers the same place in all of them. Without routers
the choice is the caller's, and untrained.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
import torch.nn.functional as F

from .attend import DenseAttention, dense_attention
from .attention import in_context_sparse_attention
from .layout import TokenLayout
from .plan import RoutingMasks
from .policies.tiles import TILE, tile_order

EXPERTS = FULL, CORESET, SLIDING = range(3)
Grid = tuple[int, int, int]
"""Sizes in time, height and width."""

BUCKET, CENTRE = (2, 3, 2), (1, 1, 1)
"""Tokens of a bucket, and the place of the one that stands for what is left out."""
CORE = 0.5
"""Share of a bucket's tokens that stay."""


def experts(routers: Mapping[str, torch.Tensor], time: torch.Tensor) -> list[torch.Tensor]:
    """The authors' `router.pt` and the time embedding [D], before it is projected -> [H] experts of every transformer block.

    Raises ValueError for tensors of other names.
    """
    found: list[torch.Tensor] = []
    while (name := f"blocks.{len(found)}.router.linear") + ".weight" in routers:
        logits = F.linear(F.silu(time), routers[f"{name}.weight"].to(time), routers[f"{name}.bias"].to(time))
        found.append(logits.view(-1, len(EXPERTS)).argmax(1))
    if not found:
        raise ValueError("These are no routers of VORTA: blocks.0.router.linear.weight is missing.")
    return found


def vorta_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout, grid: Grid, chosen: torch.Tensor, tile: Grid = (4, 8, 8),
    dense: DenseAttention = dense_attention,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """q, k, v [B, S, H, D], every group of them `grid` in raster order; chosen [H] experts, on the CPU -> (like q, share of full attention's
    products).

    tile: tokens of a tile; a window is 3×3×3 of them.
    """
    out, cost = torch.empty_like(q, memory_format=torch.contiguous_format), q.new_zeros((), dtype=torch.float32)
    for expert in EXPERTS:
        heads = (chosen == expert).nonzero()[:, 0].to(q.device)
        if not len(heads):
            continue
        query, key, value = (x[:, :, heads] for x in (q, k, v))
        if expert == FULL:
            part, share = dense(query, key, value), cost.new_ones(())
        elif expert == CORESET:
            part, share = _over_coreset(query, key, value, layout, grid, dense)
        else:
            part, share = _in_window(query, key, value, layout, grid, tile)
        out[:, :, heads] = part
        cost = cost + share * len(heads) / q.shape[2]
    return out, cost


def _over_coreset(q, k, v, layout: TokenLayout, grid: Grid, dense: DenseAttention):
    centre, kept = coreset(q, layout, grid)
    count = int(kept[0, 0].sum())  # of every head
    places = kept.sort(stable=True, dim=2, descending=True).indices[:, :, :count].transpose(1, 2)
    query, key, value = (x.take_along_dim(places[..., None], 1) for x in (q, k, v))
    out = torch.empty_like(q).scatter_(1, places[..., None].expand(-1, -1, -1, q.shape[3]), dense(query, key, value))
    # What was left out gets the output of its bucket's centre, which was not.
    source = torch.where(kept, torch.arange(layout.total, device=q.device), centre).transpose(1, 2)
    return out.take_along_dim(source[..., None], 1), (count / layout.total) ** 2 * q.new_ones((), dtype=torch.float32)


def coreset(q: torch.Tensor, layout: TokenLayout, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """q [B, S, H, D] -> ([S] the centre of each token's bucket, [B, H, S] bool: whether the token stays).

    Of each bucket stay the centre and the tokens that are least like it, by the cosine of their queries.
    """
    bucket, centre = _buckets(grid, layout, q.device)
    like = F.cosine_similarity(q, q[:, centre], dim=3, eps=1e-12).transpose(1, 2)
    like = like.masked_fill(centre == torch.arange(layout.total, device=q.device), -torch.inf)
    # Sorted by bucket, and by likeness within it.
    order = like.argsort(dim=2, stable=True)
    order = order.take_along_dim(bucket[order].argsort(dim=2, stable=True), 2)
    sizes = bucket.bincount()
    rank = torch.arange(layout.total, device=q.device) - (sizes.cumsum(0) - sizes)[bucket.sort().values]
    stays = rank < (CORE * sizes).ceil()[bucket.sort().values]
    kept = torch.zeros_like(like, dtype=torch.bool).scatter_(2, order, stays.expand_as(like))
    return centre, kept


@lru_cache
def _buckets(grid: Grid, layout: TokenLayout, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """[S] the number of each token's bucket, and its centre token. Buckets at the far edges are as small as the grid leaves them."""
    place = torch.stack(torch.meshgrid(*(torch.arange(size, device=device) for size in grid), indexing="ij"), -1).flatten(0, 2)
    size, side = torch.tensor(grid, device=device), torch.tensor(BUCKET, device=device)
    counts, corner = -(-size // side), place // side
    number = (corner[:, 0] * counts[1] + corner[:, 1]) * counts[2] + corner[:, 2]
    middle = torch.minimum(corner * side + torch.tensor(CENTRE, device=device), size - 1)
    centre = (middle[:, 0] * size[1] + middle[:, 1]) * size[2] + middle[:, 2]
    groups = torch.arange(layout.total // len(number), device=device)[:, None]
    return (groups * counts.prod() + number).flatten(), (groups * len(number) + centre).flatten()


def _in_window(q, k, v, layout: TokenLayout, grid: Grid, tile: Grid):
    order = tile_order(grid, layout, q.device)
    near = window(grid, layout, tile, q.device)
    near = near.expand(q.shape[0] * q.shape[2], -1, -1)
    masks = RoutingMasks(near, torch.zeros_like(near))
    out, stats = in_context_sparse_attention(*(x[:, order] for x in (q, k, v)), layout=layout, masks=masks, return_stats=True)
    return out[:, order.argsort()], stats.mean_density


@lru_cache
def window(grid: Grid, layout: TokenLayout, tile: Grid, device: torch.device) -> torch.Tensor:
    """[N, N] bool, in tile order: which blocks meet, as some of their tokens lie in one window of 3×3×3 tiles.

    A window's centre stays so far inside that windows at the edge are whole.
    """
    place = torch.stack(torch.meshgrid(*(torch.arange(size, device=device) for size in grid), indexing="ij"), -1).flatten(0, 2)
    order = tile_order(grid, TokenLayout(len(place)), device, TILE)
    blocks = place[order].split(64)
    low, high = (torch.stack([way(block, 0) for block in blocks]) for way in (torch.amin, torch.amax))
    side, size = torch.tensor(tile, device=device), torch.tensor(grid, device=device)
    last = -(-size // side) - 1
    middle = torch.minimum(((low + high) // 2 // side).clamp(min=1), (last - 1).clamp(min=0))
    begin, end = (middle - 1) * side, (middle + 2) * side
    near = ((high[None] >= begin[:, None]) & (low[None] < end[:, None])).all(2)
    groups = layout.total // len(place)
    return near.repeat(groups, groups)
