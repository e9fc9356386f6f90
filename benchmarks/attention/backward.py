"""The time of gradients: forward and backward of ISA and of full attention, on one GPU, medians of alternating runs.

    python -m liveditor_isa.benchmarks.attention.backward [--tokens 16384 65520] [--out FILE]

bf16, B = 1, H = 40, D = 128, half of the tokens target, half context, random inputs, the paper's ratios; ISA with
its gated residual, full attention without. rel_err: ISA's
gradients against fp64 autograd of the PyTorch path on a small ragged layout, the worst of q, k, v and the gate.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from ...isa_core import ISAConfig, TokenLayout, dense_attention, in_context_sparse_attention
from ..machine import heading
from . import inputs
from .timing import SLEEP_CYCLES, median, once

HEADS = 40


def isa(q, k, v, layout, **options):
    return in_context_sparse_attention(q, k, v, layout=layout, config=ISAConfig(), **options)


def full(q, k, v, layout, coarse_gate):
    return dense_attention(q, k, v)


def measure(tokens: int, turns: int) -> list[dict]:
    layout = inputs.half_context(tokens)
    leaves = q, k, v, gate = [x.requires_grad_() for x in (*inputs.random(layout, HEADS), inputs.gate(layout))]
    d_out = torch.randn_like(q)
    times = {name: ([], []) for name in ("full", "isa-paper-bf16")}
    for turn in range(turns + 1):
        for name, attention in zip(times, (full, isa)):
            with torch.no_grad():
                forward = once(lambda run=attention: run(q, k, v, layout, coarse_gate=gate), SLEEP_CYCLES)
            out = attention(q, k, v, layout, coarse_gate=gate)
            wanted = leaves if attention is isa else leaves[:3]
            backward = once(lambda out=out, wanted=wanted: torch.autograd.grad(out, wanted, d_out), SLEEP_CYCLES)
            del out
            if turn:  # the first one warms up
                times[name][0].append(forward)
                times[name][1].append(backward)
    rows = []
    for name, both in times.items():
        forward, backward = map(median, both)
        rows.append({"tokens": tokens, "variant": name, "forward_ms": forward, "backward_ms": backward})
        rows[-1]["backward_over_forward"] = round(backward / forward, 2)
        rows[-1]["backward_vs_full"] = round(median(times["full"][1]) / backward, 2)
    return rows


def gradient_error() -> float:
    layout = TokenLayout(1080, (1080, 301))
    q, k, v = inputs.random(layout, heads=2)
    gate = torch.rand(1, layout.total, 1, 1, device=q.device, dtype=q.dtype) - 0.5
    weight = torch.randn_like(q)
    found = []
    for backend, dtype in (("triton", torch.bfloat16), ("torch", torch.float64)):
        leaves = [x.to(dtype).detach().clone().requires_grad_() for x in (q, k, v, gate)]
        out = isa(*leaves[:3], layout, coarse_gate=leaves[3], backend=backend)
        found.append(torch.autograd.grad(out, leaves, weight.to(dtype)))
    return max(float((ours.double() - exact).norm() / exact.norm()) for ours, exact in zip(*found))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[16384, 65520])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/attention/backward.py needs a GPU.")
    error = float(f"{gradient_error():.2e}")
    rows = [row for tokens in options.tokens for row in measure(tokens, options.turns)]
    for row in rows:
        if row["variant"].startswith("isa"):
            row["rel_err"] = error
        print(row, flush=True)
    result = {
        **heading(__spec__.name),
        "gate": True,
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
