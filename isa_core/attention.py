"""In-context Sparse Attention, whole: layout -> pool -> route -> attend -> residual."""

from __future__ import annotations

import torch

from .attend import DenseAttention, attend, dense_attention
from .attend_triton import attend_triton
from .backend import resolve_backend
from .config import ISAConfig
from .layout import BlockTable, TokenLayout, block_table
from .memory import head_chunks
from .pool import pool_blocks
from .residual import residual
from .route import coarse_scores, route
from .stats import ISAStats, measure


def in_context_sparse_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    layout: TokenLayout,
    config: ISAConfig = ISAConfig(),
    coarse_gate: torch.Tensor | None = None,
    backend: str = "auto",
    dense: DenseAttention = dense_attention,
    return_stats: bool = False,
):
    """ISA (arXiv 2605.04569, section 3) for one self-attention over target and context tokens.

    q, k, v: [B, S, H, D], floating point, S = layout.total, any strides.
    coarse_gate: [B, S, 1, 1] factor of the coarse residual, or None for no residual.
    backend: "auto", "triton" or "torch"; "torch" runs on any device and dtype, and alone has gradients;
        "auto" takes it where they are needed.
    dense: exact attention for the sharp query group, e.g. the one the user of a host program chose.
        Not used with context_tail="taylor", which needs a bias per key.
    Returns [B, S, H, D] in q's dtype, with `return_stats` also an ISAStats.

    No S × S tensor exists: beyond inputs and output it needs about `memory.WORKSPACE_BYTES`.

    Raises ValueError for tensors that do not match each other or the layout; BackendUnavailable.
    """
    _check(q, k, v, layout, coarse_gate)
    needs_grad = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, coarse_gate))
    name, reason = resolve_backend(backend, q.device, q.dtype, needs_grad)
    table = block_table(layout, config.block_size)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if name == "triton":
        plans = [attend_triton(q, k, v, out, table, config, coarse_gate, dense)]
        return (out, _collect_stats(plans, q, table, config, name, reason)) if return_stats else out
    plans = []
    for b, heads in head_chunks(q, table):
        gate = None if coarse_gate is None else coarse_gate[b, :, 0]
        chunk, plan = _attend_heads(*(x[b, :, heads].transpose(0, 1) for x in (q, k, v)), table, config, gate, dense)
        out[b, :, heads] = chunk.transpose(0, 1)
        if return_stats:
            plans.append(plan)
    if not return_stats:
        return out
    return out, _collect_stats(plans, q, table, config, name, reason)


def _attend_heads(q, k, v, table: BlockTable, config: ISAConfig, gate, dense: DenseAttention):
    """[G, S, D] each -> ([G, S, D], RoutingPlan)."""
    pooled_q, pooled_k, pooled_v = (pool_blocks(x, table) for x in (q, k, v))
    scores = coarse_scores(pooled_q, pooled_k)
    probabilities = scores.softmax(-1)
    plan = route(scores, probabilities, table, config)
    blocks = (table.to_blocks(x) for x in (q, k, v))
    out = table.to_tokens(attend(*blocks, pooled_k, pooled_v, plan, table, config, dense))
    if gate is not None:
        out = out + residual(probabilities, pooled_v, gate.to(out.dtype), table)
    return out, plan


def _collect_stats(plans, q, table, config, name, reason) -> ISAStats:
    batch_and_heads = (q.shape[0], q.shape[2])

    def joined(field):
        return torch.cat([field(plan) for plan in plans]).unflatten(0, batch_and_heads)

    density, flop_ratio = torch.cat([measure(plan, table, config) for plan in plans]).mean(0)
    return ISAStats(
        backend=name,
        backend_reason=reason,
        kept_context=joined(lambda plan: plan.kv_blocks[:, table.target_blocks :]),
        dense_queries=joined(lambda plan: plan.dense_queries),
        sharpness=joined(lambda plan: plan.sharpness),
        mean_density=density,
        mean_flop_ratio=flop_ratio,
    )


def _check(q, k, v, layout, gate):
    if q.ndim != 4 or q.shape != k.shape or q.shape != v.shape:
        raise ValueError(f"q, k and v must be [B, S, H, D] of one shape; got {[*q.shape]}, {[*k.shape]}, {[*v.shape]}.")
    if not q.is_floating_point() or not q.dtype == k.dtype == v.dtype or not q.device == k.device == v.device:
        raise ValueError(
            "q, k and v must share one floating-point dtype and one device; "
            f"got {q.dtype} on {q.device}, {k.dtype} on {k.device}, {v.dtype} on {v.device}."
        )
    if q.shape[1] != layout.total:
        raise ValueError(
            f"the layout describes {layout.total} tokens ({' + '.join(map(str, layout.segments))}), "
            f"but q, k and v hold {q.shape[1]}."
        )
    if gate is not None and gate.shape != (q.shape[0], q.shape[1], 1, 1):
        raise ValueError(f"coarse_gate must be [B, S, 1, 1] = {[q.shape[0], q.shape[1], 1, 1]}; got {[*gate.shape]}.")
