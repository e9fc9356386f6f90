"""Writes a stored fidelity study into docs/fidelity.md, between its two marks, and draws its plots.

python -m liveditor_isa.benchmarks.fidelity.report benchmarks/results/fidelity-2026-11-24.json [--docs docs]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..machine import ROOT
from .plot import plot_attention, plot_premises, plot_quality
from .tables import page

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

PLOTS = {"quality": plot_quality, "attention": plot_attention, "premises": plot_premises}


def report(result: dict, docs: Path):
    """Plots into docs/images, tables into docs/fidelity.md."""
    files = {name: f"images/fidelity-{name}.png" for name in PLOTS}
    drawn = [files[name] for name, draw in PLOTS.items() if draw(result, docs / files[name])]
    write_between(docs / "fidelity.md", BEGIN, END, page(result, drawn))


def write_between(path: Path, begin: str, end: str, text: str):
    """Replace what a page holds between two marks."""
    before, rest = path.read_text(encoding="utf-8").split(begin)
    path.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of fidelity.md and of images/")
    options = parser.parse_args()
    report(json.loads(options.table.read_text()), options.docs)


if __name__ == "__main__":
    main()
