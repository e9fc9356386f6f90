"""Policies beside ISA's own as functions of q and k, a few heads at a time: what they share."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..layout import BlockTable, TokenLayout, block_table
from ..memory import head_chunks
from ..plan import RoutingMasks

Decide = Callable[[torch.Tensor, torch.Tensor, BlockTable], tuple[torch.Tensor, torch.Tensor]]
"""q [G, T, D], k [G, S, D] of some heads -> (exact, by_mean) of a RoutingMasks."""


@torch.no_grad()
def by_heads(q: torch.Tensor, k: torch.Tensor, layout: TokenLayout, decide: Decide, block_size: int = 64) -> RoutingMasks:
    """q, k [B, S, H, D], q like k or its target's tokens alone -> the decisions of B·H heads."""
    table, parts = block_table(layout, block_size), []
    for b in range(len(k)):
        for heads in head_chunks(k, table):
            parts.append(decide(q[b, :, heads].transpose(0, 1), k[b, :, heads].transpose(0, 1), table))
    return RoutingMasks(*(torch.cat(part) for part in zip(*parts)))
