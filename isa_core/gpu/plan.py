"""Step *plan* on the GPU: the decisions of `policies` by kernels, in the form that the attention kernels read."""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch

from ..config import ERROR_AWARE, SEGMENT_TOP_K, ISAConfig, blocks_for
from ..layout import BlockTable, upload
from ..memory import heads_at_once
from ..plan import RoutingMasks, RoutingPlan
from ..policies import segment_top_k
from ..policies.error_aware import pairs_for
from ..policies.paper import top_mass_blocks
from ..policies.segment_top_k import PER_BLOCK
from ..pool import composite_lengths, composite_size


class KernelPlan(NamedTuple):
    """A RoutingPlan in the form of the kernels, G heads, R blocks of queries and N of keys.

    routing: with int32 lists; `exact_blocks` has full blocks first and ragged ones last.
    full, counts: [G, R] int32, how many of a row's exact blocks are full, and how many there are.
    tail: [G, T] int32, blocks that a sparse query block meets through their mean unless it attends them exactly.
    taken: [G, R, T] uint8, 1 where a tail entry is in the row's exact list.
    dense_rows: [G, most] int32, the dense query blocks, ascending, then R where a head has fewer than the others.
    """

    routing: RoutingPlan
    full: torch.Tensor
    counts: torch.Tensor
    tail: torch.Tensor
    taken: torch.Tensor
    dense_rows: torch.Tensor


class Blocks(NamedTuple):
    """A block table on the device: starts and lengths [N] int32, and the size of a full block."""

    starts: torch.Tensor
    lengths: torch.Tensor
    size: int


class Pooled(NamedTuple):
    """Of each block of q, k or v, [G, N, D] fp32: the mean, and the variance of each channel where something needs it."""

    mean: torch.Tensor
    variance: torch.Tensor | None = None


def pool(x: torch.Tensor, blocks: Blocks, variance: bool = False) -> Pooled:
    """x [B, S, H, D] -> of B*H heads."""
    from ...kernels.pool import pool_blocks

    if not variance:
        return Pooled(pool_blocks(x, *blocks))
    mean, spread = pool_blocks(x, *blocks, variance=True)
    # In fp16 the square of a large key is infinite, and its product with a query of zero is NaN.
    return Pooled(mean, spread.clamp(max=torch.finfo(x.dtype).max))


def make_plan(
    q: torch.Tensor, k: torch.Tensor, queries: Pooled, keys: Pooled, table: BlockTable, config: ISAConfig
) -> KernelPlan:
    """The decisions of `policies.route` by kernels, from q [B, T, H, D], k [B, S, H, D] and what was pooled of their blocks."""
    if config.policy == ERROR_AWARE:
        return _by_budget(queries, keys, len(q), table, config)
    if config.policy == SEGMENT_TOP_K:
        return _by_segment(q, k, table, config)
    return _by_ratios(queries.mean, keys.mean, table, config)


def _by_ratios(pooled_q: torch.Tensor, pooled_k: torch.Tensor, table: BlockTable, config: ISAConfig) -> KernelPlan:
    """Steps 2 to 5 of section 3: `policies.paper.route`."""
    from ...kernels.coarse import coarse_logits
    from ...kernels.select import exact_lists, top_blocks

    lengths = blocks_on(table, pooled_q.device).lengths
    rows, every = pooled_q.shape[1], torch.arange(table.count, device=pooled_q.device, dtype=torch.int32)
    count = blocks_for(config.exact_ratio, table.target_blocks + table.kept_blocks(config.keep_ratio)) + table.exact_blocks
    parts = []
    step = heads_at_once(len(pooled_q), 4 * rows * table.count)
    for part_q, part_k in zip(pooled_q.split(step), pooled_k.split(step)):
        logits = coarse_logits(part_q, part_k)
        listed, sharpness, _ = _listed(logits, every, table, config)
        if config.sharpness_threshold is None:
            dense, dense_rows = top_blocks(sharpness, blocks_for(config.dense_query_ratio, rows))
        else:
            dense = sharpness > config.sharpness_threshold
            dense_rows = torch.where(dense, every[:rows], rows).sort(1).values
        logits[:, :, table.exact_columns] = torch.inf  # which is the highest of every row
        tails = len(listed[0]) if config.context_tail == "drop" else table.count
        lists = exact_lists(logits, listed, dense, lengths, table.block_size, count, tails)
        parts.append((listed, dense, sharpness, dense_rows, *lists))
    listed, dense, sharpness, dense_rows, exact, full, taken = (
        torch.cat(part) if len(parts) > 1 else part[0] for part in zip(*parts)
    )
    tail = listed if config.context_tail == "drop" else every.expand(len(listed), -1)
    counts = torch.full_like(full, exact.shape[2])
    return KernelPlan(RoutingPlan(listed, dense, exact, sharpness), full, counts, tail, taken, dense_rows)


