"""The gated coarse residual that LIVEditor adds to its self-attention (section 3.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .layout import BlockTable, TokenLayout, block_table
from .memory import heads_at_once
from .pool import pool_blocks


def coarse_gate(projected: torch.Tensor) -> torch.Tensor:
    """`0.5 (sigmoid(x·alpha) - 0.5)`, in -0.25..0.25 (section 3.4): a token's projection [B, S, 1] -> its factor [B, S, 1, 1]."""
    return (0.5 * torch.sigmoid(projected) - 0.25)[..., None]


def residual(probabilities: torch.Tensor, pooled_v: torch.Tensor, gate: torch.Tensor, table: BlockTable) -> torch.Tensor:
    """gate ⊙ (P Vc)[block of token]: P [G, R, N], Vc [G, N, D], gate [T, 1] of the
    T queries of `table` -> [G, T, D] in the gate's dtype."""
    return gate * table.spread((probabilities @ pooled_v).to(gate.dtype))


def coarse_output(pooled_q: torch.Tensor, pooled_k: torch.Tensor, pooled_v: torch.Tensor) -> torch.Tensor:
    """Attention of blocks, `softmax(Qc Kcᵀ / √D) Vc`: [G, R, D], [G, N, D] twice -> [G, R, D], contiguous."""
    # With a batch dimension PyTorch uses a fused kernel; without one it writes the N × N matrix of every head.
    return F.scaled_dot_product_attention(pooled_q[None], pooled_k[None], pooled_v[None])[0].contiguous()


def add_coarse_residual(
    out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gate: torch.Tensor,
    layout: TokenLayout,
    block_size: int = 64,
) -> torch.Tensor:
    """The residual for a model that ran full attention: k, v [B, S, H, D]; out, q like them, or of the target's tokens
    alone; gate [B, T, 1, 1] for the T tokens of q -> like out."""
    table = block_table(layout, block_size)
    return with_residual_of(
        out, q, k, v, gate, table if out.shape[1] == layout.total else table.of_queries(out.shape[1]), table
    )


def with_residual_of(
    out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, gate: torch.Tensor, queries: BlockTable, table: BlockTable
) -> torch.Tensor:  # fmt: skip
    """`add_coarse_residual` to the rows of `queries`, which out, q and gate hold."""
    batch, tokens, heads, dim = out.shape
    pooled = (
        pool_blocks(x.flatten(2), blocks).unflatten(2, (heads, dim)).transpose(1, 2)
        for x, blocks in ((q, queries), (k, table), (v, table))
    )
    coarse = F.scaled_dot_product_attention(*pooled).to(out.dtype)
    gate, total = gate.to(out.dtype), torch.empty_like(out)
    step = heads_at_once(heads, 2 * batch * tokens * dim * out.element_size())
    for first in range(0, heads, step):
        some = slice(first, first + step)
        added = queries.spread(coarse[:, some].flatten(0, 1)).unflatten(0, (batch, -1)).transpose(1, 2)
        total[:, :, some] = out[:, :, some] + gate * added
    return total
