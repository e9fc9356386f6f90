"""The paper's router: context pre-selection -> sharpness -> dense and sparse query blocks -> exact lists (section 3)."""

from __future__ import annotations

import torch

from ..config import ISAConfig, blocks_for
from ..layout import BlockTable
from ..plan import Coarse, RoutingPlan


@torch.no_grad()
def route(coarse: Coarse, table: BlockTable, config: ISAConfig) -> RoutingPlan:
    """The plan of G heads. No gradient flows through it."""
    kv_blocks = list_blocks(saliency(coarse, table), table, config.keep_ratio)
    sharpness = query_sharpness(coarse.probabilities, table, config)
    return RoutingPlan(
        kv_blocks=kv_blocks,
        dense_queries=group_queries(sharpness, config),
        exact_blocks=exact_lists(coarse.logits, kv_blocks, table, config.exact_ratio),
        sharpness=sharpness,
    )


def saliency(coarse: Coarse, table: BlockTable) -> torch.Tensor:
    """[G, context blocks]: how much of the target's attention each context block receives."""
    return coarse.probabilities[:, : table.target_blocks, table.context_columns].sum(1)


def list_blocks(saliency: torch.Tensor, table: BlockTable, keep_ratio: float) -> torch.Tensor:
    """[G, L] KV blocks, ascending: every target block, the context blocks that receive most of the target's attention, every exact one.

    Ragged context blocks are kept first (`BlockTable.kept_blocks`).

    saliency: [G, context blocks] column sums of P over target query blocks.
    """
    kept = _highest(saliency + table.ragged_first(saliency.device), table.kept_blocks(keep_ratio))
    kept = kept.sort(dim=1).values + table.target_blocks
    every = torch.arange(table.count, device=kept.device).expand(kept.shape[0], -1)
    return torch.cat([every[:, : table.target_blocks], kept, every[:, table.exact_columns]], dim=1)


def query_sharpness(probabilities: torch.Tensor, table: BlockTable, config: ISAConfig) -> torch.Tensor:
    """[G, R] sharpness: how peaked each query block's attention is over the target's columns of P (section 3.3).

    "variance" of those probabilities, or "top_mass", the sum of their largest `exact_ratio` share.
    """
    over_target = probabilities[:, :, : table.target_blocks]
    if config.sharpness == "variance":
        return over_target.var(dim=2, correction=0)
    return over_target.topk(top_mass_blocks(table, config), dim=2).values.sum(2)


def top_mass_blocks(table: BlockTable, config: ISAConfig) -> int:
    """How many target columns top_mass sums; at least one, because with none all query blocks would be equal."""
    return max(1, blocks_for(config.exact_ratio, table.target_blocks))


def group_queries(sharpness: torch.Tensor, config: ISAConfig) -> torch.Tensor:
    """[G, R] bool, True for dense query blocks: the share of highest sharpness, or all above the absolute threshold."""
    if config.sharpness_threshold is not None:
        return sharpness > config.sharpness_threshold
    sharpest = _highest(sharpness, blocks_for(config.dense_query_ratio, sharpness.shape[1]))
    return torch.zeros_like(sharpness, dtype=torch.bool).scatter_(1, sharpest, True)


def exact_lists(scores: torch.Tensor, kv_blocks: torch.Tensor, table: BlockTable, exact_ratio: float) -> torch.Tensor:
    """[G, R, E] the KV blocks of each head's list with the highest coarse logit, per query block, and every exact one."""
    heads, queries, _ = scores.shape
    chosen = kv_blocks.shape[1] - table.exact_blocks
    listed, always = kv_blocks[:, None].expand(heads, queries, -1).split([chosen, table.exact_blocks], dim=2)
    best = scores.gather(2, listed).topk(blocks_for(exact_ratio, chosen), dim=2).indices
    return torch.cat([listed.gather(2, best).sort(dim=2).values, always], dim=2)


def _highest(values: torch.Tensor, count: int) -> torch.Tensor:
    """[G, count] positions of the highest values; ties go to the earlier block, so that a plan is reproducible.

    Ties are real here: with a single target block every variance is zero.
    """
    return values.sort(dim=1, descending=True, stable=True).indices[:, :count]
