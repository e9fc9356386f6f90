"""Of every segment, the target and each context, each query block attends exactly to the same share of blocks: those that get most of it.

One ranking of all blocks loses more, and so does a ranking by the means of whole blocks instead of halves (docs/fidelity.md).
"""

from __future__ import annotations

import torch

from ..config import ISAConfig
from ..layout import BlockTable
from ..plan import Coarse, RoutingPlan

PER_BLOCK = 2
"""Composite tokens of a block. Four choose no better, one clearly worse (docs/fidelity.md)."""


@torch.no_grad()
def route(coarse: Coarse, table: BlockTable, config: ISAConfig) -> RoutingPlan:
    """The plan of G heads."""
    assert coarse.shares is not None
    heads, rows, count = coarse.shares.shape
    return RoutingPlan(
        kv_blocks=torch.arange(count, device=coarse.shares.device).expand(heads, -1),
        dense_queries=torch.zeros(heads, rows, dtype=torch.bool, device=coarse.shares.device),
        exact_blocks=exact_blocks(coarse.shares, table, config.exact_ratio),
        sharpness=sharpness(coarse.shares, table),
    )


def exact_blocks(shares: torch.Tensor, table: BlockTable, exact_ratio: float) -> torch.Tensor:
    """shares [G, R, N] -> [G, R, E], ascending: the largest of each segment; ties go to the earlier block."""
    chosen, first = [], 0
    for part, count in zip(shares.split(table.segment_blocks, dim=2), table.exact_per_segment(exact_ratio)):
        chosen.append(part.sort(dim=2, descending=True, stable=True).indices[:, :, :count].sort(2).values + first)
        first += part.shape[2]
    return torch.cat(chosen, dim=2)


def sharpness(shares: torch.Tensor, table: BlockTable) -> torch.Tensor:
    """[G, R]: variance of each query block's attention over the target's blocks."""
    return (shares[:, :, : table.target_blocks] / shares.sum(2, keepdim=True)).var(dim=2, correction=0)
