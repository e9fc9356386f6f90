"""ISA on the Triton kernels, on strided tokens, without copies per head: pool -> plan -> attend (sparse, dense) -> residual."""

from __future__ import annotations

import torch

from ..attend import DenseAttention
from ..config import ISAConfig
from ..layout import BlockTable
from ..plan import RoutingPlan
from ..residual import coarse_output
from .dense_group import attend_dense_group, begin_count
from .plan import Blocks, blocks_on, make_plan, of_tail, tail_means


@torch.no_grad()
def attention_on_gpu(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: BlockTable, config: ISAConfig, gate: torch.Tensor | None,
    dense: DenseAttention | str,
) -> tuple[torch.Tensor, RoutingPlan]:  # fmt: skip
    """q [B, T, H, D], k, v [B, S, H, D] of any strides, T the tokens of all blocks or of the target's, gate [B, T, 1, 1] or
    None -> (out like q, contiguous; the decisions of B*H heads).

    dense: what attends for dense query blocks: a function, or "triton" or "8bit" for our kernels.
    """
    from ...kernels.pool import pool_blocks
    from ...kernels.sparse import sparse_attention

    blocks, queries = blocks_on(table, q.device), blocks_on(table.of_queries(q.shape[1]), q.device)
    pooled_q, (pooled_k, pooled_v, variance_k) = pool_blocks(q, *queries), _pool(k, v, blocks, config)

    plan = make_plan(pooled_q, pooled_k, table, config)
    # With a threshold, the read-back starts before the sparse kernel is queued and is awaited after it, so the host waits
    # only for the plan.
    rows = begin_count(plan, config)

    # The kernels add the residual to their outputs.
    coarse = None if gate is None else coarse_output(pooled_q, pooled_k, pooled_v)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    routing = plan.routing
    sparse_attention(
        q, k, v, *tail_means(plan, pooled_k, pooled_v, blocks, k.dtype), routing.dense_queries, routing.exact_blocks,
        plan.full, plan.taken, blocks.starts, blocks.lengths, out, gate, coarse, blocks.size,
        variance_k=None if variance_k is None else of_tail(plan, variance_k, k.dtype),
    )  # fmt: skip
    attend_dense_group(q, k, v, (pooled_k, pooled_v), out, plan, rows(), table, config, gate, coarse, dense)
    return out, routing


def _pool(k: torch.Tensor, v: torch.Tensor, blocks: Blocks, config: ISAConfig):
    """Block means of k and v, [B*H, N, D] in fp32, and the variance of the keys where `tail_order` needs it."""
    from ...kernels.pool import pool_blocks

    pooled_v = pool_blocks(v, *blocks)
    if config.tail_order != 2:
        return pool_blocks(k, *blocks), pooled_v, None
    pooled_k, variance_k = pool_blocks(k, *blocks, variance=True)
    # In fp16 the square of a large key is infinite, and its product with a query of zero is NaN.
    return pooled_k, pooled_v, variance_k.clamp(max=torch.finfo(k.dtype).max)
