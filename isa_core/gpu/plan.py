"""Step *plan* on the GPU: the decisions of `policies.paper` by kernels, in the form that the attention kernels read."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from ..config import ISAConfig, blocks_for
from ..layout import BlockTable, upload
from ..memory import heads_at_once
from ..plan import RoutingPlan
from ..policies.paper import top_mass_blocks


class KernelPlan(NamedTuple):
    """A RoutingPlan in the form of the kernels, G heads, R blocks of queries and N of keys.

    routing: with int32 lists; `exact_blocks` has full blocks first and ragged ones last.
    full: [G, R] int32, how many of a row's exact blocks are full.
    tail: [G, T] int32, blocks that a sparse query block meets through their mean unless it attends them exactly.
    taken: [G, R, T] uint8, 1 where a tail entry is in the row's exact list.
    dense_rows: [G, most] int32, the dense query blocks, ascending, then R where a head has fewer than the others.
    """

    routing: RoutingPlan
    full: torch.Tensor
    tail: torch.Tensor
    taken: torch.Tensor
    dense_rows: torch.Tensor


class Blocks(NamedTuple):
    """A block table on the device: starts and lengths [N] int32, and the size of a full block."""

    starts: torch.Tensor
    lengths: torch.Tensor
    size: int


def make_plan(pooled_q: torch.Tensor, pooled_k: torch.Tensor, table: BlockTable, config: ISAConfig) -> KernelPlan:
    """Steps 2 to 5 of section 3 from block means [G, R, D] and [G, N, D] in fp32: the decisions of `policies.paper.route`, by kernels."""
    from ...kernels.coarse import coarse_logits, coarse_statistics
    from ...kernels.select import exact_lists, top_blocks

    top = top_mass_blocks(table, config) if config.sharpness == "top_mass" else None
    lengths = blocks_on(table, pooled_q.device).lengths
    rows, every = pooled_q.shape[1], torch.arange(table.count, device=pooled_q.device, dtype=torch.int32)
    kept, ragged_first = table.kept_blocks(config.keep_ratio), table.ragged_first(pooled_q.device)
    count = blocks_for(config.exact_ratio, table.target_blocks + kept)
    parts = []
    step = heads_at_once(len(pooled_q), 4 * rows * table.count)
    for part_q, part_k in zip(pooled_q.split(step), pooled_k.split(step)):
        logits = coarse_logits(part_q, part_k)
        saliency, sharpness = coarse_statistics(logits, table.target_blocks, top)
        target = every[: table.target_blocks].expand(len(logits), -1)
        kept_context = top_blocks(saliency + ragged_first, kept)[1] + table.target_blocks
        listed = torch.cat([target, kept_context], dim=1)
        if config.sharpness_threshold is None:
            dense, dense_rows = top_blocks(sharpness, blocks_for(config.dense_query_ratio, rows))
        else:
            dense = sharpness > config.sharpness_threshold
            dense_rows = torch.where(dense, every[:rows], rows).sort(1).values
        tails = len(listed[0]) if config.context_tail == "drop" else table.count
        lists = exact_lists(logits, listed, dense, lengths, table.block_size, count, tails)
        parts.append((listed, dense, sharpness, dense_rows, *lists))
    listed, dense, sharpness, dense_rows, exact, full, taken = (
        torch.cat(part) if len(parts) > 1 else part[0] for part in zip(*parts)
    )
    tail = listed if config.context_tail == "drop" else every.expand(len(listed), -1)
    return KernelPlan(RoutingPlan(listed, dense, exact, sharpness), full, tail, taken, dense_rows)


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
