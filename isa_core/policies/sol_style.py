"""Row statistics, after Sol-Attn (arXiv 2607.24027): a pair is exact if its coarse logit is far above its row's mean.

Its own kernels decide while they attend. Here decisions come first, so that our kernels run what it would choose.
"""

from __future__ import annotations

from statistics import NormalDist

import torch

from ..layout import BlockTable, TokenLayout
from ..plan import RoutingMasks, coarse_scores
from ..pool import pool_blocks
from .by_heads import by_heads


def masks(q: torch.Tensor, k: torch.Tensor, layout: TokenLayout, share: float, block_size: int = 64) -> RoutingMasks:
    """q, k [B, S, H, D]. share: of pairs that are exact if a row's logits are spread normally, between 0 and 1; all else counts
    through its mean."""
    deviations = NormalDist().inv_cdf(1 - share)

    def decide(q: torch.Tensor, k: torch.Tensor, table: BlockTable) -> tuple[torch.Tensor, torch.Tensor]:
        logits = coarse_scores(pool_blocks(q, table.of_queries(q.shape[1])), pool_blocks(k, table))
        exact = logits > logits.mean(2, keepdim=True) + deviations * logits.std(2, correction=0, keepdim=True)
        return exact, torch.ones_like(exact)

    return by_heads(q, k, layout, decide, block_size)
