"""One call of ISA on any backend: check -> choose a backend -> layout, pool, plan, attend, residual -> statistics."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from .attend import DenseAttention, attend_blocks, dense_attention
from .backend import resolve_backend, resolve_dense
from .config import ERROR_AWARE, SEGMENT_TOP_K, ISAConfig
from .exact_rows import rows_of, with_exact_rows
from .gpu.attend import attention_on_gpu
from .gpu.training import attention_with_gradients
from .layout import TARGET, BlockTable, TokenLayout, block_table
from .memory import head_chunks
from .plan import Coarse, RoutingMasks, RoutingPlan, coarse_scores, composite_shares, logit_spread
from .policies import error_aware, route
from .policies.segment_top_k import PER_BLOCK
from .pool import block_variances, pool_blocks
from .residual import residual
from .stats import ISAStats, attended, measure


# A compiler cannot trace this function and breaks its graph here. `compiled.compiled_attention` has no break.
@torch.compiler.disable
def run_call(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout, config: ISAConfig,
    coarse_gate: torch.Tensor | None, backend: str, dense: DenseAttention | str, needs_grad: bool, return_stats: bool,
    masks: RoutingMasks | None = None, count_attended: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, ISAStats]:  # fmt: skip
    """As `attention.in_context_sparse_attention`, which documents the arguments; needs_grad: whether autograd records it."""
    _check(q, k, v, layout, coarse_gate)
    rows, given, gate = layout if q.shape[1] == layout.total else layout.without_context, q, coarse_gate
    has_exact_rows = bool(layout.exact) and q.shape[1] == rows.total
    if has_exact_rows and rows != layout:  # a policy decides on all tokens that are not exact, or on the target's alone
        q = rows_of(q, rows.spans(TARGET))
        coarse_gate = None if gate is None else rows_of(gate, rows.spans(TARGET))
    if masks is not None:  # which list all blocks, have no dense queries, and say themselves what is met by means
        config = ISAConfig(1, 0, 1, block_size=config.block_size, tail_order=config.tail_order)
    name, reason = resolve_backend(backend, q.device, q.dtype, q.shape[3], config, needs_grad, bool(layout.exact))
    dense_name, dense_reason = resolve_dense(dense, name, q.device, config, needs_grad)
    if dense_name != "caller":
        dense = dense_attention if dense_name == "sdpa" else dense_name
    table = block_table(layout, config.block_size)
    if masks is not None:
        _check_masks(masks, q, table)
        masks = masks.with_exact(table)
    # Triton launches on the current GPU, even if the tensors are on another.
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        if name == "triton" and not needs_grad:
            out, plan = attention_on_gpu(q, k, v, table, config, coarse_gate, dense, masks)
            plans = [plan]
        elif name == "triton":
            if q.shape[1] != k.shape[1]:
                raise ValueError("the kernels have no gradient where q holds the target's tokens alone: use backend 'torch'.")
            assert callable(dense), "our kernels have no gradient, which resolve_dense knows"
            out, plan = attention_with_gradients(q, k, v, table, config, coarse_gate, dense, masks)
            plans = [plan]
        else:
            assert callable(dense), "our kernels need the other backend, which resolve_dense knows"
            out, plans = _attention_on_torch(q, k, v, table, config, coarse_gate, dense, return_stats, masks)
    if has_exact_rows:
        # What attends for dense query blocks in 8 bits, say, is not exact.
        exact_by = dense if callable(dense) else dense_attention
        out = with_exact_rows(out, given, k, v, layout, rows, gate, exact_by, config.block_size)
    if not return_stats:
        return out
    exact_rows = layout.exact if has_exact_rows else 0
    stats = _collect_stats(plans, q, exact_rows, table, config, (name, reason), (dense_name, dense_reason), count_attended)
    return out, stats


def _attention_on_torch(
    q, k, v, table: BlockTable, config: ISAConfig, gate, dense: DenseAttention, keep_plans: bool, masks: RoutingMasks | None
):
    """q, k, v [B, S, H, D] -> (like q, the plans of a few heads each)."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    plans = []
    for b in range(len(q)):
        factor = None if gate is None else gate[b, :, 0]
        threshold = _threshold(q[b], k[b], table, config) if config.policy == ERROR_AWARE else None
        for heads in head_chunks(k, table):
            part_q, part_k, part_v = (x[b, :, heads].transpose(0, 1) for x in (q, k, v))
            coarse, pooled_k, variance_k = _coarse(part_q, part_k, table, config)
            if masks is None:
                plan = route(coarse, table, config, threshold)
            else:
                first = b * q.shape[2]
                plan = masks.of(slice(first + heads.start, first + heads.stop)).plan(table)
            chunk = _heads_on_torch(part_q, part_k, part_v, pooled_k, variance_k, coarse, plan, table, config, factor, dense)
            out[b, :, heads] = chunk.transpose(0, 1)
            if keep_plans:
                plans.append(plan)
    return out, plans


