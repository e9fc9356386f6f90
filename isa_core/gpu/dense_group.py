"""Step *attend*, dense query blocks: exact attention over compact copies of their queries and of the listed keys and values.

All heads list equally many tokens (`BlockTable.kept_blocks`), so any number of them go through one call of plain attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F

from ..attend import DenseAttention
from ..config import ISAConfig
from ..layout import BlockTable
from ..memory import heads_at_once
from ..plan import RoutingPlan
from .plan import Blocks, KernelPlan, blocks_on

COPIES_BYTES = 384 * 2**20
"""Bytes for the copies of one call of plain attention. Ten heads of a long video fit, which fully use every GPU."""

Rows = Callable[[], int]
"""Returns a number of dense query blocks; waits for the GPU."""


def attend_dense_group(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, means: tuple[torch.Tensor, torch.Tensor], out: torch.Tensor,
    plan: KernelPlan, rows: int, table: BlockTable, config: ISAConfig, gate: torch.Tensor | None,
    coarse: torch.Tensor | None, dense: DenseAttention | str,
) -> None:  # fmt: skip
    """Fill the rows of dense query blocks in out [B, T, H, D], which is like q, the gated residual included.

    means: block means of keys and values, [G, N, D] each. rows: dense query blocks of a head, at most.
    gate [B, T, 1, 1] and coarse [G, R, D], or None.
    dense: a function, or "triton" or "8bit" for our kernels.
    """
    from ...kernels.compact import scatter_blocks

    blocks, tokens = blocks_on(table, q.device), table.listed_tokens(config.keep_ratio)
    queries = blocks_on(table.of_queries(q.shape[1]), q.device)
    for heads in turns(q, plan, table, rows):
        dense_rows = plan.dense_rows[heads, :rows].contiguous()
        if callable(dense):
            result = _by_function(q, k, v, heads, dense_rows, plan, tokens, queries, blocks, dense)
        else:
            result = _by_kernel(q, k, v, heads, dense_rows, plan, means, config, queries, blocks, dense)
        scatter_blocks(result, out, heads.int(), dense_rows, *queries, gate, coarse)


def begin_count(plan: KernelPlan, config: ISAConfig) -> Rows:
    """The largest number of dense query blocks of a head. With a threshold it is computed on the GPU, otherwise the host knows it.

    While a CUDA graph is recorded, in which nothing can be read back, the most there can be stands in.
    """
    most = plan.dense_rows.shape[1]
    counts = plan.routing.dense_queries.sum(1).amax()
    if not most or config.sharpness_threshold is None or (counts.is_cuda and torch.cuda.is_current_stream_capturing()):
        return lambda: most
    if not counts.is_cuda:
        return lambda: int(counts)
    host = torch.empty((), dtype=counts.dtype, pin_memory=True).copy_(counts, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def finish() -> int:
        arrived.synchronize()
        return int(host)

    return finish


def turns(q: torch.Tensor, plan: KernelPlan, table: BlockTable, rows: int) -> Iterable[torch.Tensor]:
    """The heads of each call of plain attention, whose copies fit COPIES_BYTES at `rows` dense query blocks per head."""
    heads = torch.arange(len(plan.dense_rows), device=q.device)
    copied = 2 * (rows + plan.routing.kv_blocks.shape[1]) * table.block_size
    step = heads_at_once(len(heads), copied * q.shape[3] * q.element_size(), COPIES_BYTES)
    return heads.split(step) if rows else ()


def gathered(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: torch.Tensor, dense_rows: torch.Tensor, routing: RoutingPlan,
    tokens: int, queries: Blocks, blocks: Blocks,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """(query, key, value, listed, offsets): compact [tokens, C, D] of the heads [C], and the first token of each listed block."""
    from ...kernels.compact import gather_blocks

    listed = routing.kv_blocks[heads]
    sizes = blocks.lengths[listed]
    offsets, heads = (sizes.cumsum(1) - sizes).int(), heads.int()
    query = gather_blocks(q, heads, dense_rows, None, dense_rows.shape[1] * blocks.size, *queries)
    key, value = (gather_blocks(x, heads, listed, offsets, tokens, *blocks) for x in (k, v))
    return query, key, value, listed, offsets


def _by_function(q, k, v, heads, dense_rows, plan: KernelPlan, tokens, queries, blocks, dense) -> torch.Tensor:
    """Plain attention of the dense query blocks `dense_rows` [C, R] of `heads` -> [R * block_size, C, D]."""
    query, key, value, *_ = gathered(q, k, v, heads, dense_rows, plan.routing, tokens, queries, blocks)
    # All heads go into one batch element: [1, tokens, heads, D].
    return dense(query[None], key[None], value[None])[0]


def _by_kernel(q, k, v, heads, dense_rows, plan: KernelPlan, means, config, queries, blocks, dense: str) -> torch.Tensor:
    """As `_by_function`, by our kernels, for which heads may have lists of different lengths."""
    from ...kernels import dense as kernel
    from ...kernels.compact import gather_blocks
    from ...kernels.quantize import TILE, quantize_keys, quantize_queries, quantize_values

    ordered, bias, unbiased = _ragged_last(plan.routing.kv_blocks[heads], blocks)
    tokens = ordered.shape[1] * blocks.size
    number = heads.int()
    if dense == "8bit":
        bias = F.pad(bias, (0, -tokens % TILE), value=float("-inf"))
        weight = blocks.lengths[ordered] / blocks.lengths[ordered].sum(1, keepdim=True)
        centres = [torch.einsum("cl,cld->cd", weight, x[heads].take_along_dim(ordered.long()[..., None], 1)) for x in means]
        query, q_scale = quantize_queries(q, number, dense_rows, *queries)
        key, k_scale = quantize_keys(k, centres[0], number, ordered, *blocks)
        value, v_scale = quantize_values(v, centres[1], number, ordered, *blocks)
        return kernel.dense_attention_8bit(
            query, key, value, q_scale, k_scale, v_scale, centres[1], bias, unbiased, q.dtype
        )  # fmt: skip
    query = gather_blocks(q, number, dense_rows, None, dense_rows.shape[1] * blocks.size, *queries)
    key, value = (gather_blocks(x, number, ordered, None, tokens, *blocks) for x in (k, v))
    if config.context_tail == "taylor":
        weight = blocks.lengths.float().log2().expand(len(heads), -1)
        bias = torch.cat([bias, weight.scatter(1, ordered.long(), float("-inf"))], dim=1)
        tail = (x[heads].transpose(0, 1).to(k.dtype) for x in means)
        key, value = (torch.cat([x, mean]) for x, mean in zip((key, value), tail))
    bias = F.pad(bias, (0, -bias.shape[1] % TILE), value=float("-inf"))
    return kernel.dense_attention(query, key, value, bias, unbiased)


def _ragged_last(listed, blocks: Blocks):
    """listed [C, L] -> (the same blocks with ragged ones last, bias [C, L * size] of their slots, tokens in full ones [C])."""
    ragged = blocks.lengths[listed] < blocks.size
    ordered = listed.gather(1, ragged.byte().sort(dim=1, stable=True).indices)
    slot = torch.arange(blocks.size, device=listed.device)
    empty = slot >= blocks.lengths[ordered][..., None]
    bias = torch.zeros(empty.shape, device=listed.device).masked_fill_(empty, float("-inf")).flatten(1)
    return ordered, bias, ((~ragged).sum(1) * blocks.size).int()
