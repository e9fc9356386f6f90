"""How much accuracy is lost where two neighbouring query blocks share one list (128 rows), or where blocks have 128 tokens.

    python -m liveditor_isa.benchmarks.attention.shared_lists [--seeds 11 12] [--tokens 16384] [--clips 1]

It measures "segment_top_k" in fp32, on structured inputs and on attention calls of the included editor, which need ComfyUI. An error is
that of the target's queries against full attention. A row's `more` says how many times as many pairs have to be exact as with own
lists, for the same error. A kernel with 128 rows gains only if it is faster by more than that.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import NamedTuple

import torch

from ...isa_core import ISAConfig, RoutingMasks, TokenLayout, in_context_sparse_attention
from ...isa_core.layout import BlockTable
from ...isa_core.plan import composite_shares
from ...isa_core.policies.by_heads import by_heads
from ..machine import gpu_slug, heading, result_file
from . import errors, inputs
from .frontier import recorded
from .peers import largest
from .sweep import ms_at_error

SHARES = (0.0625, 0.125, 0.2, 0.28, 0.4, 0.5)
HEADS = 8
"""Of structured inputs: a few of all styles, so that two cores take minutes."""

SIZES = ((33, 256, 256), (9, 480, 832))
"""Frames, height and width of edited clips: what the included editor is trained for, and frames as large as LIVEditor's own."""

HALF = 32
"""Tokens of a composite token, in blocks of any size: what ships has two in a block of 64."""


def of_two(shares: torch.Tensor, table: BlockTable) -> torch.Tensor:
    """shares [G, R, N] -> the same shape: each query block has the sum of its own shares and its neighbour's in the same segment."""
    parts = []
    for part in shares.split(table.segment_blocks, dim=1):
        padded = torch.nn.functional.pad(part, (0, 0, 0, part.shape[1] % 2))
        both = padded.unflatten(1, (-1, 2)).sum(2, keepdim=True).expand(-1, -1, 2, -1)
        parts.append(both.flatten(1, 2)[:, : part.shape[1]])
    return torch.cat(parts, dim=1)


class Kind(NamedTuple):
    """block_size: tokens of a block. shared: whether two query blocks have one list."""

    block_size: int
    shared: bool = False


KINDS = {"own lists": Kind(64), "one list for two query blocks": Kind(64, shared=True), "blocks of 128": Kind(128)}


def masks(q: torch.Tensor, k: torch.Tensor, layout: TokenLayout, kind: Kind, ratio: float) -> RoutingMasks:
    """The decisions of "segment_top_k" with lists of this kind."""

    def decide(q: torch.Tensor, k: torch.Tensor, table: BlockTable) -> tuple[torch.Tensor, torch.Tensor]:
        shares = composite_shares(q, k, table, kind.block_size // HALF)
        return largest(of_two(shares, table) if kind.shared else shares, table, ratio)

    return by_heads(q, k, layout, decide, kind.block_size)


def measure(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout) -> dict[str, list[tuple[float, float]]]:
    """{kind: (error, share of pairs that are exact) for each of SHARES} of one call, q, k, v [B, S, H, D]."""
    error, points = errors.target_errors(q, k, v, layout), {}
    for name, kind in KINDS.items():
        points[name] = []
        for ratio in SHARES:
            out, stats = in_context_sparse_attention(
                q, k, v, layout=layout, config=ISAConfig(block_size=kind.block_size),
                masks=masks(q, k, layout, kind, ratio), return_stats=True,
            )  # fmt: skip
            points[name].append((error(out), stats.density))
    return points


def rows(calls: list[dict[str, list[tuple[float, float]]]], about: dict) -> list[dict]:
    """A row for each kind and share, with the means over the calls."""
    means = {
        name: [tuple(statistics.mean(each) for each in zip(*(call[name][i] for call in calls))) for i in range(len(SHARES))]
        for name in KINDS
    }
    result = []
    for name, points in means.items():
        for (error, density), (own_error, own_density), ratio in zip(points, means["own lists"], SHARES):
            needed = ms_at_error(points, own_error)  # a density in place of a time
            row = {"lists": name, "exact_ratio": ratio, "err_target": float(f"{error:.3g}"), "density": round(density, 4)}
            row["more"] = None if needed is None else round(needed / own_density, 3)
            result.append(row | about | {"calls": len(calls)})
            print(result[-1], flush=True)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12])
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--clips", type=int, default=1, help="clips to edit, each of another task")
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
        points = [measure(call.q.float(), call.k.float(), call.v.float(), call.layout) for call in calls]
        result["rows"] += rows(points, {"inputs": "recorded", "size": size, "tokens": calls[0].layout.total})
    path = options.out or result_file(f"shared-lists-{gpu_slug(result['gpu'])}")
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
