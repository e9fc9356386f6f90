"""ISA on the Triton kernels: the same steps as the PyTorch path, on strided tokens, without copies per head.

The dense group runs on whatever exact attention the caller gave, on compact copies of its queries and of the listed
keys and values; everything else is ours.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F

from .attend import dense_with_tail
from .config import ISAConfig, blocks_for
from .layout import BlockTable
from .memory import heads_at_once
from .route import RoutingPlan, coarse_scores, group_queries, list_blocks, top_mass_blocks


def attend_triton(q, k, v, out, table: BlockTable, config: ISAConfig, gate, dense) -> RoutingPlan:
    """Fill out [B, S, H, D] from q, k, v alike; gate [B, S, 1, 1] or None; dense as in `in_context_sparse_attention`."""
    from ..kernels.pool import pool_blocks
    from ..kernels.sparse import sparse_attention

    starts, lengths = _block_arrays(table, q.device)
    pooled_q, pooled_k, pooled_v = (pool_blocks(x, starts, lengths, table.block_size) for x in (q, k, v))
    plan, taken, tail = _plan(pooled_q, pooled_k, table, config)
    # Before the sparse kernel is queued: a read-back then waits for the plan alone, and the sparse kernel hides what follows.
    groups = list(_groups(plan, table, config))
    coarse = None
    if gate is not None:
        coarse = F.scaled_dot_product_attention(pooled_q, pooled_k, pooled_v)
    means = pooled_k.to(k.dtype), pooled_v.to(v.dtype)
    sparse_attention(
        q, k, v, *means, plan.dense_queries, plan.exact_blocks, taken, tail, starts, lengths, out, gate, coarse,
        table.block_size,
    )  # fmt: skip
    _attend_dense_group(q, k, v, *means, out, plan, groups, table, config, gate, coarse, dense, starts, lengths)
    return plan


def _plan(pooled_q, pooled_k, table, config):
    """(RoutingPlan of int32 lists, marks of tail entries that are in a row's list, the tail's blocks)."""
    from ..kernels.coarse import coarse_statistics
    from ..kernels.select import exact_lists

    top = top_mass_blocks(table, config) if config.sharpness == "top_mass" else None
    parts = []
    for part_q, part_k in zip(*(x.split(heads_at_once(4 * table.count**2)) for x in (pooled_q, pooled_k))):
        logits = coarse_scores(part_q, part_k)
        saliency, sharpness = coarse_statistics(logits, table.target_blocks, top)
        listed = list_blocks(saliency, table, config.keep_ratio).int()
        is_dense = group_queries(sharpness, config)
        count = blocks_for(config.exact_ratio, listed.shape[1])
        tail = listed.shape[1] if config.context_tail == "drop" else table.count
        parts.append((listed, is_dense, sharpness, *exact_lists(logits, listed, is_dense, count, tail)))
    listed, is_dense, sharpness, lists, taken = (torch.cat(part) for part in zip(*parts))
    if config.context_tail == "drop":
        tail = listed
    else:
        tail = torch.arange(table.count, device=listed.device, dtype=torch.int32).expand(len(listed), -1).contiguous()
    return RoutingPlan(listed, is_dense, lists, sharpness), taken, tail


def _attend_dense_group(q, k, v, mean_k, mean_v, out, plan, groups, table, config, gate, coarse, dense, starts, lengths):
    from ..kernels.compact import gather_blocks, scatter_blocks

    for heads, rows, tokens in groups:
        if rows == 0:
            continue
        per_head = 2 * (rows * table.block_size + tokens) * q.shape[3] * q.element_size()
        for part in heads.split(heads_at_once(per_head)):
            number = torch.arange(table.count, device=q.device).expand(len(part), -1)
            sharp = torch.where(plan.dense_queries[part], number, table.count).sort(1).values[:, :rows].int()
            row_offsets = (torch.arange(rows, device=q.device, dtype=torch.int32) * table.block_size).expand(len(part), -1)
            row_offsets = row_offsets.contiguous()
            listed = plan.kv_blocks[part]
            sizes = lengths[listed]
            offsets = (sizes.cumsum(1) - sizes).int()
            part = part.int()
            where = starts, lengths, table.block_size
            query = gather_blocks(q, part, sharp, row_offsets, rows * table.block_size, *where, whole_blocks=True)
            key, value = (gather_blocks(x, part, listed, offsets, tokens, *where) for x in (k, v))
            # Heads become one batch element: [1, tokens, heads, D].
            query, key, value = query[None], key[None], value[None]
            if config.context_tail == "drop":
                result = dense(query, key, value)
            else:
                result = dense_with_tail(query, key, value, mean_k[part], mean_v[part], listed.long(), table)
            scatter_blocks(result[0], out, part, sharp, row_offsets, *where, gate, coarse)


def _groups(plan: RoutingPlan, table: BlockTable, config: ISAConfig):
    """(heads, dense rows, listed tokens) for heads whose lists hold equally many tokens.

    Counts that only the device knows are read back once, and only where a layout or a threshold makes them differ.
    """
    heads = torch.arange(len(plan.kv_blocks), device=plan.kv_blocks.device)
    ratio_routed = config.sharpness_threshold is None
    rows = blocks_for(config.dense_query_ratio, table.count)
    ragged_context = any(length % table.block_size for length in table.layout.context)
    kept = plan.kv_blocks.shape[1] - table.target_blocks
    if ratio_routed and kept == table.context_blocks:
        yield heads, rows, table.layout.total
        return
    if ratio_routed and not ragged_context:
        yield heads, rows, table.layout.target + kept * table.block_size
        return
    tokens = table.lengths_on(heads.device)[plan.kv_blocks].sum(1)
    counts = torch.stack([plan.dense_queries.sum(1), tokens]).tolist()
    for size in sorted(set(counts[1])):
        group = [head for head, count in enumerate(counts[1]) if count == size]
        yield heads[group], max(counts[0][head] for head in group), size


@lru_cache(maxsize=64)
def _block_arrays(table: BlockTable, device) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.tensor(x, device=device, dtype=torch.int32) for x in (table.starts, table.lengths))
