"""ISA on the Triton kernels: the same steps as the PyTorch path, on strided tokens, without copies per head.

The dense group runs on compact copies of its queries and of the listed keys and values; everything else reads tokens
where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..config import ISAConfig, blocks_for
from ..layout import BlockTable
from ..memory import heads_at_once
from ..plan import RoutingPlan, top_mass_blocks


class TritonPlan(NamedTuple):
    """What the kernels need of a RoutingPlan, G heads over N blocks.

    plan: with int32 lists; `exact_blocks` has full blocks first and ragged ones last.
    full: [G, N] int32, how many of a row's exact blocks are full.
    tail: [G, T] int32, blocks that a sparse query block meets through their mean unless it attends them exactly.
    taken: [G, N, T] uint8, 1 where a tail entry is in the row's exact list.
    sharp: [G, R] int32, the dense query blocks, ascending, then N where a head has fewer than the others.
    """

    plan: RoutingPlan
    full: torch.Tensor
    tail: torch.Tensor
    taken: torch.Tensor
    sharp: torch.Tensor


class Blocks(NamedTuple):
    """A block table on the device: starts and lengths [N] int32, and the size of a full block."""

    starts: torch.Tensor
    lengths: torch.Tensor
    size: int


@torch.no_grad()
def attend_triton(q, k, v, out, table: BlockTable, config: ISAConfig, gate, dense: Callable | str) -> RoutingPlan:
    """Fill out [B, S, H, D] from q, k, v alike; gate [B, S, 1, 1] or None; dense: a DenseAttention, "triton" or "8bit"."""
    from ...kernels.pool import pool_blocks
    from ...kernels.sparse import sparse_attention

    blocks = blocks_on(table, q.device)
    pooled_q, pooled_v = (pool_blocks(x, *blocks) for x in (q, v))
    if config.tail_order == 2:
        pooled_k, variance_k = pool_blocks(k, *blocks, variance=True)
        # In fp16 the square of a large key is infinite, and times a query of zero not a number.
        variance_k = variance_k.clamp(max=torch.finfo(k.dtype).max)
    else:
        pooled_k, variance_k = pool_blocks(k, *blocks), None
    made = make_plan(pooled_q, pooled_k, table, config)
    # Begun before the sparse kernel is queued and waited for after it: the wait is for the plan alone.
    counts = begin_counts(made, table, config, exact=callable(dense))
    coarse = None if gate is None else F.scaled_dot_product_attention(pooled_q, pooled_k, pooled_v)
    plan = made.plan
    sparse_attention(
        q, k, v, *tail_means(made, pooled_k, pooled_v, blocks, k.dtype), plan.dense_queries, plan.exact_blocks, made.full,
        made.taken, blocks.starts, blocks.lengths, out, gate, coarse, blocks.size,
        variance_k=None if variance_k is None else of_tail(made, variance_k, k.dtype),
    )  # fmt: skip
    for heads, rows, tokens in head_groups(made, table, counts):
        for part in heads.split(heads_per_turn(q, len(heads), rows, plan, blocks)):
            sharp = made.sharp[part, :rows].contiguous()
            if callable(dense):
                result = _dense_by_caller(q, k, v, part, sharp, made, tokens, blocks, dense)
            else:
                result = _dense_by_kernel(q, k, v, part, sharp, made, (pooled_k, pooled_v), config, blocks, dense)
            _scatter(result, out, part, sharp, blocks, gate, coarse)
    return plan


def make_plan(pooled_q, pooled_k, table: BlockTable, config: ISAConfig) -> TritonPlan:
    """Steps 2 to 5 of section 3 from block means [G, N, D]: the decisions of `route.route`, by kernels."""
    from ...kernels.coarse import coarse_logits, coarse_statistics
    from ...kernels.select import exact_lists, top_blocks

    top = top_mass_blocks(table, config) if config.sharpness == "top_mass" else None
    lengths = blocks_on(table, pooled_q.device).lengths
    every = torch.arange(table.count, device=pooled_q.device, dtype=torch.int32)
    kept = blocks_for(config.keep_ratio, table.context_blocks)
    count = blocks_for(config.exact_ratio, table.target_blocks + kept)
    parts = []
    step = heads_at_once(len(pooled_q), 4 * table.count**2)
    for part_q, part_k in zip(pooled_q.split(step), pooled_k.split(step)):
        logits = coarse_logits(part_q, part_k)
        saliency, sharpness = coarse_statistics(logits, table.target_blocks, top)
        target = every[: table.target_blocks].expand(len(logits), -1)
        listed = torch.cat([target, top_blocks(saliency, kept)[1] + table.target_blocks], dim=1)
        if config.sharpness_threshold is None:
            dense, sharp = top_blocks(sharpness, blocks_for(config.dense_query_ratio, table.count))
        else:
            dense = sharpness > config.sharpness_threshold
            sharp = torch.where(dense, every, table.count).sort(1).values
        tail = len(listed[0]) if config.context_tail == "drop" else table.count
        parts.append(
            (listed, dense, sharpness, sharp, *exact_lists(logits, listed, dense, lengths, table.block_size, count, tail))
        )
    listed, dense, sharpness, sharp, lists, full, taken = (
        torch.cat(part) if len(parts) > 1 else part[0] for part in zip(*parts)
    )
    tail = listed if config.context_tail == "drop" else every.expand(len(listed), -1)
    return TritonPlan(RoutingPlan(listed, dense, lists, sharpness), full, tail, taken, sharp)


def tail_means(made: TritonPlan, pooled_k, pooled_v, blocks: Blocks, dtype):
    """Means of the tail's keys and values [G, T, D] in `dtype`, and log2 of their tokens [G, T] fp32."""
    mean_k, mean_v = (of_tail(made, x, dtype) for x in (pooled_k, pooled_v))
    return mean_k, mean_v, blocks.lengths.float().log2()[made.tail.long()]


