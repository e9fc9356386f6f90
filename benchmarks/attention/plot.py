"""Draws a stored table: latency against length, error against latency where the run swept settings, and the frontier of policies.

python -m liveditor_isa.benchmarks.attention.plot benchmarks/results/attention-h200-2026-11-23.json [--folder docs/images]
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullLocator

from ..machine import ROOT
from .sweep import frontier

STYLES = {
    "sdpa-cudnn": ("#222222", "-", "o"), "sdpa-fa2": ("#777777", "-", "s"), "flex-attention": ("#aaaaaa", "-", "D"),
    "isa-paper-8bit": ("#0b3d91", "-", "v"), "isa-paper-bf16": ("#1f77b4", "-", "o"), "isa-paper-bf16-triton": ("#5aa9dd", "-", "s"),
    "isa-paper-bf16-fa2": ("#6b8fb0", "--", "D"), "isa-paper-bf16-torch": ("#a8cfe8", "--", "^"),
    "sol-attn-tau1.3": ("#d95f02", "-", "o"), "sol-attn-tau2.0": ("#f2a35e", "-", "s"),
    "comfy-kitchen-int8": ("#2a7f3f", "-", "o"), "sageattention": ("#86c28b", "-", "s"),
}  # fmt: skip
"""Colour, line, marker. Grey: full attention in bf16; green: in 8 bits; blue: ISA; orange: sol_attn."""

SWEEPS = {
    "sweep-isa-bf16": ("ISA, bf16", STYLES["isa-paper-bf16"]),
    "sweep-isa-8bit": ("ISA, 8-bit dense group", STYLES["isa-paper-8bit"]),
    "sweep-sol-attn": ("sol_attn, by tau", STYLES["sol-attn-tau1.3"]),
}


def plot_latency(result: dict, path: Path) -> bool:
    """Latency against length of every variant, on random inputs; False where no variant was measured at two lengths."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in result["rows"]:
        if "settings" not in row and row.get("inputs", "random") == "random" and "ms" in row:
            curves.setdefault(row["variant"], []).append((row["tokens"], row["ms"]))
    if not any(len(points) > 1 for points in curves.values()):
        return False
    figure, axes = plt.subplots(figsize=(8, 4.8))
    # The legend reads from the slowest to the fastest, as the lines end.
    for name, points in sorted(curves.items(), key=lambda curve: -max(curve[1])[1]):
        colour, line, marker = STYLES.get(name, ("#c51b8a", "-", "x"))
        tokens, ms = zip(*sorted(points))
        axes.plot(
            tokens, ms, line, color=colour, marker=marker, markersize=4.5, linewidth=1.6, label=f"{name}  {ms[-1]:.3g} ms"
        )
    lengths = sorted({tokens for points in curves.values() for tokens, _ in points})
    axes.set(xscale="log", yscale="log", xlabel="tokens (half target, half context)", ylabel="ms a call")
    axes.set_xticks(lengths, [f"{tokens:,}" for tokens in lengths])
    _plain(axes.yaxis)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8.5, title=f"at {lengths[-1]:,} tokens")
    finish(figure, [axes], "Latency of one attention call: B 1, H 40, D 128, random inputs", result, path)
    return True


def plot_error(result: dict, path: Path) -> bool:
    """Error against exact attention over latency, of all queries and of the target's; False without a sweep."""
    swept = [row for row in result["rows"] if row.get("variant") in SWEEPS and "settings" in row]
    if not swept:
        return False
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 4.6), sharey=True)
    columns = {"err_vs_full": "all queries", "err_vs_full_target": "queries of the target, which alone leave the model"}
    for axes, (column, words) in zip(panels, columns.items()):
        for name, (label, style) in SWEEPS.items():
            rows = [row for row in swept if row["variant"] == name]
            if rows:
                _draw_sweep(axes, rows, column, label, style)
        _draw_full(axes, result["rows"], column, swept[0]["tokens"])
        axes.set(xlim=(0, None), yscale="log", xlabel="ms a call")
        axes.set_title(words, fontsize=9.5)
        _plain(axes.yaxis)
    panels[0].set_ylabel("relative L2 error against exact attention")
    panels[0].legend(frameon=False, fontsize=8.5, loc="best")
    finish(figure, panels, f"Error against latency at {swept[0]['tokens']:,} tokens, structured inputs", result, path)
    return True


