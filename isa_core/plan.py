"""Which query blocks attend to which KV blocks: the input of a policy (coarse scores) and its output (a RoutingPlan)."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RoutingPlan:
    """The decisions for G heads, R blocks of queries and N of keys: R = N, or R are the target's, the first of N.

    kv_blocks: [G, L] int64, ascending: all target blocks and the kept context blocks. Every query sees only these.
    dense_queries: [G, R] bool: query blocks that attend their whole KV list exactly.
    exact_blocks: [G, R, E] int64, ascending: KV blocks that a sparse query block attends exactly; N where it has fewer than others.
    sharpness: [G, R] of each query block.
    exact_counts, exact_tokens: [G, R], blocks of each list and their tokens; None where all lists have E blocks.
    """

    kv_blocks: torch.Tensor
    dense_queries: torch.Tensor
    exact_blocks: torch.Tensor
    sharpness: torch.Tensor
    exact_counts: torch.Tensor | None = None
    exact_tokens: torch.Tensor | None = None


@dataclass(frozen=True)
class Coarse:
    """What policies see of G heads: attention of blocks over blocks, [G, R, N] each.

    logits: `Qc Kcᵀ / √D`; probabilities: their softmax.
    spread: variance of a query block's logits within a KV block, for policies that need it.
    """

    logits: torch.Tensor
    probabilities: torch.Tensor
    spread: torch.Tensor | None = None


def coarse_scores(pooled_q: torch.Tensor, pooled_k: torch.Tensor) -> torch.Tensor:
    """Block means [G, R, D] and [G, N, D] -> [G, R, N] attention logits of blocks, `Qc Kcᵀ / √D`."""
    return (pooled_q * pooled_q.shape[-1] ** -0.5) @ pooled_k.transpose(1, 2)


def logit_spread(square_q: torch.Tensor, variance_k: torch.Tensor) -> torch.Tensor:
    """[G, R, D] means of squared queries, [G, N, D] variances of keys -> [G, R, N], the logits' variance within a KV block.

    It is `Σ_d mean(q_d²) var_d(k) / D`, channels taken as independent.
    """
    return (square_q / square_q.shape[-1]) @ variance_k.transpose(1, 2)
