"""Writes stored measurements of context reuse into docs/fidelity.md and docs/memory-and-speed.md, between their marks, and draws their curve.

python -m liveditor_isa.benchmarks.fidelity.reuse_report QUALITY.json EDITS.json [--docs docs]

QUALITY is `benchmarks.fidelity.reuse`'s, EDITS `benchmarks.steps.whole_edit`'s.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ..attention.plot import finish
from ..machine import ROOT
from .report import write_between
from .tables import table

BEGIN, END = "<!-- context reuse: begin -->", "<!-- context reuse: end -->"
ATTENTION = {
    "full": "full",
    "isa-equal-keep-all-no-dense": "no dense queries, 28 %",
    "isa-half-keep-all-no-dense": "no dense queries, 12.5 %",
    "isa-error-aware-0.28": "as in *Balanced*",
    "isa-error-aware-0.125": "as in *Fast*",
    "isa-paper": "as in *Paper*",
}
HELD_OUT, STEPS = "held-out", (32, 12)
CURVES = {"full": ("full attention", "reuse", "full-cudnn"), "isa-paper": ("ISA, the paper's ratios", "isa+reuse", "isa")}
"""{attention in QUALITY: (label, variant with reuse in EDITS, without)}."""
KEPT = (("gpu", "on the GPU"), ("cpu", "in main memory"))


def quality_table(rows: list[dict]) -> str:
    """A line for each attention, way to keep and context_refresh; rows without reuse are what the others are compared with."""
    reused = [row for row in rows if row["fall"]]
    videos = dict.fromkeys(row["clips_of"] for row in rows if row["clips_of"] != HELD_OUT)
    measured = [
        (f"{steps} steps: computed", "change of PSNR to truth, dB", "PSNR to the edit without reuse") for steps in STEPS
    ]
    head = ["attention", "context_refresh", *sum(measured, ()), *(f"*{video}*, {STEPS[0]} steps" for video in videos)]
    lines = []
    keys = dict.fromkeys((row["attention"], row["context_copies"], row["context_dtype"], row["fall"]) for row in reused)
    order = [*ATTENTION]
    for key in sorted(keys, key=lambda key: (order.index(key[0]), key[1:])):
        found = {
            (row["clips_of"], row["steps"]): row
            for row in reused
            if (row["attention"], row["context_copies"], row["context_dtype"], row["fall"]) == key
        }
        attention, copies, dtype, fall = key
        name = ATTENTION[attention] + (", one copy" if copies == "one" else "") + (", 8 bits" if dtype == "int8" else "")
        cells = [cell for steps in STEPS for cell in quality_cells(found.get((HELD_OUT, steps)))]
        clips = (found.get((video, STEPS[0])) for video in videos)
        lines.append([name, f"{fall:g}", *cells, *(f"{row['psnr_vs_no_reuse']:.1f}" if row else "" for row in clips)])
    return "\n".join(table(head, lines))


def quality_cells(row: dict | None) -> list[str]:
    if row is None:
        return [""] * 3
    change = f"{row['psnr_gt_change']:+.2f}".replace("-", "−")
    computed = round(row["refreshed"] * row["steps"])
    return [f"{computed}", f"{change} ± {row['psnr_gt_change_se']:.2f}", f"{row['psnr_vs_no_reuse']:.1f}"]


def speed_table(rows: list[dict]) -> str:
    """A line for each model, length, kind of weights, variant and place of what is kept."""
    falls = sorted({row["fall"] for row in rows if row["fall"]})
    heads = [f"context_refresh {fall:g}" for fall in falls]
    head, lines = ["model", "tokens", "weights", "variant", "every step computed", *heads, "kept", "peak"], []
    groups: dict[tuple, dict[float, dict]] = {}
    for row in rows:
        names = ("model", "tokens", "weights", "variant", "composed", "context_dtype")
        # Full attention in bf16 runs in every process, as its baseline: the table holds the first one.
        # `auto` kept where `gpu` keeps, if the place is the same.
        places = tuple(bool(row.get(f"cache_{where}_gb")) for where, _ in KEPT)
        groups.setdefault((*(row.get(name) for name in names), places), {}).setdefault(row["fall"], row)
    for (model, tokens, weights, variant, composed, dtype, _), found in groups.items():
        some = next(iter(found.values()))
        if not composed:
            variant += ", a complete edit"
        kept = [f"{some[f'cache_{where}_gb']:g} GB {words}" for where, words in KEPT if some.get(f"cache_{where}_gb")]
        kept += ["in 8 bits"] * (dtype == "int8")
        times = [
            f"{found[fall]['vs_cudnn']:.2f} ({found[fall]['seconds']:.0f} s)" if fall in found else "" for fall in (0.0, *falls)
        ]
        lines.append([model, f"{tokens:,}", weights, variant, *times, " ".join(kept), f"{some['peak_gb']:.1f} GB"])
    return "\n".join(table(head, lines))


def plot(quality: dict, edits: dict, path: Path):
    """Quality against the time of a whole edit, by how many of 32 steps compute the context."""
    figure, panels = plt.subplots(1, 2, figsize=(12, 4.6))
    tokens = min(row["tokens"] for row in edits["rows"])
    for attention, (label, reusing, plain) in CURVES.items():
        times = {
            name: next(
                row for row in edits["rows"] if row.get("process", 1) == 1 and row["variant"] == name and row["composed"]
            )
            for name in (reusing, plain)
        }
        rows = [
            row for row in quality["rows"]
            if (row["clips_of"], row["steps"], row["attention"]) == (HELD_OUT, STEPS[0], attention)
            and (row["context_copies"], row["context_dtype"]) == ("each", "default")
        ]  # fmt: skip
        points = []
        for row in sorted(rows, key=lambda row: row["refreshed"]):
            count, step = round(row["refreshed"] * STEPS[0]), times[reusing if row["fall"] else plain]
            seconds = count * step["refresh_seconds"] + (STEPS[0] - count) * (step["reuse_seconds"] or 0)
            points.append((seconds, row["psnr_gt_change"], row["psnr_gt_change_se"], row["psnr_vs_no_reuse"], count))
        seconds, change, error, near, counts = zip(*points)
        panels[0].errorbar(seconds, change, error, fmt="-o", markersize=4, linewidth=1.2, capsize=2, label=label)
        reused = [index for index, count in enumerate(counts) if count < STEPS[0]]
        panels[1].plot(
            *([values[index] for index in reused] for values in (seconds, near)), "-o", markersize=4, linewidth=1.2, label=label
        )
        for index, count in enumerate(counts):
            panels[0].annotate(count, (seconds[index], change[index]), (4, 5), textcoords="offset points", fontsize=8)
    panels[0].axhline(-0.1, color="#777777", linewidth=0.8, linestyle=":")
    panels[0].set(ylabel="PSNR to truth against no reuse, dB")
    panels[1].set(ylabel="PSNR to the edit without reuse, dB")
    for axes in panels:
        axes.set(xlabel=f"seconds of an edit of 32 steps, LIVEditor-14B's size, {tokens:,} tokens")
        axes.legend(frameon=False, fontsize=8)
    finish(
        figure,
        panels,
        "Context reuse: quality of LIVEditor-tiny against time. Numbers: steps that compute the context",
        edits,
        path,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quality", type=Path)
    parser.add_argument("edits", type=Path)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of the pages and of images/")
    options = parser.parse_args()
    quality, edits = (json.loads(path.read_text()) for path in (options.quality, options.edits))
    write_between(options.docs / "fidelity.md", BEGIN, END, quality_table(quality["rows"]))
    write_between(options.docs / "memory-and-speed.md", BEGIN, END, speed_table(edits["rows"]))
    plot(quality, edits, options.docs / "images/context-reuse.png")


if __name__ == "__main__":
    main()
