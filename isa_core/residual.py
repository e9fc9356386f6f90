"""The gated coarse residual that LIVEditor adds to its self-attention (section 3.4)."""

from __future__ import annotations

import torch

from .layout import BlockTable, TokenLayout, block_table
from .memory import head_chunks
from .pool import pool_blocks
from .route import coarse_scores


def residual(probabilities: torch.Tensor, pooled_v: torch.Tensor, gate: torch.Tensor, table: BlockTable) -> torch.Tensor:
    """gate ⊙ (P Vc)[block of token]: P [G, N, N], Vc [G, N, D], gate [S, 1] -> [G, S, D] in the gate's dtype."""
    return gate * table.spread((probabilities @ pooled_v).to(gate.dtype))


def add_coarse_residual(
    out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gate: torch.Tensor,
    layout: TokenLayout,
    block_size: int = 64,
) -> torch.Tensor:
    """The residual for a model that ran full attention: out, q, k, v [B, S, H, D], gate [B, S, 1, 1] -> [B, S, H, D]."""
    table = block_table(layout, block_size)
    total = torch.empty_like(out)
    for b, heads in head_chunks(q, table):
        pooled_q, pooled_k, pooled_v = (pool_blocks(x[b, :, heads].transpose(0, 1), table) for x in (q, k, v))
        probabilities = coarse_scores(pooled_q, pooled_k).softmax(-1)
        added = residual(probabilities, pooled_v, gate[b, :, 0].to(out.dtype), table)
        total[b, :, heads] = out[b, :, heads] + added.transpose(0, 1)
    return total
