"""Exact attention where a block's mean is expected to be the worst stand-in, out of one budget for all heads of a call.

The expected error of a pair is its share of the query block's attention times the deviation of its logits within the KV
block: a block whose keys are alike loses nothing by its mean, however much attention it gets.
"""

from __future__ import annotations

import torch

from ..config import ISAConfig, blocks_for
from ..layout import BlockTable
from ..plan import Coarse, RoutingPlan, as_lists
from .paper import list_blocks, query_sharpness, saliency


@torch.no_grad()
def route(coarse: Coarse, table: BlockTable, config: ISAConfig, threshold: torch.Tensor) -> RoutingPlan:
    """The plan of G heads: exact are the listed pairs whose expected error is at least `threshold`, a scalar."""
    kv_blocks, error = listed_error(coarse, table, config)
    blocks, counts, tokens = as_lists(error >= threshold.clamp_min(0), table)
    sharpness = query_sharpness(coarse.probabilities, table, config)
    return RoutingPlan(
        kv_blocks=kv_blocks,
        dense_queries=torch.zeros_like(sharpness, dtype=torch.bool),
        exact_blocks=blocks,
        sharpness=sharpness,
        exact_counts=counts,
        exact_tokens=tokens,
    )


def threshold(error: torch.Tensor, table: BlockTable, config: ISAConfig) -> torch.Tensor:
    """The least expected error that is exact, a scalar: `exact_ratio` of all listed pairs reach it, and those with exact segments.

    error: [H, R, N] of all heads that share the budget, from `listed_error`.
    """
    heads, rows, _ = error.shape
    count = pairs_for(config, heads, rows, table)
    if count == 0:
        return error.new_tensor(torch.inf)
    values = error.flatten()
    return values.kthvalue(len(values) - count + 1).values


def pairs_for(config: ISAConfig, heads: int, rows: int, table: BlockTable) -> int:
    """How many pairs of blocks all heads together attend exactly."""
    chosen = table.target_blocks + table.kept_blocks(config.keep_ratio)
    return blocks_for(config.exact_ratio, heads * rows * chosen) + heads * rows * table.exact_blocks


@torch.no_grad()
def listed_error(coarse: Coarse, table: BlockTable, config: ISAConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """([G, L] KV blocks as the paper lists them, [G, R, N] expected error of every pair; -1 where a block is not listed, infinite
    where it is exact)."""
    assert coarse.spread is not None
    kv_blocks = list_blocks(saliency(coarse, table), table, config.keep_ratio)
    tokens = table.lengths_on(kv_blocks.device) / table.block_size
    error = coarse.probabilities * tokens * coarse.spread.sqrt()
    listed = torch.zeros(len(kv_blocks), table.count, dtype=torch.bool, device=kv_blocks.device).scatter_(1, kv_blocks, True)
    error = error.masked_fill(~listed[:, None], -1.0)
    error[:, :, table.exact_columns] = torch.inf
    return kv_blocks, error
