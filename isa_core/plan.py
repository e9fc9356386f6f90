"""Which query blocks attend to which KV blocks: the input of a policy (coarse scores) and its output (a RoutingPlan)."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RoutingPlan:
    """The decisions for G heads, R blocks of queries and N of keys: R = N, or R are the target's, the first of N.

    kv_blocks: [G, L] int64, ascending: all target blocks and the kept context blocks. Every query sees only these.
    dense_queries: [G, R] bool: query blocks that attend their whole KV list exactly.
    exact_blocks: [G, R, E] int64, ascending: KV blocks that a sparse query block attends exactly.
    sharpness: [G, R] of each query block.
    """

    kv_blocks: torch.Tensor
    dense_queries: torch.Tensor
    exact_blocks: torch.Tensor
    sharpness: torch.Tensor


def coarse_scores(pooled_q: torch.Tensor, pooled_k: torch.Tensor) -> torch.Tensor:
    """Block means [G, R, D] and [G, N, D] -> [G, R, N] attention logits of blocks, `Qc Kcᵀ / √D`."""
    return (pooled_q * pooled_q.shape[-1] ** -0.5) @ pooled_k.transpose(1, 2)
