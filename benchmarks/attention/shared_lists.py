"""What lists of two neighbouring query blocks cost in error: as 128 rows with one list, or as blocks of 128 tokens.

    python -m liveditor_isa.benchmarks.attention.shared_lists [--seeds 11 12] [--tokens 16384] [--clips 1]

Under "segment_top_k", in fp32, on structured inputs and on attention calls of the included editor, which need ComfyUI. An error is that
of the target's queries against full attention. `more` is how much more has to be exact than with own lists for the same error: a kernel
with 128 rows has to be that much faster for anything to be gained.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from ...isa_core import ISAConfig, RoutingMasks, TokenLayout, in_context_sparse_attention
from ...isa_core.layout import BlockTable
from ...isa_core.plan import composite_shares
from ...isa_core.policies import segment_top_k
from ...isa_core.policies.by_heads import by_heads
from ..machine import gpu_slug, heading, result_file
from . import errors, inputs
from .frontier import recorded
from .sweep import ms_at_error

SHARES = (0.0625, 0.125, 0.2, 0.28, 0.4, 0.5)
HEADS = 8
"""Of structured inputs: a few of all styles, so that two cores take minutes."""

SIZES = ((33, 256, 256), (9, 480, 832))
"""Frames, height and width of edited clips: what the included editor is trained for, and frames as large as LIVEditor's own."""

HALF = 32
"""Tokens of a composite token, in blocks of any size: what ships has two in a block of 64."""


def of_two(shares: torch.Tensor, table: BlockTable) -> torch.Tensor:
    """shares [G, R, N] -> alike, every query block with the sum of its own and its neighbour's in the same segment."""
    parts = []
    for part in shares.split(table.segment_blocks, dim=1):
        padded = torch.nn.functional.pad(part, (0, 0, 0, part.shape[1] % 2))
        both = padded.unflatten(1, (-1, 2)).sum(2, keepdim=True).expand(-1, -1, 2, -1)
        parts.append(both.flatten(1, 2)[:, : part.shape[1]])
    return torch.cat(parts, dim=1)


def own(shares: torch.Tensor, table: BlockTable) -> torch.Tensor:
    return shares


def masks(q, k, layout: TokenLayout, ratio: float, block_size: int, shared: Callable = own) -> RoutingMasks:
    """The decisions of "segment_top_k" by shares that `shared` has changed."""

    def decide(q: torch.Tensor, k: torch.Tensor, table: BlockTable) -> tuple[torch.Tensor, torch.Tensor]:
        shares = shared(composite_shares(q, k, table, block_size // HALF), table)
        exact = torch.zeros_like(shares, dtype=torch.bool).scatter_(2, segment_top_k.exact_blocks(shares, table, ratio), True)
        return exact, torch.ones_like(exact)

    return by_heads(q, k, layout, decide, block_size)


KINDS = {
    "own lists": partial(masks, block_size=64),
    "one list for two query blocks": partial(masks, block_size=64, shared=of_two),
    "blocks of 128": partial(masks, block_size=128),
}


def measure(q, k, v, layout: TokenLayout) -> dict[str, list[tuple[float, float]]]:
    """{kind: (error, share of pairs that are exact)} of one call, q, k, v [B, S, H, D]."""
    sample = errors.sample_rows(layout)
    exact = [errors.exact_rows(*(x[b : b + 1] for x in (q, k, v)), sample) for b in range(len(q))]
    found: dict[str, list[tuple[float, float]]] = {}
    for kind, decide in KINDS.items():
        size = 128 if kind == "blocks of 128" else 64
        for ratio in SHARES:
            out, stats = in_context_sparse_attention(
                q, k, v, layout=layout, config=ISAConfig(block_size=size), masks=decide(q, k, layout, ratio), return_stats=True
            )
            error = statistics.mean(
                errors.errors_vs_full(out[b : b + 1], exact[b], sample, layout)["err_vs_full_target"] for b in range(len(q))
            )
            found.setdefault(kind, []).append((error, stats.density))
    return found


def rows(calls: list[dict[str, list[tuple[float, float]]]], about: dict) -> list[dict]:
    """A row for each kind and share: means over the calls, and by how much more of it must be exact for the error of own lists."""
    means = {
        kind: [tuple(statistics.mean(each) for each in zip(*(call[kind][i] for call in calls))) for i in range(len(SHARES))]
        for kind in KINDS
    }
    found = []
    for kind, points in means.items():
        for (error, density), (of_own, own_density), ratio in zip(points, means["own lists"], SHARES):
            needed = ms_at_error(points, of_own)
            row = {"lists": kind, "exact_ratio": ratio, "err_target": float(f"{error:.3g}"), "density": round(density, 4)}
            found.append(
                row | {"more": None if needed is None else round(needed / own_density, 3)} | about | {"calls": len(calls)}
            )
            print(found[-1], flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12])
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--clips", type=int, default=1, help="whose editing is watched; one of each task in turn")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = heading(__spec__.name, device) | {"rows": []}
    layout = inputs.half_context(options.tokens)
    structured = (inputs.structured(layout, HEADS, seed=seed, device=device, dtype=torch.float32) for seed in options.seeds)
    about = {"inputs": "structured", "tokens": layout.total}
    result["rows"] += rows([measure(*tensors, layout) for tensors in structured], about)
    for size in SIZES:
        calls = recorded(device, options.clips, size)
        found = [measure(call.q.float(), call.k.float(), call.v.float(), call.layout) for call in calls]
        result["rows"] += rows(found, {"inputs": "recorded", "size": size, "tokens": calls[0].layout.total})
    path = options.out or result_file(f"shared-lists-{gpu_slug(result['gpu'])}")
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