def _by_budget(queries: Pooled, keys: Pooled, batch: int, table: BlockTable, config: ISAConfig) -> KernelPlan:
    """`policies.error_aware.route`. The errors of all heads of the batch are held at a time."""
    from ...kernels.budget import expected_errors, kth_of_all, lists_above
    from ...kernels.coarse import coarse_logits

    assert queries.variance is not None and keys.variance is not None
    device, (heads, rows, _) = queries.mean.device, queries.mean.shape
    lengths, every = blocks_on(table, device).lengths, torch.arange(table.count, device=device, dtype=torch.int32)
    errors = coarse_logits(queries.mean, keys.mean)
    listed, sharpness, norm = _listed(errors, every, table, config)
    is_listed = torch.zeros(heads, table.count, device=device, dtype=torch.bool).scatter_(1, listed.long(), True)
    square_q = queries.variance + queries.mean.square()
    errors = expected_errors(errors, norm, square_q, keys.variance, is_listed, lengths / table.block_size)
    errors[:, :, table.exact_columns] = torch.inf
    count = pairs_for(config, heads // batch, rows, table)
    if config.error_threshold is not None:
        threshold = torch.full([batch], config.error_threshold, device=device, dtype=torch.float32)
    elif count:
        threshold = kth_of_all(errors.view(batch, -1), count)
    else:
        threshold = torch.full([batch], torch.inf, device=device, dtype=torch.float32)
    drop = config.context_tail == "drop"
    exact, full, counts, tokens, taken = lists_above(
        errors, threshold, listed, lengths, table.block_size, listed.shape[1] if drop else table.count
    )
    dense = torch.zeros(heads, rows, device=device, dtype=torch.bool)
    routing = RoutingPlan(listed, dense, exact, sharpness, counts, tokens)
    tail = listed if drop else every.expand(heads, -1)
    return KernelPlan(routing, full, counts, tail, taken, listed.new_empty(heads, 0))


def _by_segment(q: torch.Tensor, k: torch.Tensor, table: BlockTable, config: ISAConfig) -> KernelPlan:
    """`policies.segment_top_k.route`."""
    from ...kernels.budget import lists_above
    from ...kernels.composite import composite_shares, keep_largest

    device, longest = q.device, sum(table.exact_per_segment(config.exact_ratio))
    cells, lengths = composites_on(table, device), blocks_on(table, device).lengths
    means_q = pool(q, composites_on(table.of_queries(q.shape[1]), device)).mean
    means_k = pool(k, cells).mean
    heads, rows = len(means_q), means_q.shape[1] // PER_BLOCK
    every = torch.arange(table.count, device=device, dtype=torch.int32)
    bounds, most = _segments_on(table, config.exact_ratio, device)
    log_tokens, least = cells.lengths.float().log(), torch.zeros(1, device=device)
    parts = []
    step = heads_at_once(heads, 4 * rows * table.count)
    for part_q, part_k in zip(means_q.split(step), means_k.split(step)):
        shares = composite_shares(part_q, part_k, log_tokens, PER_BLOCK)
        sharpness = segment_top_k.sharpness(shares, table)
        keep_largest(shares, bounds, most, max(table.segment_blocks))
        listed = every.expand(len(shares), -1).contiguous()
        exact, full, counts, tokens, taken = lists_above(shares, least, listed, lengths, table.block_size, table.count, longest)
        parts.append((exact, sharpness, full, counts, tokens, taken))
    exact, sharpness, full, counts, tokens, taken = (torch.cat(part) if len(parts) > 1 else part[0] for part in zip(*parts))
    dense, listed = torch.zeros_like(sharpness, dtype=torch.bool), every.expand(heads, -1)
    routing = RoutingPlan(listed, dense, exact, sharpness, counts, tokens)
    return KernelPlan(routing, full, counts, listed, taken, every.new_empty(heads, 0))


def plan_of(masks: RoutingMasks, table: BlockTable) -> KernelPlan:
    """`RoutingMasks.plan` by kernels."""
    from ...kernels.budget import lists_above

    device, (heads, rows, count) = masks.exact.device, masks.exact.shape
    every = torch.arange(count, device=device, dtype=torch.int32).expand(heads, -1).contiguous()
    lengths, least = blocks_on(table, device).lengths, torch.ones(1, device=device)
    exact, full, counts, tokens, taken = lists_above(
        masks.exact.contiguous().view(torch.int8), least, every, lengths, table.block_size, count
    )
    by_mean = masks.by_mean & ~masks.exact
    nothing = torch.zeros(heads, rows, device=device)
    routing = RoutingPlan(every, nothing.bool(), exact, nothing, counts, tokens, by_mean)
    return KernelPlan(routing, full, counts, every, (~by_mean).view(torch.uint8), every.new_empty(heads, 0))


def _listed(logits: torch.Tensor, every: torch.Tensor, table: BlockTable, config: ISAConfig):
    """(KV list [G, L] int32, sharpness and norm [G, R]) from coarse logits; every: the numbers of all blocks."""
    from ...kernels.coarse import coarse_statistics
    from ...kernels.select import top_blocks

    top = top_mass_blocks(table, config) if config.sharpness == "top_mass" else None
    saliency, sharpness, norm = coarse_statistics(logits, table.target_blocks, top)
    saliency = saliency[:, : table.context_blocks]
    kept_context = top_blocks(saliency + table.ragged_first(logits.device), table.kept_blocks(config.keep_ratio))[1]
    target, exact = (every[part].expand(len(logits), -1) for part in (slice(table.target_blocks), table.exact_columns))
    return torch.cat([target, kept_context + table.target_blocks, exact], dim=1), sharpness, norm


def tail_means(
    plan: KernelPlan, pooled_k: torch.Tensor, pooled_v: torch.Tensor, blocks: Blocks, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Means of the tail's keys and values [G, T, D] in `dtype`, and log2 of their tokens [G, T] fp32."""
    mean_k, mean_v = (of_tail(plan, x, dtype) for x in (pooled_k, pooled_v))
    return mean_k, mean_v, blocks.lengths.float().log2()[plan.tail.long()]


def of_tail(plan: KernelPlan, per_block: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """per_block [G, N, D] -> the tail's [G, T, D] in `dtype`."""
    return per_block.take_along_dim(plan.tail.long()[..., None], 1).to(dtype)


@lru_cache(maxsize=64)
def blocks_on(table: BlockTable, device: torch.device) -> Blocks:
    starts, lengths = (upload(x, device, torch.int32) for x in (table.starts, table.lengths))
    return Blocks(starts, lengths, table.block_size)


@lru_cache(maxsize=64)
def composites_on(table: BlockTable, device: torch.device) -> Blocks:
    """The composite tokens of "segment_top_k" as blocks, PER_BLOCK for each block; where a ragged block has fewer, the last are empty."""
    size, lengths = composite_size(table, PER_BLOCK), composite_lengths(table, PER_BLOCK)
    starts = [start + size * part for start in table.starts for part in range(PER_BLOCK)]
    return Blocks(upload(starts, device, torch.int32), upload(lengths, device, torch.int32), size)


@lru_cache(maxsize=64)
def _segments_on(table: BlockTable, exact_ratio: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """First block of each segment and the end, [K + 1], and how many of each are exact, [K]; int32."""
    bounds = upload([0, *accumulate(table.segment_blocks)], device, torch.int32)
    return bounds, upload(table.exact_per_segment(exact_ratio), device, torch.int32)
