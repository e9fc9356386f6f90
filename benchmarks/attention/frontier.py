"""Error against time of every way to choose what is attended exactly, and of rivals, on the same inputs.

    python -m liveditor_isa.benchmarks.attention.frontier [--seeds 11 12 13] [--recorded]

Inputs are structured ones of seeds that nothing was tuned to, and with --recorded those of the included editor: attention calls
early, in the middle and late in a sampling run, which needs ComfyUI. An error is that of the target's queries, which alone
leave the model, against full attention.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from ...isa_core import ISAConfig, TokenLayout, in_context_sparse_attention
from ..machine import ROOT, gpu_slug, heading, result_file
from . import errors, inputs, timing
from .peers import Grid, peers, policy_of
from .sweep import ms_at_error
from .variants import VARIANTS, Attention, Bench, isa, sol_attn

HEADS, DIM = 40, 128
TAUS = (1.0, 1.3, 1.6, 2.0, 2.5, 3.0)
BUDGETS = (0.0625, 0.125, 0.2, 0.28, 0.4, 0.5)
LISTS = ("isa-no-dense", "error-aware", "segment-top-k")
"""Policies without dense query blocks."""


def policies() -> dict[str, dict[str, ISAConfig]]:
    """{policy: {setting: ISAConfig}}."""
    return {
        "isa": {"paper": ISAConfig()},
        "isa-no-dense": {f"{ratio:g}": ISAConfig(1, 0, ratio) for ratio in BUDGETS},
        "error-aware": {f"{ratio:g}": ISAConfig(1, exact_ratio=ratio, policy="error_aware") for ratio in BUDGETS},
        "segment-top-k": {f"{ratio:g}": ISAConfig(exact_ratio=ratio, policy="segment_top_k") for ratio in BUDGETS},
    }


class Inputs(NamedTuple):
    """One attention call, q, k, v [B, S, H, D], each token group a grid; about: what its rows say of it."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    layout: TokenLayout
    grid: Grid
    about: dict


class Point(NamedTuple):
    """row: what its rows say of it. make: makes the attention. cost: of a call, what it takes, as its rows say it."""

    row: dict
    make: Callable[[], Attention]
    cost: Callable[[Inputs], dict] | None = None


def points(grid: Grid) -> dict[str, Point]:
    """{unique name: Point}."""
    found: dict[str, Point] = {}
    for policy, configs in policies().items():
        for setting, config in configs.items():
            for suffix, dense in (("", "auto"), ("-8bit", "8bit")):
                row = {"policy": policy + suffix, "setting": setting}
                found[" ".join(row.values())] = Point(
                    row, lambda c=config, d=dense: isa(c, dense=d), lambda given, c=config: _cost_of_isa(given, c)
                )
    for name, attention in peers().items():
        found[name] = Point(
            policy_of(name),
            lambda run=attention: lambda q, k, v, layout, gate=None: run(q, k, v, layout, grid, gate)[0],
            lambda given, run=attention: {"flop_ratio": round(float(run(*given[:5])[1]), 4)},
        )
    for tau in TAUS:
        found[f"sol-attn-tau{tau:g}"] = Point({"policy": f"sol-attn-tau{tau:g}"}, lambda t=tau: sol_attn(t))
    for name in ("sdpa-cudnn", "comfy-kitchen-int8", "sageattention", "flex-attention"):
        found[name] = Point({"policy": name}, VARIANTS[name])
    return found


def _cost_of_isa(given: Inputs, config: ISAConfig) -> dict:
    q, k, v, layout = given[:4]
    stats = in_context_sparse_attention(q, k, v, layout=layout, config=config, return_stats=True)[1]
    return {"flop_ratio": round(stats.flop_ratio, 4), "density": round(stats.density, 4)}


def structured(tokens: int, seed: int) -> Inputs:
    layout = inputs.half_context(tokens)
    tensors = inputs.structured(layout, heads=HEADS, dim=DIM, seed=seed)
    return Inputs(*tensors, layout, inputs.grid_for(layout.target), {"inputs": "structured", "seed": seed, "tokens": tokens})


STEPS, RECORDED, SIZE = 12, (1, 5, 10), (33, 256, 256)
"""Of a sampling run with the included editor, those whose attention calls are taken, and frames, height and width of the clips."""


