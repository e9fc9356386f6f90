"""Composite tokens, after UniSparse (arXiv 2512.14082): several means stand for a block, and the fewest blocks are exact that hold a
share of the attention.

The abstract says as much. Factors, threshold and selection are not public, hence "-style": ours are 16 tokens to a composite and
a share of each token group's attention, as one of both together would starve the context.
"""

from __future__ import annotations

import torch

from ..layout import BlockTable, TokenLayout, block_table
from ..plan import RoutingMasks, coarse_scores
from ..pool import pool_blocks
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
    fine = block_table(layout, composite)
    # Composite tokens as tokens, of which a block holds several.
    numbers = TokenLayout(*_split(tuple(-(-tokens // composite) for tokens in layout.segments)))
    cells = block_table(numbers, block_size // composite)

    def decide(q: torch.Tensor, k: torch.Tensor, table: BlockTable) -> tuple[torch.Tensor, torch.Tensor]:
        logits = coarse_scores(pool_blocks(q, fine.of_queries(q.shape[1])), pool_blocks(k, fine))
        shares = (logits + fine.lengths_on(k.device).log()).softmax(2)
        of_blocks = cells.to_blocks(shares.transpose(1, 2)).sum(2)
        rows = cells.of_queries(of_blocks.shape[2])
        summed = rows.to_blocks(of_blocks.transpose(1, 2)).sum(2)
        exact = torch.cat([_most(part, share) for part in summed.split(_group_blocks(table), dim=2)], dim=2)
        exact.diagonal(dim1=1, dim2=2).fill_(True)
        return exact, torch.full_like(exact, tail)

    return by_heads(q, k, layout, decide, block_size)


def _split(segments: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    return segments[0], segments[1:]


def _group_blocks(table: BlockTable) -> list[int]:
    return [-(-tokens // table.block_size) for tokens in table.layout.segments]


def _most(values: torch.Tensor, share: float) -> torch.Tensor:
    """values [G, R, n] -> bool alike: the fewest of a row whose sum is at least `share` of the row's."""
    largest, places = values.sort(2, descending=True)
    before = largest.cumsum(2) - largest
    return torch.zeros_like(values, dtype=torch.bool).scatter_(2, places, before < share * values.sum(2, keepdim=True))
