"""Which query blocks attend to which KV blocks: the input of a policy (coarse scores) and its output (a RoutingPlan)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .layout import BlockTable
from .pool import pool_composites


@dataclass(frozen=True)
class RoutingPlan:
    """The decisions for G heads, R blocks of queries and N of keys: the first R of N, all but the exact ones or the target's.

    kv_blocks: [G, L] int64, ascending: all target blocks, the kept context blocks and the exact ones. Every query sees only these.
    dense_queries: [G, R] bool: query blocks that attend their whole KV list exactly.
    exact_blocks: [G, R, E] int64, ascending: KV blocks that a sparse query block attends exactly; N where it has fewer than others.
    sharpness: [G, R] of each query block.
    exact_counts, exact_tokens: [G, R], blocks of each list and their tokens; None where all lists have E blocks.
    by_mean: [G, R, N] bool, blocks that count through their mean; None where they are all that `kv_blocks` and the
        configuration's `context_tail` leave.
    """

    kv_blocks: torch.Tensor
    dense_queries: torch.Tensor
    exact_blocks: torch.Tensor
    sharpness: torch.Tensor
    exact_counts: torch.Tensor | None = None
    exact_tokens: torch.Tensor | None = None
    by_mean: torch.Tensor | None = None


@dataclass(frozen=True)
class RoutingMasks:
    """Decisions that a caller brings: of a policy beside ISA's own, or its own. [B·H, R, N] bool each, as in a RoutingPlan.

    exact: pairs of blocks that attend exactly. by_mean: KV blocks that count through their mean where they are not exact.
    What is neither is left out. A row that has neither gives NaN.
    """

    exact: torch.Tensor
    by_mean: torch.Tensor

    def with_exact(self, table: BlockTable) -> RoutingMasks:
        """The same decisions, but every query block attends exactly to the exact segments of a layout that has some."""
        if not table.exact_blocks:
            return self
        exact = self.exact.clone()
        exact[:, :, table.exact_columns] = True
        return RoutingMasks(exact, self.by_mean)

    def of(self, heads: slice) -> RoutingMasks:
        return RoutingMasks(self.exact[heads], self.by_mean[heads])

    def plan(self, table: BlockTable) -> RoutingPlan:
        heads, rows, count = self.exact.shape
        blocks, counts, tokens = as_lists(self.exact, table)
        return RoutingPlan(
            kv_blocks=torch.arange(count, device=blocks.device).expand(heads, -1),
            dense_queries=blocks.new_zeros(heads, rows, dtype=torch.bool),
            exact_blocks=blocks,
            sharpness=torch.zeros(heads, rows, device=blocks.device),
            exact_counts=counts,
            exact_tokens=tokens,
            by_mean=self.by_mean & ~self.exact,
        )


def as_lists(exact: torch.Tensor, table: BlockTable) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """exact [G, R, N] bool -> the exact_blocks, exact_counts and exact_tokens of a RoutingPlan."""
    counts = exact.sum(2)
    blocks = torch.where(exact, torch.arange(table.count, device=exact.device), table.count).sort(2).values
    return blocks[:, :, : int(counts.max())], counts, (exact * table.lengths_on(exact.device)).sum(2)


@dataclass(frozen=True)
class Coarse:
    """What policies see of G heads: attention of blocks over blocks, [G, R, N] each.

    logits: `Qc Kcᵀ / √D`; probabilities: their softmax.
    spread: variance of a query block's logits within a KV block, for policies that need it.
    shares: attention of composite tokens summed over pairs of blocks (`composite_shares`), for policies that need it.
    """

    logits: torch.Tensor
    probabilities: torch.Tensor
    spread: torch.Tensor | None = None
    shares: torch.Tensor | None = None


def coarse_scores(pooled_q: torch.Tensor, pooled_k: torch.Tensor) -> torch.Tensor:
    """Block means [G, R, D] and [G, N, D] -> [G, R, N] attention logits of blocks, `Qc Kcᵀ / √D`."""
    return (pooled_q * pooled_q.shape[-1] ** -0.5) @ pooled_k.transpose(1, 2)


def composite_shares(q: torch.Tensor, k: torch.Tensor, table: BlockTable, per_block: int) -> torch.Tensor:
    """q [G, T, D], k [G, S, D] -> [G, R, N]: attention of composite tokens, `per_block` to a block, summed over pairs of blocks.

    A row of composite queries is a softmax over all composite keys, which weigh as many tokens as they stand for; so the
    cells of a row add up to the composite tokens of its block.
    """
    means_q, tokens_q = pool_composites(q, table.of_queries(q.shape[1]), per_block)
    means_k, tokens_k = pool_composites(k, table, per_block)
    shares = (coarse_scores(means_q, means_k) + tokens_k.to(means_k.dtype).log()).softmax(2)
    of_blocks = shares.unflatten(2, (-1, per_block)).sum(3) * (tokens_q > 0)[:, None]
    return of_blocks.unflatten(1, (-1, per_block)).sum(2)


def logit_spread(square_q: torch.Tensor, variance_k: torch.Tensor) -> torch.Tensor:
    """[G, R, D] means of squared queries, [G, N, D] variances of keys -> [G, R, N], the logits' variance within a KV block.

    It is `Σ_d mean(q_d²) var_d(k) / D`, channels taken as independent.
    """
    return (square_q / square_q.shape[-1]) @ variance_k.transpose(1, 2)
