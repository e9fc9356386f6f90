"""In-context Sparse Attention, whole: layout -> pool -> route -> attend -> residual."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from .attend import DenseAttention, attend, dense_attention
from .backend import resolve_backend, resolve_dense
from .compiled import compiled_attention
from .config import ISAConfig
from .gpu.attend import attend_triton
from .gpu.training import attend_with_gradients
from .layout import BlockTable, TokenLayout, block_table
from .memory import head_chunks
from .plan import coarse_scores, route
from .pool import block_variances, pool_blocks
from .residual import residual
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
    dense: DenseAttention | str = "auto",
    return_stats: bool = False,
):
    """ISA (arXiv 2605.04569, section 3) for one self-attention over target and context tokens.

    q, k, v: [B, S, H, D], floating point, S = layout.total, any strides.
    coarse_gate: [B, S, 1, 1] factor of the coarse residual, or None for no residual.
    backend: "auto", "triton" or "torch"; "torch" runs on any device and dtype.
    dense: what attends for the sharp query group: a function, e.g. the attention the user of a host program chose,
        "sdpa" (PyTorch's), "triton", "8bit" (INT8 scores, FP8 values; docs/kernels.md states its error) or "auto".
        A function is not used with context_tail="taylor", which needs a bias per key.
    Returns [B, S, H, D] in q's dtype, with `return_stats` also an ISAStats.

    No S × S tensor exists: beyond inputs and output it needs about `memory.WORKSPACE_BYTES`.

    Raises ValueError for tensors that do not match each other or the layout; BackendUnavailable.
    """
    needs_grad = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, coarse_gate))
    if torch.compiler.is_compiling() and isinstance(dense, str) and not needs_grad and not return_stats:
        return compiled_attention(q, k, v, coarse_gate, layout, config, backend, dense)
    return attend_now(q, k, v, layout, config, coarse_gate, backend, dense, needs_grad, return_stats)


# What a compiler cannot see through ends its graph here; `compiled_attention` is the way without a break.
@torch.compiler.disable
def attend_now(q, k, v, layout, config, coarse_gate, backend, dense, needs_grad, return_stats):
    _check(q, k, v, layout, coarse_gate)
    name, reason = resolve_backend(backend, q.device, q.dtype, q.shape[3], config, needs_grad)
    dense_name, dense_reason = resolve_dense(dense, name, q.device, config.context_tail, needs_grad)
    dense = {"caller": dense, "sdpa": dense_attention}.get(dense_name, dense_name)
    table = block_table(layout, config.block_size)
    # Triton launches on the current GPU, wherever the tensors are.
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        if name == "triton" and needs_grad:
            out, plan = attend_with_gradients(q, k, v, table, config, coarse_gate, dense)
            plans = [plan]
        elif name == "triton":
            out = torch.empty_like(q, memory_format=torch.contiguous_format)
            plans = [attend_triton(q, k, v, out, table, config, coarse_gate, dense)]
        else:
            out, plans = _attend_torch(q, k, v, table, config, coarse_gate, dense, return_stats)
    if not return_stats:
        return out
    return out, _collect_stats(plans, q, table, config, (name, reason), (dense_name, dense_reason))


def warm_up(
    layout: TokenLayout, heads: int, dim: int, dtype: torch.dtype, device, config: ISAConfig = ISAConfig(), **options
) -> None:
    """Compile now what a later call of this shape needs: B = 1, contiguous q, k, v and a gate; options as for the call itself."""
    q, k, v = (torch.randn(1, layout.total, heads, dim, device=device, dtype=dtype) for _ in range(3))
    gate = torch.zeros(1, layout.total, 1, 1, device=device, dtype=dtype)
    in_context_sparse_attention(q, k, v, layout=layout, config=config, coarse_gate=gate, **options)


def _attend_torch(q, k, v, table: BlockTable, config: ISAConfig, gate, dense: DenseAttention, keep_plans: bool):
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    plans = []
    for b, heads in head_chunks(q, table):
        factor = None if gate is None else gate[b, :, 0]
        chunk, plan = _attend_heads(*(x[b, :, heads].transpose(0, 1) for x in (q, k, v)), table, config, factor, dense)
        out[b, :, heads] = chunk.transpose(0, 1)
        if keep_plans:
            plans.append(plan)
    return out, plans


def _attend_heads(q, k, v, table: BlockTable, config: ISAConfig, gate, dense: DenseAttention):
    """[G, S, D] each -> ([G, S, D], RoutingPlan)."""
    pooled_q, pooled_k, pooled_v = (pool_blocks(x, table) for x in (q, k, v))
    scores = coarse_scores(pooled_q, pooled_k)
    probabilities = scores.softmax(-1)
    plan = route(scores, probabilities, table, config)
    blocks = (table.to_blocks(x) for x in (q, k, v))
    variance_k = block_variances(k, pooled_k, table) if config.tail_order == 2 else None
    out = table.to_tokens(attend(*blocks, pooled_k, pooled_v, variance_k, plan, table, config, dense))
    if gate is not None:
        out = out + residual(probabilities, pooled_v, gate.to(out.dtype), table)
    return out, plan


def _collect_stats(plans, q, table, config, backend, dense) -> ISAStats:
    batch_and_heads = (q.shape[0], q.shape[2])

    def joined(field):
        return torch.cat([field(plan) for plan in plans]).unflatten(0, batch_and_heads)

    density, flop_ratio = torch.cat([measure(plan, table, config) for plan in plans]).mean(0)
    return ISAStats(
        backend=backend[0],
        backend_reason=backend[1],
        dense_backend=dense[0],
        dense_reason=dense[1],
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
