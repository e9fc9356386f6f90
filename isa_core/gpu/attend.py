"""ISA on the Triton kernels, on strided tokens, without copies per head: pool -> plan -> attend (sparse, dense) -> residual."""

from __future__ import annotations

import torch

from ..attend import DenseAttention
from ..config import ERROR_AWARE, ISAConfig
from ..layout import BlockTable
from ..plan import RoutingMasks, RoutingPlan
from ..residual import coarse_output
from .dense_group import attend_dense_group, begin_count
from .lists_8bit import attend_8bit
from .plan import blocks_on, make_plan, of_tail, plan_of, pool, tail_means


@torch.no_grad()
def attention_on_gpu(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: BlockTable, config: ISAConfig, gate: torch.Tensor | None,
    dense: DenseAttention | str, masks: RoutingMasks | None = None,
) -> tuple[torch.Tensor, RoutingPlan]:  # fmt: skip
    """q [B, T, H, D], k, v [B, S, H, D] of any strides, T the tokens of all blocks or of the target's, gate [B, T, 1, 1] or
    None -> (out like q, contiguous, whose rows of exact segments are not written; the decisions of B*H heads).

    dense: what attends for dense query blocks: a function, or "triton" or "8bit" for our kernels.
    masks: decisions of the caller.
    """
    from ...kernels.sparse import sparse_attention

    blocks, queries = blocks_on(table, q.device), blocks_on(table.of_queries(q.shape[1]), q.device)
    routed, second = config.policy == ERROR_AWARE, config.tail_order == 2
    of_q, of_k = pool(q, queries, variance=routed), pool(k, blocks, variance=routed or second)
    pooled_q, pooled_k, pooled_v = of_q.mean, of_k.mean, pool(v, blocks).mean

    plan = make_plan(q, k, of_q, of_k, table, config) if masks is None else plan_of(masks, table)
    # With a threshold, the read-back starts before the sparse kernel is queued and is awaited after it, so the host waits
    # only for the plan.
    rows = begin_count(plan, config)

    # The kernels add the residual to their outputs.
    coarse = None if gate is None else coarse_output(pooled_q, pooled_k, pooled_v)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    routing = plan.routing
    variance_k = of_tail(plan, of_k.variance, k.dtype) if second and of_k.variance is not None else None
    if dense == "8bit" and config.no_dense_queries:
        attend_8bit(q, k, v, pooled_k, pooled_v, variance_k, plan, queries, blocks, out, gate, coarse)
        return out, routing
    sparse_attention(
        q, k, v, *tail_means(plan, pooled_k, pooled_v, blocks, k.dtype), routing.dense_queries, routing.exact_blocks,
        plan.full, plan.counts, plan.taken, blocks.starts, blocks.lengths, out, gate, coarse, blocks.size,
        variance_k=variance_k, row_starts=queries.starts,
    )  # fmt: skip
    attend_dense_group(q, k, v, (pooled_k, pooled_v), out, plan, rows(), table, config, gate, coarse, dense)
    return out, routing
