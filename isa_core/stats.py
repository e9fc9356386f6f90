"""Statistics of a call of ISA, and its cost relative to full attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .config import ERROR_AWARE, SEGMENT_TOP_K, ISAConfig, blocks_for
from .layout import BlockTable, TokenLayout, block_table
from .plan import RoutingPlan
from .policies.segment_top_k import PER_BLOCK


@dataclass(frozen=True)
class ISAStats:
    """One call. Shares are of full attention over all tokens; tensors cover B batch elements, H heads, R query blocks.

    backend: what ran, and backend_reason why that one; dense_backend, dense_reason: the same of the attention of
        dense query blocks, "caller", "sdpa", "triton" or "8bit".
    kept_context: [B, H, K] block numbers of the context blocks each head kept.
    dense_queries: [B, H, R] bool, True where a query block attended its KV list exactly.
    sharpness: [B, H, R].
    attended: [B, H, N], the share of the query blocks that attend exactly to each KV block; None where it was not asked for.
    Blocks are numbered targets first, then contexts, in any layout. Query blocks of exact segments are not among the R.

    Nothing is read back from the device until `density` or `flop_ratio` is asked for.
    """

    backend: str
    backend_reason: str
    dense_backend: str
    dense_reason: str
    kept_context: torch.Tensor
    dense_queries: torch.Tensor
    sharpness: torch.Tensor
    mean_density: torch.Tensor
    mean_flop_ratio: torch.Tensor
    attended: torch.Tensor | None = None

    @property
    def density(self) -> float:
        """Token pairs scored exactly / token pairs of full attention."""
        return float(self.mean_density)

    @property
    def flop_ratio(self) -> float:
        """Multiply-adds of all matrix products, coarse pass included / those of full attention."""
        return float(self.mean_flop_ratio)


def measure(plan: RoutingPlan, table: BlockTable, config: ISAConfig, exact_rows: int = 0) -> torch.Tensor:
    """[G, 2]: each head's (density, flop_ratio) under a plan, from the true block lengths. exact_rows: queries of exact segments."""
    lengths = table.lengths_on(plan.kv_blocks.device).float()
    listed = lengths[plan.kv_blocks].sum(1, keepdim=True)
    rows = plan.dense_queries.shape[1]
    queries = lengths[:rows]
    tokens = lengths[plan.exact_blocks].sum(2) if plan.exact_tokens is None else plan.exact_tokens
    counts = plan.exact_blocks.shape[2] if plan.exact_counts is None else plan.exact_counts
    exact = torch.where(plan.dense_queries, listed, tokens)
    means = _means_seen(table, config, plan.kv_blocks.shape[1], counts)
    seen = torch.where(plan.dense_queries, means[0], means[1])
    if plan.by_mean is not None:
        seen = _products(config) * plan.by_mean.sum(2)
    full = table.layout.total**2
    density = ((exact * queries).sum(1) + exact_rows * table.layout.total) / full
    flop_ratio = density + (seen * queries).sum(1) / full + _coarse_pass(config) * rows * table.count / full
    return torch.stack([density, flop_ratio], dim=1)


def attended(plan: RoutingPlan, table: BlockTable) -> torch.Tensor:
    """[G, N]: the share of the query blocks that attend exactly to each KV block."""
    heads, rows, longest = plan.exact_blocks.shape
    places = torch.arange(longest, device=plan.exact_blocks.device)
    dense = plan.dense_queries.float()
    counted = torch.zeros(heads, table.count + 1, device=places.device)  # the last: no block
    for head in range(heads):  # a head's lists as wide numbers take some MB, those of all heads hundreds
        lists = plan.exact_blocks[head].long()
        if plan.exact_counts is not None:  # what stands behind a list's end is no part of it
            lists = lists.where(places < plan.exact_counts[head, :, None], table.count)
        counted[head].scatter_add_(0, lists.flatten(), (1 - dense[head])[:, None].expand(-1, longest).flatten())
    whole = dense.sum(1, keepdim=True).expand(-1, plan.kv_blocks.shape[1])
    return counted.scatter_add_(1, plan.kv_blocks.long(), whole)[:, : table.count] / rows


def estimate_cost(layout: TokenLayout, config: ISAConfig, without_context: bool = False) -> tuple[float, float]:
    """(density, flop_ratio) before running, for ratio routing; with an absolute threshold, `dense_query_ratio` is used.

    without_context: where the context has no queries, because its keys and values are kept.
    """
    table = block_table(layout, config.block_size)
    queries = table.of_queries(layout.target if without_context else layout.total)
    keep_ratio = 1 if config.policy == SEGMENT_TOP_K else config.keep_ratio
    chosen = table.target_blocks + table.kept_blocks(keep_ratio)
    if config.policy == SEGMENT_TOP_K:
        dense, exact_blocks = 0.0, float(sum(table.exact_per_segment(config.exact_ratio)) - table.exact_blocks)
    elif config.policy == ERROR_AWARE:
        dense, exact_blocks = 0.0, config.exact_ratio * chosen
    else:
        dense = blocks_for(config.dense_query_ratio, queries.count) / queries.count
        exact_blocks = float(blocks_for(config.exact_ratio, chosen))
    listed = table.listed_tokens(keep_ratio) - layout.exact
    means = _means_seen(table, config, chosen + table.exact_blocks, exact_blocks + table.exact_blocks)
    density = (dense * listed + (1 - dense) * listed * exact_blocks / chosen + layout.exact) / layout.total
    pooled = (dense * means[0] + (1 - dense) * means[1]) / layout.total
    share = sum(queries.lengths) / layout.total
    coarse = _coarse_pass(config) * queries.count * table.count / layout.total**2
    exact_rows = layout.exact / layout.total
    return exact_rows + share * density, exact_rows + share * (density + pooled) + coarse


def _coarse_pass(config: ISAConfig) -> float:
    """Products over all pairs of blocks, in units of two: logits and residual, and what a policy adds, the logits' spread or those of composite tokens."""
    return 1 + {ERROR_AWARE: 0.5, SEGMENT_TOP_K: 0.5 * PER_BLOCK**2}.get(config.policy, 0)


def _products(config: ISAConfig) -> float:
    """Of a query with a mean, in units of two: second order needs a third."""
    return 1.5 if config.tail_order == 2 else 1


def _means_seen(table, config, listed, exact):
    """Number of block means to which a (dense, sparse) query attends, in units of two products each."""
    products = _products(config)
    if config.context_tail == "taylor":
        return table.count - listed, products * (table.count - exact)
    return 0, products * (listed - exact)
