"""ISA beside full attention and other sparse or 8-bit attention on one GPU: time, memory, first call, errors, targets.

    python -m liveditor_isa.benchmarks.attention.table                 the table, stored as benchmarks/results/attention-<gpu>-<date>.json
    python -m liveditor_isa.benchmarks.attention.table --sweep         with error against latency at 65,520 tokens
    python -m liveditor_isa.benchmarks.attention.table --tokens 65520 --inputs structured --variants isa-paper-bf16 sdpa-cudnn --no-store

bf16, B = 1, H = 40, D = 128, half of the tokens target, half context. ISA's times and memory include LIVEditor's gated
residual, which full attention is measured without. What is not installed, or refuses, is skipped with
its reason. How times are taken: timing.py; what each error means: errors.py; what the inputs are: inputs.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from ...isa_core import ISAConfig
from ...isa_core.config import blocks_for
from ...isa_core.layout import block_table
from ..machine import gpu_slug, heading, result_file
from . import cold, errors, inputs, timing
from .sweep import equal_error, sweep, unique
from .targets import LENGTH, lines, targets
from .variants import VARIANTS, Bench

HEADS, DIM = 40, 128
TORCH = "isa-paper-bf16-torch"
LENGTHS = [16384, 32768, LENGTH, 85680]
COLUMNS = (
    "tokens", "inputs", "variant", "ms", "ms_alone", "vs_cudnn", "vs_fa2", "prep_ms", "dense_ms", "sparse_ms", "extra_gb",
    "first_call_s", "rel_err", "err_vs_full", "err_vs_bf16",
)  # fmt: skip


def measure(bench: Bench, kind: str, tokens: int, turns: int, kernel_errors: dict[str, float]) -> list[dict]:
    """The rows of one length and kind of input."""
    layout = inputs.half_context(tokens)
    q, k, v = getattr(inputs, kind)(layout, heads=HEADS)
    sample = errors.sample_rows(layout)
    exact = errors.exact_rows(q, k, v, sample)
    gate = inputs.gate(layout)
    calls = {name: lambda run=run: run(q, k, v, layout, gate) for name, run in bench.running.items()}
    rows, kept = {}, {}

    def first_call(name):
        _, extra = timing.first_output(calls[name])
        row = {"tokens": tokens, "inputs": kind, "variant": name, "extra_gb": extra, "first_call_s": None}
        # Without the residual, which full attention, the reference of these errors, does not have.
        out = bench.running[name](q, k, v, layout)
        row |= errors.errors_vs_full(out, exact, sample, layout)
        # Full attention's rounding shows against the exact output; ISA's only against its oracle; sol_attn has none here.
        row["rel_err"] = kernel_errors.get(name, None if name.startswith(("isa", "sol")) else row["err_vs_full"])
        if name == "isa-paper-bf16":
            kept["bf16"] = out
        elif "bf16" in kept and name in ("isa-paper-8bit", "isa-paper-bf16-triton"):
            row["err_vs_bf16"] = errors.relative(out, kept["bf16"])
        rows[name] = row

    for name in calls:
        bench.attempt(name, lambda name=name: first_call(name))
    kept.clear()
    for name, times in timing.alternate({name: calls[name] for name in rows}, turns).items():
        rows[name] |= times
    for name, row in rows.items():
        for column, rival in (("vs_cudnn", "sdpa-cudnn"), ("vs_fa2", "sdpa-fa2")):
            row[column] = round(rows[rival]["ms"] / row["ms"], 2) if rival in rows else None
        if name.startswith("isa") and name != TORCH:  # both groups of these run on the same kernels
            row |= timing.split(calls[name])
            row["sparse_tflops"] = round(sparse_flops(layout) / row["sparse_ms"] / 1e9) if row["sparse_ms"] else None
    return [rounded(row) for row in rows.values()]


def sparse_flops(layout, config: ISAConfig = ISAConfig()) -> float:
    """Multiply-adds, twice, of both products of the sparse kernel: exact blocks and a mean per listed block."""
    table = block_table(layout, config.block_size)
    listed = table.target_blocks + table.kept_blocks(config.keep_ratio)
    keys = blocks_for(config.exact_ratio, listed) * config.block_size + listed
    queries = (table.count - blocks_for(config.dense_query_ratio, table.count)) * config.block_size
    return 4.0 * DIM * HEADS * queries * keys


def rounded(row: dict) -> dict:
    return {name: float(f"{value:.3g}") if "err" in name and isinstance(value, float) else value for name, value in row.items()}


def kernel_errors(bench: Bench, kind: str) -> dict[str, float]:
    names = [name for name in bench.running if name.startswith("isa")]
    if not names:
        return {}
    case = errors.oracle(kind)
    found = {name: bench.attempt(name, lambda name=name: errors.kernel_error(bench.running[name], case)) for name in names}
    return {name: error for name, error in found.items() if error is not None}


def run_sweep() -> tuple[list[dict], dict[str, str]]:
    layout = inputs.half_context(LENGTH)
    q, k, v = inputs.structured(layout, heads=HEADS)
    sample = errors.sample_rows(layout)
    return sweep(q, k, v, layout, sample, errors.exact_rows(q, k, v, sample))


def plan(options) -> list[tuple[str, int]]:
    """(kind of inputs, tokens) to measure: random at every length, structured where errors are judged unless asked for alone."""
    cases = [(kind, tokens) for kind in options.inputs for tokens in options.tokens]
    if len(options.inputs) == 1 or LENGTH not in options.tokens:
        return cases
    return [(kind, tokens) for kind, tokens in cases if kind == "random" or tokens == LENGTH]


def print_rows(rows: list[dict]):
    table = [COLUMNS] + [["" if row.get(name) is None else str(row[name]) for name in COLUMNS] for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(COLUMNS))]
    for line in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)), flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--inputs", nargs="+", choices=("random", "structured"), default=["random", "structured"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--turns", type=int, default=5, help="how often all variants take their turn")
    parser.add_argument("--sweep", action="store_true", help=f"error against latency at {LENGTH:,} structured tokens")
    parser.add_argument("--no-cold", action="store_true", help="leave out first calls in fresh processes")
    parser.add_argument("--no-store", action="store_true")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main():
    options, began = arguments(), time.perf_counter()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/attention/table.py needs a GPU; benchmarks/attention/cpu.py does not.")

    first_calls = {}
    if not options.no_cold:
        ours = [name for name in options.variants if name.startswith("isa") and name != TORCH]
        first_calls = cold.first_calls(ours, LENGTH, LENGTHS[-1])
    bench = Bench({name: VARIANTS[name] for name in options.variants})
    gpu = torch.cuda.get_device_name()
    result = {
        **heading(__spec__.name),
        "gate": True,
        "rows": [],
        "skipped": bench.skipped,
    }
    path = options.out or result_file(f"attention-{gpu_slug(gpu)}")

    def store(rows):
        result["rows"] += rows
        if not options.no_store:  # after every part, so that an interrupted run keeps its results
            path.write_text(json.dumps(result, indent=2) + "\n")

    small = {kind: kernel_errors(bench, kind) for kind in options.inputs}
    for kind, tokens in plan(options):
        rows = measure(bench, kind, tokens, options.turns, small[kind])
        if (kind, tokens) == ("random", LENGTH):
            rows = [row | first_calls.get(row["variant"], {}) for row in rows]
        print_rows(rows)
        store(rows)
        torch.cuda.empty_cache()
    equal = None
    if options.sweep:
        rows, skipped = run_sweep()
        bench.skipped |= skipped
        store(rows)
        for row in rows:
            print(f"{row['ms']:>8}  {row['err_vs_full']:<8} {row['err_vs_full_target']:<8} {unique(row)}")
        result["equal_error"] = {error: equal_error(rows, error) for error in ("err_vs_full", "err_vs_full_target")}
        print("sol_attn tau 1.3 over ISA at equal error:", result["equal_error"])
        equal = result["equal_error"]["err_vs_full"]
    result["targets"] = targets(result["rows"], equal)
    result["seconds"] = round(time.perf_counter() - began)
    store([])
    print("\n".join(lines(result["targets"])))
    print(f"{result['seconds']} s" if options.no_store else f"{result['seconds']} s; {path}")


if __name__ == "__main__":
    main()