POLICIES = {
    "isa": ("ISA, the paper's ratios", STYLES["isa-paper-bf16"]), "isa-8bit": ("… 8 bits", STYLES["isa-paper-8bit"]),
    "isa-by-frame": ("… context by frame", ("#1f77b4", "", "*")),
    "isa-no-dense": ("no dense queries", STYLES["isa-paper-bf16-triton"]), "isa-no-dense-8bit": ("… 8 bits", ("#08519c", "--", "s")),
    "error-aware": ("error-aware", ("#c51b8a", "-", "o")), "error-aware-8bit": ("… 8 bits", ("#7a0177", "--", "v")),
    "segment-top-k": ("top of each segment", ("#111111", "-", "^")), "segment-top-k-8bit": ("… 8 bits", ("#111111", "--", "<")),
    "sol-attn": ("sol_attn, by tau", STYLES["sol-attn-tau1.3"]), "sol-style": ("Sol-style", ("#2a7f3f", "-", "o")),
    "unisparse-style": ("UniSparse-style", ("#999999", "-", "s")), "unisparse-style-tail": ("… with means", ("#555555", "--", "s")),
    "vorta-coreset": ("VORTA, coreset", ("#8c564b", "", "P")), "vorta-sliding": ("VORTA, sliding", ("#8c564b", "", "X")),
    "vorta-mixed": ("VORTA, half and half", ("#8c564b", "", "D")),
}  # fmt: skip
KINDS = {"structured": "structured inputs, {tokens:,} tokens", "recorded": "of the included editor, {tokens:,} tokens"}


def plot_frontier(result: dict, path: Path) -> bool:
    """Error against time of each policy of `frontier`'s results, medians over seeds; False where there are none."""
    kinds = [kind for kind in KINDS if any(row.get("inputs") == kind and "policy" in row for row in result["rows"])]
    if not kinds:
        return False
    figure, panels = plt.subplots(1, len(kinds), figsize=(3 + 5 * len(kinds), 4.8), squeeze=False)
    for axes, kind in zip(panels[0], kinds):
        rows = [row for row in result["rows"] if row["inputs"] == kind]
        _draw_frontier(axes, rows)
        axes.set(xscale="log", yscale="log", xlabel="ms a call", ylabel="error of the target's queries")
        axes.set_title(KINDS[kind].format(**rows[0]), fontsize=9)
        _plain(axes.xaxis)
        _plain(axes.yaxis)
    panels[0][-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8.5)
    finish(figure, panels[0], "Error against time of one attention call", result, path)
    return True


def _draw_frontier(axes, rows: list[dict]):
    curves: dict[str, dict[str, list[dict]]] = {}
    for row in rows:
        policy, _, setting = row["policy"].partition("-tau")
        curves.setdefault(policy, {}).setdefault(setting or row.get("setting", ""), []).append(row)
    for policy, (label, (colour, line, marker)) in POLICIES.items():
        points = [
            [statistics.median(row[name] for row in found) for name in ("ms", "err_target")]
            for found in curves.get(policy, {}).values()
        ]
        if points:
            times, errors = zip(*sorted(points))
            axes.plot(times, errors, line, color=colour, marker=marker, markersize=4.5, linewidth=1.6, label=label)


def _draw_sweep(axes, rows: list[dict], column: str, label: str, style):
    colour, _, marker = style
    axes.scatter([row["ms"] for row in rows], [row[column] for row in rows], s=16, color=colour, marker=marker, alpha=0.5)
    errors, times = zip(*frontier([(row[column], row["ms"]) for row in rows]))
    axes.plot(times, errors, color=colour, linewidth=1.6, label=label)
    for row in rows:
        if "tau" in row["settings"]:
            axes.annotate(
                f"{row['settings']['tau']:g}", (row["ms"], row[column]), (4, 4), textcoords="offset points", fontsize=7.5
            )


def _draw_full(axes, rows: list[dict], column: str, tokens: int):
    """Full attention for scale: its error is rounding alone."""
    for row in rows:
        if (
            row["variant"] in ("sdpa-cudnn", "comfy-kitchen-int8")
            and row["tokens"] == tokens
            and row.get("inputs") == "structured"
        ):
            colour, _, marker = STYLES[row["variant"]]
            axes.scatter([row["ms"]], [row[column]], color=colour, marker=marker, s=26)
            place = {"xytext": (-6, 5), "textcoords": "offset points", "ha": "right", "fontsize": 7.5}
            axes.annotate(row["variant"], (row["ms"], row[column]), **place)


def _plain(axis):
    """1, 2 and 5 of each power of ten, written out."""
    axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def finish(figure, panels, title: str, result: dict, path: Path):
    for axes in panels:
        axes.grid(True, color="#e4e4e4", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    figure.text(0.01, 0.95, title, fontsize=12)
    figure.text(0.01, 0.91, f"{result['gpu']}; {versions}", fontsize=8, color="#555555")
    figure.tight_layout(rect=(0, 0, 1, 0.9))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=105, pil_kwargs={"optimize": True})
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs/images")
    options = parser.parse_args()
    result = json.loads(options.table.read_text())
    figures = {
        "attention-latency.png": plot_latency,
        "attention-error.png": plot_error,
        "attention-frontier.png": plot_frontier,
    }
    for name, draw in figures.items():
        path = options.folder / name
        print(path if draw(result, path) else f"{options.table} holds nothing for {name}")


if __name__ == "__main__":
    main()
