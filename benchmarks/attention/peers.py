"""The paper's neighbours on ISA's kernels, and a table of what each costs, takes and loses.

    python -m liveditor_isa.benchmarks.attention.peers FRONTIER FIDELITY...

prints the table from result files of `attention.frontier` and `fidelity.study`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from ...isa_core import ISAConfig, RoutingMasks, TokenLayout, add_coarse_residual, in_context_sparse_attention, vorta
from ...isa_core.layout import BlockTable, block_table
from ...isa_core.plan import composite_shares
from ...isa_core.policies import paper_by_group, segment_top_k, sol_style, unisparse_style
from ...isa_core.policies.by_heads import by_heads

Grid = tuple[int, int, int]
Policy = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""(q, k, v [B, S, H, D], layout, grid of every group, gate or None) -> (alike, share of full attention's arithmetic)."""

SHARES, MASSES = (0.0625, 0.125, 0.28, 0.4), (0.5, 0.7, 0.8, 0.9)
TOP_K = (0.0625, 0.125, 0.2, 0.28, 0.4)
"""Of exact pairs, of the attention that exact blocks hold, and of each segment's exact blocks under "segment_top_k"."""

SMALL_TILE, TILE = (2, 4, 4), (4, 8, 8)
"""Of sliding windows: for clips of a few thousand tokens, and for long ones."""


def peers(block_size: int = 64) -> dict[str, Policy]:
    """{name: policy}. VORTA has no routers for editing: its experts take turns over the heads, or one has all."""
    return {
        "isa-by-frame": _by_frame(block_size),
        **{f"sol-style-{share:g}": _routed(sol_style.masks, share, block_size=block_size) for share in SHARES},
        **{f"unisparse-style-{share:g}": _routed(unisparse_style.masks, share, block_size=block_size) for share in MASSES},
        **{
            f"unisparse-style-{share:g}-tail": _routed(unisparse_style.masks, share, tail=True, block_size=block_size)
            for share in MASSES
        },
        "vorta-coreset": _experts(block_size, vorta.CORESET),
        "vorta-sliding": _experts(block_size, vorta.SLIDING),
        "vorta-mixed": _experts(block_size, vorta.CORESET, vorta.SLIDING),
    }


def rankings(block_size: int = 64) -> dict[str, Policy]:
    """{name: policy}: variants of "segment_top_k", which show what composite tokens and what separate segments contribute."""
    return {
        f"ranked-by-{per_block}-{scope}": _routed(_ranked, per_block, scope == "segments", block_size=block_size)
        for per_block in (1, 2, 4)
        for scope in ("segments", "together")
    }


def _by_masks(q, k, v, layout: TokenLayout, gate, masks, block_size: int):
    config = ISAConfig(block_size=block_size)
    out, stats = in_context_sparse_attention(
        q, k, v, layout=layout, config=config, coarse_gate=gate, masks=masks, return_stats=True
    )
    return out, stats.mean_flop_ratio


def _routed(masks: Callable, *args, block_size: int, **options) -> Policy:
    def attention(q, k, v, layout, grid, gate=None):
        return _by_masks(q, k, v, layout, gate, masks(q, k, layout, *args, block_size=block_size, **options), block_size)

    return attention


RANKED = 0.25
"""Share of exact pairs where rankings are compared."""


def _ranked(q, k, layout: TokenLayout, per_block: int, by_segment: bool, block_size: int) -> RoutingMasks:
    """Like "segment_top_k", with any number of composite tokens to a block, and segments ranked each by itself or all together."""

    def decide(q: torch.Tensor, k: torch.Tensor, table: BlockTable) -> tuple[torch.Tensor, torch.Tensor]:
        shares = composite_shares(q, k, table, per_block)
        # All together: as one segment.
        ranked = table if by_segment else block_table(TokenLayout(table.count * block_size), block_size)
        return largest(shares, ranked, RANKED)

    return by_heads(q, k, layout, decide, block_size)