def _threshold(q, k, table: BlockTable, config: ISAConfig) -> torch.Tensor:
    """q, k [S, H, D] -> the scalar for all heads of a batch element, which share a budget."""
    if config.error_threshold is not None:
        return torch.tensor(config.error_threshold, device=q.device, dtype=torch.promote_types(q.dtype, torch.float32))
    errors = []
    for heads in head_chunks(k[None], table):
        part_q, part_k = (x[:, heads].transpose(0, 1) for x in (q, k))
        coarse, *_ = _coarse(part_q, part_k, table, config)
        errors.append(error_aware.listed_error(coarse, table, config)[1])
    return error_aware.threshold(torch.cat(errors), table, config)


def _coarse(q, k, table: BlockTable, config: ISAConfig) -> tuple[Coarse, torch.Tensor, torch.Tensor | None]:
    """q, k [G, S, D] -> (coarse attention, block means of k, variances of k where something needs them)."""
    queries = table.of_queries(q.shape[1])
    pooled_q, pooled_k = pool_blocks(q, queries), pool_blocks(k, table)
    logits = coarse_scores(pooled_q, pooled_k)
    variance_k = spread = None
    if config.policy == ERROR_AWARE or config.tail_order == 2:
        variance_k = block_variances(k, pooled_k, table)
    if config.policy == ERROR_AWARE and variance_k is not None:
        with torch.no_grad():
            spread = logit_spread(block_variances(q, pooled_q, queries) + pooled_q.square(), variance_k)
    shares = None
    if config.policy == SEGMENT_TOP_K:
        with torch.no_grad():
            shares = composite_shares(q, k, table, PER_BLOCK)
    return Coarse(logits, logits.softmax(-1), spread, shares), pooled_k, variance_k


def _heads_on_torch(
    q,
    k,
    v,
    pooled_k,
    variance_k,
    coarse: Coarse,
    plan: RoutingPlan,
    table: BlockTable,
    config: ISAConfig,
    gate,
    dense: DenseAttention,
) -> torch.Tensor:
    """q, k, v [G, S, D] -> like q; pooled_k, variance_k, coarse: from `_coarse`."""
    queries = table.of_queries(q.shape[1])
    pooled_v = pool_blocks(v, table)
    block_q, block_k, block_v = queries.to_blocks(q), table.to_blocks(k), table.to_blocks(v)
    out = attend_blocks(block_q, block_k, block_v, pooled_k, pooled_v, variance_k, plan, table, config, dense)
    out = queries.to_tokens(out)
    if gate is not None:
        out = out + residual(coarse.probabilities, pooled_v, gate.to(out.dtype), queries)
    return out


def _collect_stats(plans, q, exact_rows, table, config, backend, dense, count_attended) -> ISAStats:
    batch_and_heads = (q.shape[0], q.shape[2])

    def joined(field):
        return torch.cat([field(plan) for plan in plans]).unflatten(0, batch_and_heads)

    density, flop_ratio = torch.cat([measure(plan, table, config, exact_rows) for plan in plans]).mean(0)
    return ISAStats(
        backend=backend[0],
        backend_reason=backend[1],
        dense_backend=dense[0],
        dense_reason=dense[1],
        kept_context=joined(lambda plan: plan.kv_blocks[:, table.target_blocks : plan.kv_blocks.shape[1] - table.exact_blocks]),
        dense_queries=joined(lambda plan: plan.dense_queries),
        sharpness=joined(lambda plan: plan.sharpness),
        mean_density=density,
        mean_flop_ratio=flop_ratio,
        attended=joined(lambda plan: attended(plan, table)) if count_attended else None,
    )


def _check(q, k, v, layout, gate):
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape or (*q.shape[:1], *q.shape[2:]) != (*k.shape[:1], *k.shape[2:]):
        raise ValueError(
            "q, k and v must be [B, S, H, D] of one shape, of which q may hold all but the context's tokens, or the target's alone; "
            f"got {[*q.shape]}, {[*k.shape]}, {[*v.shape]}."
        )
    if not q.is_floating_point() or not q.dtype == k.dtype == v.dtype or not q.device == k.device == v.device:
        raise ValueError(
            "q, k and v must share one floating-point dtype and one device; "
            f"got {q.dtype} on {q.device}, {k.dtype} on {k.device}, {v.dtype} on {v.device}."
        )
    if k.shape[1] != layout.total or q.shape[1] not in (layout.total, layout.without_context.total, layout.target):
        held = f"q, k and v hold {q.shape[1]}" if q.shape[1] == k.shape[1] else f"q holds {q.shape[1]}, k and v {k.shape[1]}"
        raise ValueError(f"the layout describes {layout.total} tokens ({layout}), but {held}.")
    if gate is not None and gate.shape != (q.shape[0], q.shape[1], 1, 1):
        raise ValueError(f"coarse_gate must be [B, S, 1, 1] = {[q.shape[0], q.shape[1], 1, 1]}; got {[*gate.shape]}.")


def _check_masks(masks: RoutingMasks, q, table: BlockTable):
    wanted = q.shape[0] * q.shape[2], table.of_queries(q.shape[1]).count, table.count
    for name in ("exact", "by_mean"):
        mask = getattr(masks, name)
        if mask.shape != wanted or mask.dtype != torch.bool or mask.device != q.device:
            raise ValueError(
                f"masks.{name} must be bool, [B·H, query blocks, KV blocks] = {[*wanted]}, on {q.device}; "
                f"got {mask.dtype}, {[*mask.shape]}, on {mask.device}."
            )
