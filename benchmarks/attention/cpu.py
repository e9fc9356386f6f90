"""ISA's PyTorch backend beside full attention on a CPU: time as a ratio within one run, and peak memory.

    python -m liveditor_isa.benchmarks.attention.cpu [--tokens 16384] [--write]

Every variant runs in a process of its own, so that its peak memory is its own. Variants alternate over the repetitions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

from ..machine import peak_memory, result_file

HEADS, DIM = 4, 64
VARIANTS = ("dense", "isa")


def measure(variant: str, dtype: str, tokens: int) -> dict:
    """One process: seconds of the second call, and the highest resident memory of the process."""
    import torch

    from ...isa_core import ISAConfig, TokenLayout, dense_attention, in_context_sparse_attention

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, tokens, HEADS, DIM, generator=generator).to(getattr(torch, dtype)) for _ in range(3))
    before = peak_memory()
    layout = TokenLayout(tokens // 2, (tokens - tokens // 2,))
    with torch.inference_mode():
        for _ in range(2):
            start = time.perf_counter()
            if variant == "dense":
                dense_attention(q, k, v)
            else:
                in_context_sparse_attention(q, k, v, layout=layout, config=ISAConfig(), backend="torch")
            seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_gb": peak_memory() / 1e9, "before_gb": before / 1e9}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="store the table under benchmarks/results")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.tokens)))
        return

    import torch

    rows = []
    for dtype in ("float32", "bfloat16"):
        runs = {variant: [] for variant in VARIANTS}
        for _ in range(options.repeat):
            for variant in VARIANTS:
                command = [sys.executable, "-m", __spec__.name, "--one", variant, dtype, "--tokens", str(options.tokens)]
                runs[variant].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        for variant in VARIANTS:
            seconds = statistics.median(run["seconds"] for run in runs[variant])
            rows.append(
                {
                    "variant": variant,
                    "dtype": dtype,
                    "tokens": options.tokens,
                    "heads": HEADS,
                    "head_dim": DIM,
                    "seconds": round(seconds, 3),
                    "vs_dense": round(seconds / statistics.median(run["seconds"] for run in runs["dense"]), 3),
                    "peak_gb": round(max(run["peak_gb"] for run in runs[variant]), 3),
                    "peak_gb_before_the_call": round(max(run["before_gb"] for run in runs[variant]), 3),
                }
            )
            print(rows[-1])
    if options.write:
        path = result_file("attention-cpu")
        result = {
            "cpu": f"{os.cpu_count()} cores, {platform.machine()}",
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "command": f"python -m liveditor_isa.benchmarks.attention.cpu --tokens {options.tokens} --repeat {options.repeat} --write",
            "rows": rows,
        }
        path.write_text(json.dumps(result, indent=2) + "\n")
        print(path)


if __name__ == "__main__":
    main()