def largest(shares: torch.Tensor, ranked: BlockTable, ratio: float) -> tuple[torch.Tensor, torch.Tensor]:
    """shares [G, R, N] -> (exact, by_mean) of a RoutingMasks: exact are the largest of each segment of `ranked`, means all others."""
    blocks = segment_top_k.exact_blocks(shares, ranked, ratio)
    exact = torch.zeros_like(shares, dtype=torch.bool).scatter_(2, blocks, True)
    return exact, torch.ones_like(exact)


def _by_frame(block_size: int) -> Policy:
    def attention(q, k, v, layout, grid, gate=None):
        frame = -(-grid[1] * grid[2] // block_size)
        masks = paper_by_group.masks(q, k, layout, ISAConfig(block_size=block_size), frame)
        return _by_masks(q, k, v, layout, gate, masks, block_size)

    return attention


def _experts(block_size: int, *experts: int) -> Policy:
    def attention(q, k, v, layout, grid, gate=None):
        chosen = torch.tensor(experts).repeat(q.shape[2])[: q.shape[2]]
        tile = TILE if layout.target > 10_000 else SMALL_TILE
        out, cost = vorta.vorta_attention(q, k, v, layout, grid, chosen, tile)
        return out if gate is None else add_coarse_residual(out, q, k, v, gate, layout, block_size), cost

    return attention


def policy_of(name: str) -> dict[str, str]:
    """What rows say of a peer: the policy, and its number where it has one."""
    found = re.fullmatch(r"(.*?)-(0\.\d+)(-tail)?", name)
    return {"policy": found[1] + (found[3] or ""), "setting": found[2]} if found else {"policy": name}


OURS = {
    "isa-paper": ("isa", "paper"),
    "isa-equal-keep-all-no-dense": ("isa-no-dense", "0.28"),
    "isa-error-aware-0.28": ("error-aware", "0.28"),
    **{f"isa-segment-top-k-{ratio:g}": ("segment-top-k", f"{ratio:g}") for ratio in TOP_K},
    "isa-error-aware-0.49": ("error-aware", "0.5"),
}
"""Settings of the study, and policy and setting of the frontier."""


def table(frontier: dict, rows: list[dict]) -> str:
    """A line for each policy of the study's rows, by what it loses: cost and quality from there, error and time from the frontier."""
    lines = [
        "| policy | clips: FLOP ratio | PSNR to truth, change | PSNR to full attention | long video: FLOP ratio | error | ms |",
        "|---|---|---|---|---|---|---|",
    ]
    of_all = {row["setting"]: row for row in rows if row["task"] == "all"}
    for name, row in sorted(of_all.items(), key=lambda each: -each[1]["psnr_gt_change"]):
        peer = policy_of(name)
        policy, setting = OURS.get(name, (peer["policy"], peer.get("setting")))
        found = [
            each for each in frontier["rows"]
            if (each["policy"], each.get("setting")) == (policy, setting) and each["inputs"] == "structured"
        ]  # fmt: skip
        if name == "full":
            found = [each for each in frontier["rows"] if each["policy"] == "sdpa-cudnn" and each["inputs"] == "structured"]
        middle = {key: statistics.median(each[key] for each in found) for key in MEASURES if _all(found, key)}
        cells = [f"{middle[key]:{form}}" if key in middle else "" for key, form in MEASURES.items()]
        near = "" if name == "full" else f"{row['psnr_vs_full']:.1f}"
        change = "" if name == "full" else f"{row['psnr_gt_change']:+.2f} ± {row['psnr_gt_change_se']:.2f}".replace("-", "−")
        lines.append(f"| {name} | {row['flop_ratio']:.3f} | {change} | {near} | {' | '.join(cells)} |")
    return "\n".join(lines)


MEASURES = {"flop_ratio": ".3f", "err_target": ".3f", "ms": ".1f"}


def _all(rows: list[dict], key: str) -> bool:
    return bool(rows) and all(key in row for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frontier", type=Path)
    parser.add_argument("fidelity", type=Path, nargs="+")
    options = parser.parse_args()
    frontier, *studies = (json.loads(path.read_text(encoding="utf-8")) for path in (options.frontier, *options.fidelity))
    print(table(frontier, [row for study in studies for row in study["rows"]]))


if __name__ == "__main__":
    main()
