"""Rows of exact segments: their queries have full attention over all tokens, whatever the other queries have."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .attend import DenseAttention
from .layout import CONTEXT, EXACT, TARGET, TokenLayout, block_table
from .residual import with_residual_of


def with_exact_rows(
    out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout, of_q: TokenLayout,
    gate: torch.Tensor | None, dense: DenseAttention, block_size: int,
) -> torch.Tensor:  # fmt: skip
    """k, v [B, S, H, D], q like them or without the context's tokens, gate [B, tokens of q, 1, 1] or None -> like q, with the rows of exact
    segments.

    of_q: the layout of q. out: like q, or its target's rows alone; in place if it is like q and no gradient is recorded.
    """
    spans = of_q.spans(EXACT)
    query = rows_of(q, spans)
    found = dense(query, k, v).to(out.dtype)
    if gate is not None:
        rows = block_table(layout.alone(EXACT), block_size)
        found = with_residual_of(found, query, k, v, rows_of(gate, spans), rows, block_table(layout, block_size))
    parts = dict(zip(spans, found.split([tokens for _, tokens in spans], dim=1)))
    others = of_q.spans(TARGET, CONTEXT)
    if out.shape[1] < q.shape[1]:
        parts |= dict(zip(others, out.split([tokens for _, tokens in others], dim=1)))
        return torch.cat([parts[span] for span in sorted(parts)], dim=1)
    if torch.is_grad_enabled() and out.requires_grad:
        parts |= {(start, tokens): out.narrow(1, start, tokens) for start, tokens in others}
        return torch.cat([parts[span] for span in sorted(parts)], dim=1)
    for (start, tokens), part in parts.items():
        out[:, start : start + tokens] = part
    return out


def rows_of(x: torch.Tensor, spans: Sequence[tuple[int, int]]) -> torch.Tensor:
    """x [B, tokens, ...] -> the tokens of these (first, count), one span after the other."""
    return (
        torch.cat([x.narrow(1, start, tokens) for start, tokens in spans], dim=1) if len(spans) > 1 else x.narrow(1, *spans[0])
    )
