"""LIVEditor in ComfyUI on one GPU and on two, through core's MultiGPU CFG Split: a guided step, with ISA and with full attention.

    python -m liveditor_isa.benchmarks.steps.scaleout_comfyui

Random weights, some of the 40 transformer blocks of the real width, bf16, guidance 2.5: one GPU computes both passes, two take one
each. `efficiency` is the time on one over twice the time on two; `rel_error` compares what three steps end in.
Needs ComfyUI in COMFYUI_PATH, and two GPUs.
"""

# ruff: noqa: E402  ComfyUI is found, and told of the GPU, before its modules are imported.
from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path

from ..machine import gpu_slug, result_file, versions
from . import panel  # makes comfy importable

# isort: split
import comfy.multigpu
import torch

from ...comfyui.attach import OVERRIDE, attach_isa
from ...isa_core import ISAConfig
from ...runtime.live import LiveSettings, Settings
from ...runtime.schedule import Schedule
from .whole_step import SIZES, by_cudnn, sampled

GUIDANCE = 2.5


def network(blocks: int):
    """A ModelPatcher that core can make again for another GPU."""
    patcher = panel.model(blocks, panel.WIDTH, torch.device("cuda"), torch.bfloat16)
    patcher.cached_patcher_init = (again, (blocks,))
    return patcher


def again(blocks: int, disable_dynamic: bool = False):
    return network(blocks)


def with_attention(patcher, attention: str):
    if attention == "ISA":
        return attach_isa(patcher, LiveSettings(Settings(ISAConfig())), Schedule(), "auto", lambda line: None)
    clone = patcher.clone()
    clone.model_options["transformer_options"][OVERRIDE] = by_cudnn
    return clone


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--sizes", nargs="+", default=["832x480"], choices=list(SIZES))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if torch.cuda.device_count() < 2:
        sys.exit("benchmarks/steps/scaleout_comfyui.py needs two GPUs.")
    gpu = torch.cuda.get_device_name()
    command = shlex.join(["python", "benchmarks/steps/scaleout_comfyui.py", *sys.argv[1:]])
    result = {"gpu": gpu, "versions": versions(), "command": command, "blocks": options.blocks, "rows": []}
    path = options.out or result_file(f"scaleout-comfyui-{gpu_slug(gpu)}")
    one = network(options.blocks)
    two = comfy.multigpu.create_multigpu_deepclones(one.clone(), 2)
    for size in options.sizes:
        frames, height, width = SIZES[size]
        for attention in ("ISA", "full, cuDNN"):
            models = {1: with_attention(one, attention), 2: with_attention(two, attention)}
            times, ends = {1: [], 2: []}, {}
            for turn in range(options.turns + 1):  # the first compiles and loads
                for gpus, model in models.items():
                    seconds, _, ends[gpus] = sampled(model, SIZES[size], 3, GUIDANCE)
                    times[gpus] += seconds if turn else []
            error = ((ends[2] - ends[1]).norm() / ends[1].norm()).item()
            alone = statistics.median(times[1])
            for gpus, taken in times.items():
                row = {"part": "guided step", "attention": attention, "gpus": gpus, "tokens": 2 * frames * height * width // 4}
                row |= {"ms": round(1000 * statistics.median(taken), 1)}
                row |= {"ms_range": [round(1000 * min(taken), 1), round(1000 * max(taken), 1)]}
                row |= {"efficiency": round(alone / (gpus * statistics.median(taken)), 3)}
                result["rows"].append(row | ({} if gpus == 1 else {"rel_error": float(f"{error:.2e}")}))
                print("  ", result["rows"][-1], flush=True)
            path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
