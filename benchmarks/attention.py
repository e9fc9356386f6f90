"""ISA beside full attention on one GPU: medians of alternating runs in one process, extra memory, first call, error.

    python benchmarks/attention.py [--tokens 16384 65520] [--out FILE]

bf16, B = 1, H = 40, D = 128, half of the tokens target, half context, random inputs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
import triton
from liveditor_isa.isa_core import ISAConfig, TokenLayout, in_context_sparse_attention
from liveditor_isa.isa_core.reference import reference_attention
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

HEADS, DIM = 40, 128


def sdpa(kind: SDPBackend):
    def run(q, k, v, layout):
        with sdpa_kernel(kind):
            return torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

    return run


def isa(backend: str, dense_kind: SDPBackend):
    attend = sdpa(dense_kind)

    def run(q, k, v, layout):
        dense = lambda q, k, v: attend(q, k, v, None)  # noqa: E731
        return in_context_sparse_attention(q, k, v, layout=layout, config=ISAConfig(), backend=backend, dense=dense)

    return run


VARIANTS = {
    "sdpa-cudnn": sdpa(SDPBackend.CUDNN_ATTENTION),
    "sdpa-fa2": sdpa(SDPBackend.FLASH_ATTENTION),
    "isa-paper-bf16": isa("triton", SDPBackend.CUDNN_ATTENTION),
    "isa-paper-bf16-fa2": isa("triton", SDPBackend.FLASH_ATTENTION),
    "isa-paper-bf16-torch": isa("torch", SDPBackend.CUDNN_ATTENTION),
}


def inputs(tokens: int, heads: int = HEADS):
    generator = torch.Generator("cuda").manual_seed(0)
    return [torch.randn(1, tokens, heads, DIM, generator=generator, device="cuda", dtype=torch.bfloat16) for _ in range(3)]


def measure(tokens: int, repeat: int) -> list[dict]:
    q, k, v = inputs(tokens)
    layout = TokenLayout(tokens // 2, (tokens - tokens // 2,))
    rows, times = {}, {name: [] for name in VARIANTS}
    for name, run in VARIANTS.items():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held, start = torch.cuda.memory_allocated(), time.perf_counter()
        out = run(q, k, v, layout)
        torch.cuda.synchronize()
        first = time.perf_counter() - start
        extra = torch.cuda.max_memory_allocated() - held - out.numel() * out.element_size()
        rows[name] = {"tokens": tokens, "variant": name, "first_call_s": round(first, 3), "extra_gb": round(extra / 1e9, 3)}
        del out
    for turn in range(repeat + 1):
        for name, run in VARIANTS.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run(q, k, v, layout)
            end.record()
            torch.cuda.synchronize()
            if turn:  # the first one warms up
                times[name].append(start.elapsed_time(end))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, row in rows.items():
        row["ms"] = round(medians[name], 2)
        row["vs_cudnn"] = round(medians["sdpa-cudnn"] / medians[name], 2)
        row["vs_fa2"] = round(medians["sdpa-fa2"] / medians[name], 2)
        if name.startswith("isa"):
            row |= split(lambda run=VARIANTS[name]: run(q, k, v, layout))
    return list(rows.values())


def split(run) -> dict[str, float]:
    """Milliseconds of GPU kernels by part: the caller's dense attention, our sparse kernel, all the rest."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    parts = {"prep_ms": 0.0, "dense_ms": 0.0, "sparse_ms": 0.0}
    for event in profiled.key_averages():
        name = event.key.lower()
        part = (
            "sparse_ms"
            if name == "_sparse"
            else "dense_ms"
            if "sdpa" in name or "flash" in name or "fmha" in name
            else "prep_ms"
        )
        parts[part] += event.self_device_time_total / 1000
    return {name: round(ms, 2) for name, ms in parts.items()}


def errors() -> dict[str, float]:
    """Relative L2 error against the fp64 oracle on a ragged layout, two heads."""
    layout = TokenLayout(1080, (1080, 301))
    q, k, v = inputs(layout.total, heads=2)
    found = {}
    for name, run in VARIANTS.items():
        config = ISAConfig() if name.startswith("isa") else ISAConfig(keep_ratio=1, dense_query_ratio=1)
        oracle = reference_attention(*(x.cpu() for x in (q, k, v)), layout=layout, config=config)[0]
        found[name] = float((run(q, k, v, layout).double().cpu() - oracle).norm() / oracle.norm())
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[16384, 32768, 65520, 85680])
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    found = errors()
    rows = [row for tokens in options.tokens for row in measure(tokens, options.repeat)]
    for row in rows:
        row["rel_err"] = float(f"{found[row['variant']]:.2e}")
        print(row, flush=True)
    result = {
        "gpu": torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()},
        "command": " ".join(["python", "benchmarks/attention.py", *sys.argv[1:]]),
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
