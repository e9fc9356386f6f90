"""Draws a stored fidelity study."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from ..attention.plot import finish
from .settings import ALL_DENSE, FULL, PAPER
from .tables import NEAR, WEIGHTS, base_name, rows_of

SWEEPS = {
    "kept share of the context": ("isa-keep-", "#1f77b4"),
    "dense share of query blocks": ("isa-dense-", "#d95f02"),
    "exact share of the list": ("isa-exact-", "#2a7f3f"),
}


def plot_quality(result: dict, path: Path) -> bool:
    """Nearness to full attention, and to the truth, against the share of full attention's arithmetic; False without the paper's."""
    found = [weights for weights in WEIGHTS if PAPER in rows_of(result, weights)]
    if not found:
        return False
    figure, panels = plt.subplots(len(found), 2, figsize=(13, 4.4 * len(found)), squeeze=False)
    columns = {"psnr_vs_full": "PSNR to full attention's output, dB", "psnr_gt_change": "PSNR to ground truth over full's, dB"}
    for weights, row in zip(found, panels):
        for axes, (column, words) in zip(row, columns.items()):
            _draw_quality(axes, rows_of(result, weights), column)
            axes.set(xlabel="matrix products, share of full attention's", ylabel=words)
            axes.set_title(WEIGHTS[weights], fontsize=9.5)
        row[1].axhline(0, color="#777777", linewidth=0.8)
        row[1].axhline(-NEAR, color="#777777", linewidth=0.8, linestyle=":")
        row[1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=7.5)
    finish(figure, panels.flat, f"ISA's fidelity at {result['rows'][0]['tokens']:,} tokens", result, path)
    return True


def _draw_quality(axes, rows: dict[str, dict], column: str):
    """Sweeps as lines through the paper's point, other settings as single points."""
    # So close to full attention that it would hide the differences between the others.
    rows = {name: row for name, row in rows.items() if name not in (FULL, ALL_DENSE)}
    for label, (prefix, colour) in SWEEPS.items():
        swept = [name for name in rows if name.startswith(prefix)]
        points = sorted((rows[name]["flop_ratio"], rows[name][column]) for name in (*swept, PAPER))
        axes.plot(*zip(*points), "-o", color=colour, markersize=3.5, linewidth=1.2, label=label)
    prefixes = tuple(prefix for prefix, _ in SWEEPS.values())
    others = [name for name in rows if not name.startswith(prefixes)]
    for name, colour in zip(others, plt.cm.tab20.colors):
        size = {"color": "#111111", "s": 110} if name == PAPER else {"color": colour, "s": 45}
        axes.scatter(rows[name]["flop_ratio"], rows[name][column], marker="*", zorder=3, label=name, **size)


def plot_attention(result: dict, path: Path) -> bool:
    """The paper's ISA: error of each network block at each step; False where it was not measured."""
    found = [row for row in result["attention"] if base_name(row) == PAPER]
    if not found:
        return False
    figure, panels = plt.subplots(1, len(found), figsize=(6 * len(found), 4.4), squeeze=False)
    top = max(np.max(row["target"]) for row in found)
    for axes, row in zip(panels[0], found):
        picture = axes.imshow(np.array(row["target"]).T, aspect="auto", origin="lower", cmap="viridis", vmin=0, vmax=top)
        axes.set(xlabel="step", ylabel="network block", title=f"{row['weights']} weights")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(picture, ax=panels[0][-1], label="relative L2 error, target queries")
    finish(figure, [], "Error of the paper's ISA on full attention's q, k, v", result, path)
    return True


def plot_premises(result: dict, path: Path) -> bool:
    """Context saliency by depth, rank correlation by depth, and sharpness against error: a row of panels for each set of weights."""
    if not result["premises"]:
        return False
    figure, panels = plt.subplots(len(result["premises"]), 3, figsize=(14, 4.2 * len(result["premises"])), squeeze=False)
    for found, (shares, ranks, scatter) in zip(result["premises"], panels):
        depth = [block["block"] for block in found["blocks"]]
        names = {"context_share": "target's attention on the context", "kept_share": "of it, on the blocks that ISA keeps"}
        for name, label in (names | {"best_share": "of it, on the best as many"}).items():
            shares.plot(depth, [block[name] for block in found["blocks"]], "-o", markersize=3.5, label=label)
        shares.set(xlabel="network block", ylabel="share", ylim=(0, 1), title=f"{found['weights']} weights")
        for pair in found["all"]["spearman"]:
            ranks.plot(depth, [block["spearman"][pair] for block in found["blocks"]], "-o", markersize=3.5, label=pair)
        ranks.axhline(0, color="#777777", linewidth=0.8)
        ranks.set(xlabel="network block", ylabel="Spearman's rank correlation within a head", ylim=(-1, 1))
        sample = found["sample"]
        points = scatter.scatter(sample["variance"], sample["taylor"], c=sample["block"], s=7, cmap="viridis")
        scatter.set(xscale="log", yscale="log", xlabel="sharpness (variance)", ylabel="Taylor error")
        figure.colorbar(points, ax=scatter, label="network block")
        for axes in (shares, ranks):
            axes.legend(frameon=False, fontsize=8)
    finish(figure, panels.flat, "The paper's premises: context saliency, and sharpness against Taylor error", result, path)
    return True
