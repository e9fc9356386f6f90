"""Error against time of every way to choose what is attended exactly, and of rivals, on the same inputs.

    python -m liveditor_isa.benchmarks.attention.frontier [--seeds 11 12 13]

Inputs are structured ones of seeds that nothing was tuned to. An error is that of the target's queries, which alone leave the
model, against full attention.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ...isa_core import ISAConfig, in_context_sparse_attention
from ..machine import gpu_slug, result_file, versions
from . import errors, inputs, timing
from .sweep import ms_at_error
from .variants import VARIANTS, Attention, Bench, isa, sol_attn

HEADS, DIM = 40, 128
TAUS = (1.0, 1.3, 1.6, 2.0, 2.5, 3.0)
BUDGETS = (0.0625, 0.1, 0.15, 0.2, 0.28, 0.4, 0.5)


def policies() -> dict[str, dict[str, ISAConfig]]:
    """{policy: {setting: ISAConfig}}."""
    return {
        "isa": {"paper": ISAConfig()},
        "isa-no-dense": {f"{ratio:g}": ISAConfig(1, 0, ratio) for ratio in BUDGETS},
        "error-aware": {f"{ratio:g}": ISAConfig(1, exact_ratio=ratio, policy="error_aware") for ratio in BUDGETS},
    }


def points() -> dict[str, tuple[dict, Callable[[], Attention], ISAConfig | None]]:
    """{unique name: (what the row says, function that makes the attention, its config)}."""
    found: dict[str, tuple[dict, Callable[[], Attention], ISAConfig | None]] = {}
    for policy, configs in policies().items():
        for setting, config in configs.items():
            for suffix, dense in (("", "auto"), ("-8bit", "8bit")):
                row = {"policy": policy + suffix, "setting": setting}
                found[" ".join(row.values())] = row, lambda c=config, d=dense: isa(c, dense=d), config
    for tau in TAUS:
        found[f"sol-attn-tau{tau:g}"] = {"policy": f"sol-attn-tau{tau:g}"}, lambda t=tau: sol_attn(t), None
    for name in ("sdpa-cudnn", "comfy-kitchen-int8", "sageattention", "flex-attention"):
        found[name] = {"policy": name}, VARIANTS[name], None
    return found


def measure(bench: Bench, chosen: dict, seed: int, tokens: int, turns: int) -> list[dict]:
    """Rows of one seed's inputs, each with error, time, share of the arithmetic, and the rate of its lists."""
    layout = inputs.half_context(tokens)
    q, k, v = inputs.structured(layout, heads=HEADS, dim=DIM, seed=seed)
    sample = errors.sample_rows(layout)
    exact, gate = errors.exact_rows(q, k, v, sample), inputs.gate(layout)
    rows = {}
    for name in list(bench.running):
        out = bench.attempt(name, lambda name=name: bench.running[name](q, k, v, layout))
        if out is None:
            continue
        error = errors.errors_vs_full(out, exact, sample, layout)["err_vs_full_target"]
        rows[name] = chosen[name][0] | {
            "inputs": "structured",
            "seed": seed,
            "tokens": tokens,
            "err_target": float(f"{error:.3g}"),
        }
        del out
        if (config := chosen[name][2]) is not None:
            stats = in_context_sparse_attention(q, k, v, layout=layout, config=config, return_stats=True)[1]
            rows[name] |= {"flop_ratio": round(stats.flop_ratio, 4), "density": round(stats.density, 4)}
    calls = {name: lambda name=name: bench.running[name](q, k, v, layout, gate) for name in rows}
    for name, times in timing.alternate(calls, turns, alone=False).items():
        rows[name] |= times
    for name, row in rows.items():
        if chosen[name][2] is not None:
            row |= timing.split(calls[name])
            if row["policy"].startswith(("error-aware", "isa-no-dense")):
                row["list_tflops"] = round(4 * tokens**2 * row["density"] * HEADS * DIM / row["sparse_ms"] / 1e9)
    return list(rows.values())


def against_sol_attn(rows: list[dict], policy: str) -> float | None:
    """Median over sol_attn's taus of its time over that of `policy` at the same error, on one seed's inputs."""
    ours = [(row["err_target"], row["ms"]) for row in rows if row["policy"] == policy]
    found = []
    for row in rows:
        if row["policy"].startswith("sol-attn") and ours:
            ms = ms_at_error(ours, row["err_target"])
            found.append(row["ms"] / ms if ms else None)
    reached = [ratio for ratio in found if ratio is not None]
    return round(statistics.median(reached), 2) if reached else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--tokens", type=int, default=65_520)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="policies to measure, beside full attention")
    parser.add_argument("--out", type=Path)
    options, began = parser.parse_args(), time.perf_counter()
    if not torch.cuda.is_available():
        sys.exit("The frontier is measured on a GPU.")
    chosen = points()
    if options.only:
        wanted = ("sdpa-cudnn", *options.only)
        chosen = {name: point for name, point in chosen.items() if point[0]["policy"] in wanted}
    bench = Bench({name: make for name, (_, make, _) in chosen.items()})
    gpu = torch.cuda.get_device_name()
    result = {
        "gpu": gpu,
        "versions": versions(),
        "command": " ".join(["python -m", __spec__.name, *sys.argv[1:]]),
        "gate": True,
    }
    result |= {"rows": [], "skipped": bench.skipped, "vs_sol_attn_equal_error": {}, "list_tflops": {}}
    path = options.out or result_file(f"frontier-{gpu_slug(gpu)}")
    for seed in options.seeds:
        rows = measure(bench, chosen, seed, options.tokens, options.turns)
        result["rows"] += rows
        for policy in ("isa-no-dense", "isa-no-dense-8bit", "error-aware", "error-aware-8bit"):
            if (ratio := against_sol_attn(rows, policy)) is not None:
                result["vs_sol_attn_equal_error"].setdefault(policy, []).append(ratio)
        for row in rows:
            if row.get("setting") == "0.28" and "list_tflops" in row:
                result["list_tflops"].setdefault(row["policy"], []).append(row["list_tflops"])
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")  # an interrupted run keeps its results
        for row in rows:
            print({name: value for name, value in row.items() if name not in ("inputs", "tokens")}, flush=True)
        del rows
        torch.cuda.empty_cache()
    print("over sol_attn at equal error:", result["vs_sol_attn_equal_error"], "lists, TFLOP/s:", result["list_tflops"])
    print(f"{time.perf_counter() - began:.0f} s; {path}")


if __name__ == "__main__":
    main()
