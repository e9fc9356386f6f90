"""The paper's router with the context chosen for each group of query blocks, as of a frame, instead of once for a head."""

from __future__ import annotations

import torch

from ..config import ISAConfig, blocks_for
from ..layout import BlockTable, TokenLayout
from ..plan import Coarse, RoutingMasks, coarse_scores
from ..pool import pool_blocks
from .by_heads import by_heads
from .paper import group_queries, query_sharpness


def masks(q: torch.Tensor, k: torch.Tensor, layout: TokenLayout, config: ISAConfig, group: int) -> RoutingMasks:
    """q, k [B, S, H, D]. group: query blocks that share their context blocks, counted from the beginning of each token group.

    Dense query blocks attend all that their group lists exactly.
    """

    def decide(q: torch.Tensor, k: torch.Tensor, table: BlockTable) -> tuple[torch.Tensor, torch.Tensor]:
        logits = coarse_scores(pool_blocks(q, table.of_queries(q.shape[1])), pool_blocks(k, table))
        coarse = Coarse(logits, logits.softmax(-1))
        listed = _listed(coarse.probabilities, table, config, group)
        dense = group_queries(query_sharpness(coarse.probabilities, table, config), config)
        count = blocks_for(config.exact_ratio, table.target_blocks + table.kept_blocks(config.keep_ratio))
        chosen = logits.masked_fill(~listed, -torch.inf)[:, :, : table.count - table.exact_blocks]
        best = chosen.topk(count, dim=2).indices
        exact = torch.zeros_like(listed).scatter_(2, best, True)
        return torch.where(dense[..., None], listed, exact), listed & ~dense[..., None]

    return by_heads(q, k, layout, decide, config.block_size)


def _listed(probabilities: torch.Tensor, table: BlockTable, config: ISAConfig, group: int) -> torch.Tensor:
    """[G, R, N] bool: every target block, every exact one, and the context blocks that receive most of the attention of the row's group."""
    number = _groups(table, probabilities.shape[1], group).to(probabilities.device)
    saliency = probabilities.new_zeros(len(probabilities), int(number.max()) + 1, table.context_blocks)
    saliency.index_add_(1, number, probabilities[:, :, table.context_columns])
    saliency += table.ragged_first(saliency.device)
    best = saliency.sort(dim=2, descending=True, stable=True).indices[:, :, : table.kept_blocks(config.keep_ratio)]
    kept = torch.zeros_like(saliency, dtype=torch.bool).scatter_(2, best, True)
    listed = torch.ones_like(probabilities, dtype=torch.bool)
    listed[:, :, table.context_columns] = kept[:, number]
    return listed


def _groups(table: BlockTable, rows: int, group: int) -> torch.Tensor:
    """[R] the number of each query block's group."""
    numbers: list[int] = []
    for blocks in table.segment_blocks:
        first = numbers[-1] + 1 if numbers else 0
        numbers += [first + block // group for block in range(blocks)]
    return torch.tensor(numbers[:rows])
