"""Composite tokens, after UniSparse (arXiv 2512.14082): several means stand for a block, and the fewest blocks are exact that hold a
share of the attention.

The abstract says as much. Factors, threshold and selection are not public, hence "-style": ours are 16 tokens to a composite and
a share of each token group's attention, as one of both together would starve the context.
"""

from __future__ import annotations

import torch

from ..layout import BlockTable, TokenLayout
from ..plan import RoutingMasks, composite_shares
from .by_heads import by_heads


def masks(
    q: torch.Tensor,
    k: torch.Tensor,
    layout: TokenLayout,
    share: float,
    tail: bool = False,
    composite: int = 16,
    block_size: int = 64,
) -> RoutingMasks:
    """q, k [B, S, H, D].

    share: of a query block's attention to a token group, in composite tokens, that its exact blocks of the group hold.
    tail: whether all other blocks count through their mean, instead of not at all.
    composite: tokens; divides `block_size`.
    """

    def decide(q: torch.Tensor, k: torch.Tensor, table: BlockTable) -> tuple[torch.Tensor, torch.Tensor]:
        shares = composite_shares(q, k, table, block_size // composite)
        exact = torch.cat([_most(part, share) for part in shares.split(table.segment_blocks, dim=2)], dim=2)
        exact.diagonal(dim1=1, dim2=2).fill_(True)
        return exact, torch.full_like(exact, tail)

    return by_heads(q, k, layout, decide, block_size)


def _most(values: torch.Tensor, share: float) -> torch.Tensor:
    """values [G, R, n] -> bool alike: the fewest of a row whose sum is at least `share` of the row's."""
    largest, places = values.sort(2, descending=True)
    before = largest.cumsum(2) - largest
    return torch.zeros_like(values, dtype=torch.bool).scatter_(2, places, before < share * values.sum(2, keepdim=True))
