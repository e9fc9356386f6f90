"""LIVEditor-Bench-mini with the included editor: full attention and every preset of Attach ISA, each compared with full attention.

    python -m liveditor_isa.benchmarks.evaluation.mini [--folder .cache/bench-mini] [--subset quick] [--out FILE]

Needs no ComfyUI. Edits, scores and reports lie in the folder; stopped or killed, the same command goes on where it was. Attention is sparse
from the first token on and blocks have 16 tokens, since the clips are small.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from ...checkpoint.files import replacing
from ...evaluation import catalogue
from ...evaluation.items import ItemSet, read_items, write_items
from ...evaluation.records import CORRECTED, Run, Settings, edit_of
from ...evaluation.report.pages import numbers, write_report
from ...evaluation.report.render import markdown
from ...evaluation.report.statistics import paired
from ...evaluation.report.tables import Table, number, signed
from ...evaluation.results import Results, collect
from ...evaluation.scoring import planned, runnable, score
from ...isa_core import ISAConfig
from ...pipelines.request import Edit, ModelChoice
from ..machine import ROOT, result_file, versions

FULL = "full"
EXTRA_METRICS = ("mobilenet", "vmaf_neg_reference", "lpips_alex_reference")
BLOCK = 16


def top_k(exact: float) -> ISAConfig:
    return ISAConfig(exact_ratio=exact, policy="segment_top_k", block_size=BLOCK)


SETTINGS: dict[str, tuple[ISAConfig | None, float]] = {
    FULL: (None, 0),
    "quality": (None, 1),
    "balanced": (top_k(0.28), 1),
    "fast": (top_k(0.125), 2),
    "paper": (ISAConfig(block_size=BLOCK), 1),
    "paper, no reuse": (ISAConfig(block_size=BLOCK), 0),
}
"""{name: (ISA, context_refresh)}: the presets of web/isa_presets.js; Exact is full attention."""


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/bench-mini", help="for clips, edits and reports")
    parser.add_argument("--subset", default="quick", choices=catalogue.BENCHES["mini"].subsets)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=result_file("bench-mini-cpu"))
    options = parser.parse_args(arguments)
    items = prepared(options.folder, options.subset)
    results = {}
    for name in dict.fromkeys((FULL, *options.settings)):
        results[name] = evaluated(items, options.folder, name)
        with replacing(options.out) as partial:
            partial.write_text(json.dumps(result(results), indent=1) + "\n", encoding="utf-8")
    print(markdown([table(json.loads(options.out.read_text(encoding="utf-8")))]))
    print(f"{options.out}; reports in {options.folder}")


def prepared(folder: Path, subset: str) -> ItemSet:
    path = folder / f"mini-{subset}.jsonl"
    write_items(path, catalogue.BENCHES["mini"].prepare(folder / "clips", subset))
    return read_items(path)


def evaluated(items: ItemSet, folder: Path, name: str) -> Results:
    """Edited, scored, and reported against full attention."""
    run = Run(folder / name.replace(", ", "-").replace(" ", "-"))
    run.made_edits.mkdir(parents=True, exist_ok=True)
    generate(items, run, name)
    run.begin(Settings(str(folder / f"{items.name}.jsonl"), None, name, CORRECTED, "crop"), items)
    names = (*catalogue.BENCHES["mini"].metrics, *EXTRA_METRICS)
    metrics, unable = runnable(catalogue.chosen(names, items, offline=False))
    for why in unable.values():
        print(f"left out: {why}")
    score(run, planned(run, items, metrics, lambda item: edit_of(item, run.made_edits)))
    found = collect(run)
    against = None if name == FULL else collect(Run(folder / FULL))
    write_report(found, catalogue.described(), catalogue.BENCHES, against)
    return found


def generate(items: ItemSet, run: Run, name: str):
    """One edit after another, without those that are there."""
    left = [item for item in items.items if edit_of(item, run.made_edits) is None]
    if not left:
        return
    from ...pipelines.edit import edit_file, load

    isa, refresh = SETTINGS[name]
    pipe = load(ModelChoice(isa=isa, min_tokens=0, context_refresh=refresh))
    for item in tqdm(left, desc=name):
        edit = Edit(item.source, item.instruction, size=(128, 128))
        edit_file(pipe, edit, run.made_edits / f"{item.id}.mp4", progress=False)


def result(results: dict[str, Results]) -> dict:
    """What is stored: means with intervals, and differences from full attention, item by item."""
    full = results[FULL]
    rows = {}
    for name, found in results.items():
        rows[name] = {"means": numbers(found)["means"]["all"]}
        pairs = {column: paired(full.of(column), found.of(column)) for column in full.columns}
        rows[name]["less_full"] = {column: asdict(pair) for column, pair in pairs.items() if pair and name != FULL}
        isa, refresh = SETTINGS[name]
        rows[name]["setting"] = {"isa": isa and asdict(isa), "context_refresh": refresh}
    command = "python -m liveditor_isa.benchmarks.evaluation.mini"
    return {
        "command": command,
        "versions": versions(),
        "items": full.items.described,
        "settings": rows,
    }


SHOWN = (
    "psnr_reference",
    "psnr_reference_inside",
    "psnr_source_outside",
    "ssim_reference",
    "mini_progress",
    "lpips_alex_reference",
)


def table(stored: dict) -> Table:
    """Of a result file: full attention's means, and the others' differences from it with their intervals."""
    rows = []
    for name, row in stored["settings"].items():
        columns = row["means"] if name == FULL else row["less_full"]
        rows.append((name, *(_cell(columns.get(column)) for column in SHOWN)))
    count = stored["items"]["items"]
    note = f"{count} clips. Full attention: means; below it differences from it, item by item, with 95 % intervals."
    return Table("What presets cost", ("setting", *SHOWN), tuple(rows), (note,))


def _cell(found: dict | None) -> str:
    if not found:
        return "–"
    if "difference" not in found:
        return number(found["mean"])
    change = found["difference"]
    return f"{signed(change['mean'])} ({signed(change['low'])} to {signed(change['high'])})"


if __name__ == "__main__":
    main()
