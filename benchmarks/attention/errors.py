"""Three different errors, all relative L2:

- `kernel_error`: rounding alone. ISA with its gated residual against the fp64 oracle, which takes the same decisions, on a small ragged layout.
- `relative(out[rows], exact_rows(...))`: what the method leaves out as well. Any variant against exact attention in fp32,
  at full size, for the queries of a sample of blocks.
- `relative(out, other)` of two variants with one routing: what 8-bit arithmetic adds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import torch

from ...isa_core import ISAConfig, TokenLayout
from ...isa_core.reference import reference_attention
from . import inputs

SMALL = TokenLayout(1080, (1080, 301))
"""Ragged target and contexts; the oracle's loops take a second."""


def relative(out: torch.Tensor, exact: torch.Tensor) -> float:
    """‖out - exact‖ / ‖exact‖ over [.., H, D], a few heads at a time. Raises ValueError if either contains NaN."""
    wrong = size = 0.0
    for a, b in zip(out.split(4, -2), exact.split(4, -2)):
        wrong = wrong + (a.float() - b.float()).square().sum(dtype=torch.float64)
        size = size + b.float().square().sum(dtype=torch.float64)
    error = (wrong / size).sqrt().item()
    if not math.isfinite(error):
        raise ValueError("the output holds numbers that are not finite")
    return error


def oracle(kind: str, device="cuda"):
    """(q, k, v, gate, exact ISA output) on the small layout, two heads, the paper's ratios."""
    q, k, v = getattr(inputs, kind)(SMALL, heads=2, device=device)
    gate = inputs.gate(SMALL, device)
    exact = reference_attention(q.cpu(), k.cpu(), v.cpu(), SMALL, ISAConfig(), gate.cpu())[0]
    return q, k, v, gate, exact.to(device)


def kernel_error(attention, case) -> float:
    q, k, v, gate, exact = case
    return relative(attention(q, k, v, SMALL, gate), exact)


def sample_rows(layout: TokenLayout, blocks: int = 64, size: int = 64) -> torch.Tensor:
    """[R] ascending token numbers: `blocks` random runs of `size` tokens, half of them target, half context."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for start, stop in ((0, layout.target), (layout.target, layout.total)):
        first = torch.arange(start, stop, size)
        chosen = first[torch.randperm(len(first), generator=generator)[: max(1, blocks // 2)]]
        tokens = (chosen[:, None] + torch.arange(size)).flatten()
        rows.append(tokens[tokens < stop])
    return torch.cat(rows).sort().values


def exact_rows(q, k, v, rows: torch.Tensor) -> torch.Tensor:
    """Full attention of the queries `rows` in fp32 without TF32: q, k, v [1, S, H, D] -> [R, H, D]. One head at a time."""
    torch.set_float32_matmul_precision("highest")
    out = torch.empty(len(rows), *q.shape[2:], device=q.device)
    for head in range(q.shape[2]):
        key, value = k[0, :, head].float(), v[0, :, head].float()
        for part in range(0, len(rows), 1024):
            picked = rows[part : part + 1024].to(q.device)
            weight = (q[0, picked, head].float() * q.shape[3] ** -0.5 @ key.T).softmax(-1)
            out[part : part + 1024, head] = weight @ value
    return out


def errors_vs_full(out: torch.Tensor, exact: torch.Tensor, rows: torch.Tensor, layout: TokenLayout) -> dict[str, float]:
    """Over all sampled queries, and over those of the target alone: only the target's tokens leave the model."""
    sampled = out[0, rows.to(out.device)]
    target = int((rows < layout.target).sum())
    return {"err_vs_full": relative(sampled, exact), "err_vs_full_target": relative(sampled[:target], exact[:target])}


def target_errors(q, k, v, layout: TokenLayout) -> Callable[[torch.Tensor], float]:
    """q, k, v [B, S, H, D] -> a function that takes an output of the same shape, and returns its error over the target's sampled
    queries, as the mean over B."""
    rows = sample_rows(layout)
    exact = [exact_rows(*(x[b : b + 1] for x in (q, k, v)), rows) for b in range(len(q))]

    def error(out: torch.Tensor) -> float:
        return statistics.mean(
            errors_vs_full(out[b : b + 1], exact[b], rows, layout)["err_vs_full_target"] for b in range(len(q))
        )

    return error
