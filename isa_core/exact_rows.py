"""Rows of exact segments: their queries have full attention over all tokens, whatever the other queries have."""

from __future__ import annotations

import torch

from .attend import DenseAttention
from .layout import CONTEXT, EXACT, TARGET, TokenLayout, block_table
from .residual import with_residual_of


def with_exact_rows(
    out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout, gate: torch.Tensor | None,
    dense: DenseAttention, block_size: int,
) -> torch.Tensor:  # fmt: skip
    """out, q, k, v [B, S, H, D], gate [B, S, 1, 1] or None -> out with the rows of exact segments, in place if no gradient is recorded."""
    spans = layout.spans(EXACT)
    query = _rows(q, spans)
    found = dense(query, k, v).to(out.dtype)
    if gate is not None:
        rows = block_table(layout.alone(EXACT), block_size)
        found = with_residual_of(found, query, k, v, _rows(gate, spans), rows, block_table(layout, block_size))
    parts = dict(zip(spans, found.split([tokens for _, tokens in spans], dim=1)))
    if torch.is_grad_enabled() and out.requires_grad:
        parts |= {(start, tokens): out.narrow(1, start, tokens) for start, tokens in layout.spans(TARGET, CONTEXT)}
        return torch.cat([parts[span] for span in sorted(parts)], dim=1)
    for (start, tokens), part in parts.items():
        out[:, start : start + tokens] = part
    return out


def _rows(x: torch.Tensor, spans) -> torch.Tensor:
    return (
        torch.cat([x.narrow(1, start, tokens) for start, tokens in spans], dim=1) if len(spans) > 1 else x.narrow(1, *spans[0])
    )