def recorded(device: torch.device | str = "cuda", clips: int | None = None, size=SIZE) -> list[Inputs]:
    """Of the first, the middle and the last transformer block at each step of RECORDED; clips: how many, else one of every task."""
    from ..editor import EditBatch, held_out, load_editor, watch

    calls = []
    editor = load_editor(ROOT / "weights", ROOT / "weights", device)
    batch = EditBatch(*(part[:clips] for part in held_out(size, 0, device)))
    watch(editor, batch, STEPS, lambda call: calls.append(call) if call.step in RECORDED else None)
    blocks = sorted({call.block for call in calls})
    chosen = {blocks[0], blocks[len(blocks) // 2], blocks[-1]}
    return [
        # The first half: the second one is without instruction.
        Inputs(*(x[: len(x) // 2].bfloat16() for x in (call.q, call.k, call.v)), call.layout, call.grid,
               {"inputs": "recorded", "step": call.step, "block": call.block, "tokens": call.layout.total})
        for call in calls if call.block in chosen
    ]  # fmt: skip


def measure(bench: Bench, chosen: dict[str, Point], given: Inputs, turns: int) -> list[dict]:
    """Rows of one call's inputs, each with error, time, share of the arithmetic, and the rate of its lists."""
    q, k, v, layout = given[:4]
    error = errors.target_errors(q, k, v, layout)
    gate = inputs.gate(layout, q.device).expand(len(q), -1, -1, -1)
    rows = {}
    for name in list(bench.running):
        out = bench.attempt(name, lambda name=name: bench.running[name](q, k, v, layout))
        if out is None:
            continue
        rows[name] = chosen[name].row | given.about | {"err_target": float(f"{error(out):.3g}")}
        del out
        if (cost := chosen[name].cost) is not None:
            rows[name] |= cost(given)
    calls = {name: lambda name=name: bench.running[name](q, k, v, layout, gate) for name in rows}
    for name, times in timing.alternate(calls, turns, alone=False).items():
        rows[name] |= times
    for name, row in rows.items():
        if "density" in row:
            row |= timing.split(calls[name])
            if row["policy"].startswith(LISTS) and row["inputs"] == "structured":
                row["list_tflops"] = round(4 * layout.total**2 * row["density"] * HEADS * DIM / row["sparse_ms"] / 1e9)
    return list(rows.values())


def together(calls: list[list[dict]]) -> list[dict]:
    """Rows of several calls as one of each policy: the mean error and cost, and the time of all."""
    found: dict[tuple, list[dict]] = {}
    for row in (row for rows in calls for row in rows):
        found.setdefault((row["policy"], row.get("setting")), []).append(row)
    result = []
    for rows in found.values():
        one = {name: rows[0][name] for name in ("policy", "setting", "inputs", "tokens") if name in rows[0]}
        one |= {"calls": len(rows), "err_target": float(f"{statistics.mean(row['err_target'] for row in rows):.3g}")}
        if "flop_ratio" in rows[0]:
            one["flop_ratio"] = round(statistics.mean(row["flop_ratio"] for row in rows), 4)
        result.append(one | {"ms": round(sum(row["ms"] for row in rows), 3)})
    return result


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
    parser.add_argument("--recorded", action="store_true", help="also the included editor's own attention calls")
    parser.add_argument("--only", nargs="+", help="policies to measure, beside full attention")
    parser.add_argument("--out", type=Path)
    options, began = parser.parse_args(), time.perf_counter()
    if not torch.cuda.is_available():
        sys.exit("The frontier is measured on a GPU.")
    gpu = torch.cuda.get_device_name()
    result = {
        **heading(__spec__.name),
        "gate": True,
    }
    result |= {"rows": [], "skipped": {}, "vs_sol_attn_equal_error": {}, "list_tflops": {}}
    path = options.out or result_file(f"frontier-{gpu_slug(gpu)}")

    def measured(given: Inputs) -> list[dict]:
        chosen = points(given.grid)
        if options.only:
            wanted = ("sdpa-cudnn", *options.only)
            chosen = {name: point for name, point in chosen.items() if point.row["policy"].startswith(wanted)}
        bench = Bench({name: point.make for name, point in chosen.items()})
        rows = measure(bench, chosen, given, options.turns)
        result["skipped"] |= bench.skipped
        torch.cuda.empty_cache()
        return rows

    def store(rows: list[dict], kind: str):
        result["rows"] += rows
        ratios = result["vs_sol_attn_equal_error"].setdefault(kind, {})
        for policy in (name + suffix for name in LISTS for suffix in ("", "-8bit")):
            if (ratio := against_sol_attn(rows, policy)) is not None:
                ratios.setdefault(policy, []).append(ratio)
        for row in rows:
            if row.get("setting") == "0.28" and "list_tflops" in row:
                result["list_tflops"].setdefault(row["policy"], []).append(row["list_tflops"])
            print({name: value for name, value in row.items() if name not in ("inputs", "tokens")}, flush=True)
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")  # an interrupted run keeps its results

    if options.recorded:
        store(together([measured(given) for given in recorded()]), "recorded")
    for seed in options.seeds:
        store(measured(structured(options.tokens, seed)), "structured")
    print("over sol_attn at equal error:", result["vs_sol_attn_equal_error"], "lists, TFLOP/s:", result["list_tflops"])
    print(f"{time.perf_counter() - began:.0f} s; {path}")


if __name__ == "__main__":
    main()