def of_tail(made: TritonPlan, per_block, dtype):
    """per_block [G, N, D] -> the tail's [G, T, D] in `dtype`."""
    return per_block.take_along_dim(made.tail.long()[..., None], 1).to(dtype)


def begin_counts(made: TritonPlan, table: BlockTable, config: ISAConfig, exact: bool) -> Callable[[], list] | None:
    """Start reading back how many dense query blocks and listed tokens each head has, [2, G]; None where the host knows.

    That is so unless a layout or a threshold makes heads differ. Heads that differ only in tokens count as alike unless
    `exact`; while a CUDA graph is recorded, in which nothing can be read, the most there can be stands in.
    """
    plan = made.plan
    kept = plan.kv_blocks.shape[1] - table.target_blocks
    ragged_context = any(length % table.block_size for length in table.layout.context) and kept < table.context_blocks
    if config.sharpness_threshold is None and not (ragged_context and exact):
        return None
    if plan.kv_blocks.is_cuda and torch.cuda.is_current_stream_capturing():
        if exact:
            raise RuntimeError(
                "a CUDA graph cannot hold this call: heads list different numbers of tokens, which must be read back for "
                "the attention that was given. Choose dense 'auto' or 'triton', or contexts of whole blocks."
            )
        return None
    tokens = blocks_on(table, plan.kv_blocks.device).lengths[plan.kv_blocks].sum(1)
    counts = torch.stack([plan.dense_queries.sum(1), tokens if exact else torch.zeros_like(tokens)])
    if not counts.is_cuda:
        return counts.tolist
    host = torch.empty(counts.shape, dtype=counts.dtype, pin_memory=True).copy_(counts, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def finish() -> list:
        arrived.synchronize()
        return host.tolist()

    return finish


def head_groups(made: TritonPlan, table: BlockTable, counts: Callable[[], list] | None) -> Iterator[tuple]:
    """(heads, dense query blocks, listed tokens) for heads that one call of plain attention can take together."""
    plan = made.plan
    heads = torch.arange(len(plan.kv_blocks), device=plan.kv_blocks.device)
    if counts is None:
        kept = plan.kv_blocks.shape[1] - table.target_blocks
        whole = kept == table.context_blocks
        groups = [(heads, made.sharp.shape[1], table.layout.total if whole else table.layout.target + kept * table.block_size)]
    else:
        rows, tokens = counts()
        same = {size: [head for head, count in enumerate(tokens) if count == size] for size in sorted(set(tokens))}
        groups = [(heads[group], max(rows[head] for head in group), size) for size, group in same.items()]
    yield from (group for group in groups if group[1])


def heads_per_turn(q, heads, rows, plan, blocks):
    tokens = 2 * (rows + plan.kv_blocks.shape[1]) * blocks.size
    return heads_at_once(heads, tokens * q.shape[3] * q.element_size())


def _dense_by_caller(q, k, v, heads, sharp, made, tokens, blocks, dense):
    """Plain attention of the dense query blocks `sharp` [C, R] of `heads` -> [R * block_size, C, D]."""
    from ...kernels.compact import gather_blocks

    listed, offsets = listed_offsets(made.plan.kv_blocks[heads], blocks)
    heads = heads.int()
    query = gather_blocks(q, heads, sharp, None, sharp.shape[1] * blocks.size, *blocks)
    key, value = (gather_blocks(x, heads, listed, offsets, tokens, *blocks) for x in (k, v))
    # Heads become one batch element: [1, tokens, heads, D].
    return dense(query[None], key[None], value[None])[0]


def _dense_by_kernel(q, k, v, heads, sharp, made, pooled, config, blocks, dense):
    """As `_dense_by_caller`, by our kernels: no two heads need lists of the same length."""
    from ...kernels import dense as kernel
    from ...kernels.compact import gather_blocks
    from ...kernels.quantize import TILE, quantize_keys, quantize_queries, quantize_values

    ordered, bias, unbiased = _ragged_last(made.plan.kv_blocks[heads], blocks)
    tokens = ordered.shape[1] * blocks.size
    number = heads.int()
    if dense == "8bit":
        bias = F.pad(bias, (0, -tokens % TILE), value=float("-inf"))
        weight = blocks.lengths[ordered] / blocks.lengths[ordered].sum(1, keepdim=True)
        centres = [torch.einsum("cl,cld->cd", weight, x[heads].take_along_dim(ordered.long()[..., None], 1)) for x in pooled]
        query, q_scale = quantize_queries(q, number, sharp, *blocks)
        key, k_scale = quantize_keys(k, centres[0], number, ordered, *blocks)
        value, v_scale = quantize_values(v, centres[1], number, ordered, *blocks)
        return kernel.dense_attention_8bit(
            query, key, value, q_scale, k_scale, v_scale, centres[1], bias, unbiased, q.dtype
        )  # fmt: skip
    query = gather_blocks(q, number, sharp, None, sharp.shape[1] * blocks.size, *blocks)
    key, value = (gather_blocks(x, number, ordered, None, tokens, *blocks) for x in (k, v))
    if config.context_tail == "taylor":
        weight = blocks.lengths.float().log2().expand(len(heads), -1)
        bias = torch.cat([bias, weight.scatter(1, ordered.long(), float("-inf"))], dim=1)
        means = (x[heads].transpose(0, 1).to(k.dtype) for x in pooled)
        key, value = (torch.cat([x, mean]) for x, mean in zip((key, value), means))
    bias = F.pad(bias, (0, -bias.shape[1] % TILE), value=float("-inf"))
    return kernel.dense_attention(query, key, value, bias, unbiased)


def listed_offsets(listed, blocks: Blocks):
    """listed [C, L] -> (itself, the token at which each of its blocks begins when they stand one after another [C, L])."""
    sizes = blocks.lengths[listed]
    return listed, (sizes.cumsum(1) - sizes).int()


def _ragged_last(listed, blocks: Blocks):
    """listed [C, L] -> (the same blocks with ragged ones last, bias [C, L * size] of their slots, tokens in full ones [C])."""
    ragged = blocks.lengths[listed] < blocks.size
    ordered = listed.gather(1, ragged.byte().sort(dim=1, stable=True).indices)
    slot = torch.arange(blocks.size, device=listed.device)
    empty = slot >= blocks.lengths[ordered][..., None]
    bias = torch.zeros(empty.shape, device=listed.device).masked_fill_(empty, float("-inf")).flatten(1)
    return ordered, bias, ((~ragged).sum(1) * blocks.size).int()


def _scatter(result, out, heads, sharp, blocks, gate, coarse):
    from ...kernels.compact import scatter_blocks

    scatter_blocks(result, out, heads.int(), sharp, *blocks, gate, coarse)


@lru_cache(maxsize=64)
def blocks_on(table: BlockTable, device) -> Blocks:
    starts, lengths = (torch.tensor(x, device=device, dtype=torch.int32) for x in (table.starts, table.lengths))
    return Blocks(starts, lengths, table.block_size)
