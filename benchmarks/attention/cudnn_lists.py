"""cuDNN's block-sparse kernels for Hopper beside our lists: 28 % of the blocks, drawn at random, 65,536 tokens, 40 heads of 128, one process.

    python -m liveditor_isa.benchmarks.attention.cudnn_lists

Needs a Hopper GPU, `nvidia-cudnn-frontend` and `nvidia-cutlass-dsl[cu13]`. cuDNN's attend to the listed blocks alone. Ours attend to the means of
all others as well, and `ours, kernel` is the time of their one kernel in the profiler. TFLOP/s count listed blocks only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from triton.testing import do_bench

from ...isa_core import ISAConfig, TokenLayout, in_context_sparse_attention
from ...optional import needed
from ..machine import gpu_slug, heading, result_file

PACKAGES = ("nvidia-cudnn-frontend", "nvidia-cutlass-dsl")

TOKENS, HEADS, DIM, SHARE = 65_536, 40, 128, 0.28


def listed(block: int) -> int:
    """Blocks of a list: an even number, which cuDNN's kernels for other GPUs ask for."""
    return round(SHARE * (TOKENS // block)) // 2 * 2


def lists(block: int, generator: torch.Generator) -> torch.Tensor:
    """[1, HEADS, blocks, listed] of blocks in ascending order, int32."""
    count = TOKENS // block
    of_head = (
        torch.rand(count, count, device="cuda", generator=generator).topk(listed(block), 1).indices.sort(1).values
        for _ in range(HEADS)
    )
    return torch.stack([*of_head])[None].int().contiguous()


def error(out: torch.Tensor, qkv: list[torch.Tensor], chosen: torch.Tensor, block: int) -> float:
    """Of one query block against fp64 attention over its list."""
    head, row = 3, 17
    q, k, v = (x[0, head].double() for x in qkv)
    keys = (chosen[0, head, row].long()[:, None] * block + torch.arange(block, device="cuda")).flatten()
    rows = slice(row * block, (row + 1) * block)
    exact = (q[rows] @ k[keys].T * DIM**-0.5).softmax(1) @ v[keys]
    return float((out[0, head, rows].double() - exact).norm() / exact.norm())


def row(name: str, ms: float, block: int, **more) -> dict:
    tflops = 4 * TOKENS * listed(block) * block * DIM * HEADS / ms / 1e9
    found = {"kernel": name, "block": block, "ms": round(ms, 3), "tflops": round(tflops, 1), **more}
    print(found, flush=True)
    return found


def measured(call: Callable) -> float:
    return do_bench(call, warmup=100, rep=500, return_mode="median")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    bsa = needed("cudnn", "nvidia-cudnn-frontend").BSA
    generator = torch.Generator("cuda").manual_seed(11)
    qkv = [torch.randn(1, HEADS, TOKENS, DIM, device="cuda", generator=generator).bfloat16() for _ in range(3)]
    rows = []
    for block in (64, 128):
        chosen = lists(block, generator)
        for name, attend in (("bf16", bsa.block_sparse_attention_forward), ("fp8", bsa.block_sparse_attention_fp8_forward)):

            def call(attend=attend, chosen=chosen, block=block):
                return attend(*qkv, chosen, chosen.shape[3], sparse_block_size=block)["o_tensor"]

            wrong = error(call(), qkv, chosen, block)
            rows.append(row(f"cuDNN, {name}", measured(call), block, error=float(f"{wrong:.3g}")))
    tokens = [x.transpose(1, 2).contiguous() for x in qkv]
    layout, config = TokenLayout(TOKENS // 2, (TOKENS // 2,)), ISAConfig(keep_ratio=1, dense_query_ratio=0, exact_ratio=SHARE)
    for name, dense in (("bf16", "auto"), ("8 bits", "8bit")):

        def ours(dense=dense):
            return in_context_sparse_attention(*tokens, layout=layout, config=config, dense=dense)

        ours()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(5):
                ours()
            torch.cuda.synchronize()
        longest = max(event.device_time_total for event in profiler.key_averages()) / 5000
        rows += [row(f"ours, kernel, {name}", longest, 64), row(f"ours, whole call, {name}", measured(ours), 64)]
    about = heading(__spec__.name)
    about["versions"] |= {package: version(package) for package in PACKAGES}
    result = {**about, "tokens": TOKENS, "heads": HEADS, "head_dim": DIM, "share": SHARE, "rows": rows}
    path = options.out or result_file(f"cudnn-lists-{gpu_slug(result['gpu'])}")
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
