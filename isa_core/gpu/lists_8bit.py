"""Step *attend* where no query block is dense and exact blocks are met in 8 bits: quantised copies, a few heads at a time."""

from __future__ import annotations

import torch

from ..memory import heads_at_once
from .plan import Blocks, KernelPlan, tail_means

COPIES_BYTES = 256 * 2**20
"""Bytes for the quantised keys and values of the heads in work."""


def attend_8bit(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pooled_k: torch.Tensor, pooled_v: torch.Tensor, variance_k: torch.Tensor | None,
    plan: KernelPlan, queries: Blocks, blocks: Blocks, out: torch.Tensor, gate: torch.Tensor | None, coarse: torch.Tensor | None,
) -> None:  # fmt: skip
    """Fill `out` [B, T, H, D], the gated residual included: `kernels.sparse_8bit` over all query blocks.

    pooled_k, pooled_v: block means [G, N, D]; variance_k: of the tail's keys [G, T, D] with tail_order 2, else None.
    """
    from ...kernels.quantize import quantize_keys, quantize_values
    from ...kernels.sparse_8bit import sparse_attention_8bit

    heads, count, dim = pooled_k.shape
    share = (blocks.lengths / blocks.lengths.sum())[None, :, None]
    centre_k, centre_v = ((x * share).sum(1) for x in (pooled_k, pooled_v))
    mean_k, mean_v, log_lengths = tail_means(plan, pooled_k - centre_k[:, None], pooled_v - centre_v[:, None], blocks, k.dtype)
    every = torch.arange(count, device=q.device, dtype=torch.int32)
    step = heads_at_once(heads, 2 * count * blocks.size * dim, COPIES_BYTES)
    for first in range(0, heads, step):
        some = slice(first, min(first + step, heads))
        number = torch.arange(some.start, some.stop, device=q.device, dtype=torch.int32)
        listed = every.expand(len(number), -1).contiguous()
        key, k_scale = quantize_keys(k, centre_k[some].contiguous(), number, listed, *blocks)
        value, v_scale = quantize_values(v, centre_v[some].contiguous(), number, listed, *blocks)
        sparse_attention_8bit(
            q, key, value, k_scale, v_scale, centre_v[some], mean_k, mean_v, log_lengths, first, plan.routing.exact_blocks,
            plan.full, plan.counts, plan.taken, queries.starts, blocks.lengths, out, gate, coarse, variance_k,
        )  # fmt: skip
