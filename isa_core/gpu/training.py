"""ISA on the Triton kernels with gradients: our backward for sparse query blocks, the library's own for dense ones.

Routing is constant: no gradient flows through which blocks meet.

Tensors are kept for the backward pass by `save_for_backward` alone, which gradient checkpointing and offload to main memory see. A graph of the
library's would escape both, so what it keeps is taken out of it (`kept_graph.py`).
"""

from __future__ import annotations

import torch

from ..attend import DenseAttention, dense_with_tail
from ..config import ERROR_AWARE, ISAConfig
from ..layout import BlockTable
from ..plan import RoutingMasks, RoutingPlan
from ..residual import coarse_output
from .dense_group import begin_count, gathered, turns
from .kept_graph import KeptGraph
from .plan import Blocks, KernelPlan, blocks_on, make_plan, plan_of, pool, tail_means


def attention_with_gradients(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: BlockTable, config: ISAConfig, gate: torch.Tensor | None,
    dense: DenseAttention, masks: RoutingMasks | None = None,
) -> tuple[torch.Tensor, RoutingPlan]:  # fmt: skip
    """q, k, v [B, S, H, D], gate [B, S, 1, 1] or None -> (out like q, decisions), differentiable once in all four."""
    routings: list[RoutingPlan] = []
    out, *pooled = _Attention.apply(q, k, v, table, config, dense, masks, routings)
    if gate is not None:
        coarse = coarse_output(*pooled).unflatten(0, (q.shape[0], q.shape[2]))
        added = gate * table.spread(coarse.flatten(0, 1)).unflatten(0, coarse.shape[:2]).transpose(1, 2)
        out = out + added.to(out.dtype)
    return out, routings[0]


class _Attention(torch.autograd.Function):
    """(q, k, v) -> (attention without the residual, block means of q, k, v [B*H, N, D] fp32)."""

    @staticmethod
    def forward(ctx, q, k, v, table, config, dense, masks, routings):
        from ...kernels.sparse import sparse_attention

        ctx.set_materialize_grads(False)
        blocks, routed = blocks_on(table, q.device), config.policy == ERROR_AWARE
        of_q, of_k = (pool(x, blocks, variance=routed) for x in (q, k))
        pooled_q, pooled_k, pooled_v = of_q.mean, of_k.mean, pool(v, blocks).mean
        plan = make_plan(q, k, of_q, of_k, table, config) if masks is None else plan_of(masks, table)
        rows = begin_count(plan, config)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        log_sum = torch.empty(q.shape[0] * q.shape[2], q.shape[1], device=q.device, dtype=torch.float32)
        sparse_attention(
            q, k, v, *tail_means(plan, pooled_k, pooled_v, blocks, k.dtype), plan.routing.dense_queries,
            plan.routing.exact_blocks, plan.full, plan.counts, plan.taken, blocks.starts, blocks.lengths, out, block_size=blocks.size, log_sum=log_sum,
        )  # fmt: skip
        count = rows()
        ctx.turns = [_DenseTurn(heads, plan, count, table, config, blocks, dense) for heads in turns(q, plan, table, count)]
        means = pooled_k.to(k.dtype), pooled_v.to(k.dtype)
        kept = [x for turn in ctx.turns for x in turn.attend(q, k, v, means, out)]
        ctx.plan, ctx.blocks = plan, blocks
        ctx.save_for_backward(q, k, v, out, log_sum, *means, *kept)
        routings.append(plan.routing)
        return out, pooled_q, pooled_k, pooled_v

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_out, *d_pooled):
        from ...kernels.backward import sparse_attention_backward, spread_means

        q, k, v, out, log_sum, mean_k, mean_v, *kept = ctx.saved_tensors
        plan, blocks = ctx.plan, ctx.blocks
        if d_out is None:
            d_out = torch.zeros_like(out)
        *d_tokens, d_mean_k, d_mean_v = sparse_attention_backward(
            q, k, v, mean_k, mean_v, plan.routing.dense_queries, plan.routing.exact_blocks, plan.counts, plan.taken, plan.tail.contiguous(),
            blocks.starts, blocks.lengths, out, log_sum, d_out, blocks.size,
        )  # fmt: skip
        d_means = [None, d_mean_k, d_mean_v]
        for turn in ctx.turns:
            own, kept = kept[: turn.kept], kept[turn.kept :]
            turn.add_gradients(own, d_out, d_tokens, d_means)
        for d_x, d_mean, d_pool in zip(d_tokens, d_means, d_pooled):
            total = d_pool if d_mean is None else d_mean if d_pool is None else d_mean + d_pool
            if total is not None:
                spread_means(total, d_x, blocks.starts, blocks.lengths, blocks.size)
        return *d_tokens, *[None] * 5


class _DenseTurn:
    """The dense query blocks of a few heads."""

    def __init__(
        self, heads, plan: KernelPlan, rows: int, table: BlockTable, config: ISAConfig, blocks: Blocks, dense: DenseAttention
    ):
        self.heads, self.number, self.plan = heads, heads.int(), plan
        self.dense_rows = plan.dense_rows[heads, :rows].contiguous()
        self.table, self.config, self.blocks, self.dense = table, config, blocks, dense

    def attend(self, q, k, v, means, out) -> list[torch.Tensor]:
        """Fill these rows of out -> what the backward pass needs."""
        from ...kernels.compact import scatter_blocks

        tokens = self.table.listed_tokens(self.config.keep_ratio)
        *inputs, self.listed, self.offsets = gathered(
            q, k, v, self.heads, self.dense_rows, self.plan.routing, tokens, self.blocks, self.blocks
        )  # fmt: skip
        if self.config.context_tail == "taylor":
            inputs += [x[self.heads] for x in means]
        self.graph = KeptGraph(self._attended, inputs)
        result, kept = self.graph.take()
        self.kept = len(kept)
        scatter_blocks(result, out, self.number, self.dense_rows, *self.blocks)
        return kept

    def add_gradients(self, kept, d_out, d_tokens, d_means) -> None:
        """kept: what `attend` returned."""
        from ...kernels.compact import gather_blocks, scatter_blocks

        rows = self.dense_rows.shape[1] * self.blocks.size
        d_result = gather_blocks(d_out, self.number, self.dense_rows, None, rows, *self.blocks)
        d_query, d_key, d_value, *d_tail = self.graph.gradients(kept, d_result)
        # Rows of dense query blocks are zero so far. The gradients of keys and values already contain the sparse group's part.
        scatter_blocks(d_query, d_tokens[0], self.number, self.dense_rows, *self.blocks)
        for d_compact, d_x in zip((d_key, d_value), d_tokens[1:]):
            scatter_blocks(d_compact, d_x, self.number, self.listed, *self.blocks, offsets=self.offsets, add=True)
        for d_mean, d_part in zip(d_means[1:], d_tail):
            d_mean.index_add_(0, self.heads, d_part.to(d_mean.dtype))

    def _attended(self, query, key, value, *means) -> torch.Tensor:
        """[rows * block_size, heads, D]."""
        query, key, value = (x[None] for x in (query, key, value))
        if means:
            mean_k, mean_v = means
            return dense_with_tail(query, key, value, mean_k, mean_v, self.listed.long(), self.table)[0]
        return self.dense(query, key, value)[0]
