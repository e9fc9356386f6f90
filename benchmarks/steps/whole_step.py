"""A whole denoising step of LIVEditor's real architecture, and the memory it takes: full attention and ISA, by weight type.

    python -m liveditor_isa.benchmarks.steps.whole_step                      81 frames at 832×480 and 960×544, bf16 and fp8 weights
    python -m liveditor_isa.benchmarks.steps.whole_step --weights fp8_e4m3fn --turns 0 --cards 24 16 --sizes 832x480

Random weights, all 40 transformer blocks, sampled by ComfyUI with the video as context. Steps are timed between the sampler's own calls, the GPU
waited for; guidance 1, one model call per step, and for memory 2.5 too, where ComfyUI puts both passes into one batch if
there is room. Variants take turns in one process. `--cards` then gives it no more than so much memory, as smaller cards would: weights
that do not fit are moved in as they are needed.
Needs ComfyUI in COMFYUI_PATH, and a GPU.
"""

# ruff: noqa: E402  ComfyUI is found, and told of the GPU, before its modules are imported.
from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from pathlib import Path

from ..machine import gpu_slug, heading, result_file
from . import panel  # makes comfy importable

# isort: split
import comfy.model_management
import comfy.sample
import torch

from ...comfyui.attach import EIGHT_BIT, OVERRIDE, attach_isa
from ...comfyui.loaders import WEIGHT_OPTIONS
from ...isa_core import ISAConfig, dense_attention
from ...runtime.live import LiveSettings, Settings
from ...runtime.schedule import Schedule

SIZES = {"832x480": (21, 60, 104), "960x544": (21, 68, 120)}
"""Latents of 81 frames."""
NAMES = ["full attention, cuDNN", "full attention, ComfyUI's default", "ISA", "ISA, 8-bit"]
GB = 1e9


def by_cudnn(func, q, k, v, heads, mask=None, **kwargs):
    """Core's attention override: PyTorch's attention, cuDNN's first."""
    if mask is not None or kwargs.get("skip_reshape") or kwargs.get("skip_output_reshape"):
        return func(q, k, v, heads, mask=mask, **kwargs)
    return dense_attention(*(x.unflatten(2, (heads, -1)) for x in (q, k, v))).flatten(2)


def variants(patcher) -> dict:
    cudnn = patcher.clone()
    cudnn.model_options["transformer_options"][OVERRIDE] = by_cudnn
    found = {"full attention, cuDNN": cudnn, "full attention, ComfyUI's default": patcher}
    for name, backend in (("ISA", "auto"), ("ISA, 8-bit", EIGHT_BIT)):
        live = LiveSettings(Settings(ISAConfig()))
        found[name] = attach_isa(patcher, live, Schedule(), backend, lambda line: print("   ", line.splitlines()[0]))
    return found


def run(patcher, size, steps: int, guidance: float = 1.0) -> tuple[list[float], float]:
    """Seconds between the sampler's calls, and GB allocated at the highest point."""
    return sampled(patcher, size, steps, guidance)[:2]


def sampled(
    patcher, size, steps: int, guidance: float, sigmas: torch.Tensor | None = None
) -> tuple[list[float], float, torch.Tensor]:
    """`run`'s, and the latent it ends in. sigmas: of all steps and the end, in place of the schedule's."""
    generator = torch.Generator().manual_seed(1)
    noise, source = (torch.randn(1, 16, *size, generator=generator) for _ in range(2))
    text = torch.randn(1, 512, panel.WIDTH["text_dim"], generator=generator)
    positive, negative = ([[words, {"context_latents": [source]}]] for words in (text, text * 0))
    moments = []

    def callback(*_):
        torch.cuda.synchronize()
        moments.append(time.perf_counter())

    torch.cuda.reset_peak_memory_stats()
    latent = comfy.sample.sample(
        patcher, noise, steps, guidance, "euler", "simple", positive, negative, noise * 0, seed=1, disable_pbar=True,
        callback=callback, sigmas=sigmas,
    )  # fmt: skip
    torch.cuda.synchronize()
    return [later - earlier for earlier, later in zip(moments, moments[1:])], torch.cuda.max_memory_allocated() / GB, latent


def measure(patcher, size, turns: int, names: list[str]) -> list[dict]:
    runs = {name: each for name, each in variants(patcher).items() if name in names}
    times, rows = {name: [] for name in runs}, {}
    for name, each in runs.items():
        times_of_first, peak = run(each, size, 2 if turns == 0 else 1)  # compiles and loads
        held = torch.cuda.memory_allocated() / GB
        both = run(each, size, 1, guidance=2.5)[1]
        rows[name] = {
            "variant": name,
            "peak_gb": round(peak, 2),
            "peak_gb_guided": round(both, 2),
            "weights_gb": round(held, 2),
        }
        # The memory that core has to reserve beside the weights (tests/test_memory.py).
        rows[name]["step_gb"] = round(peak - held, 2)
        times[name] += times_of_first
    for _ in range(turns):
        for name, each in runs.items():
            times[name] += run(each, size, 3)[0]
    dense = times.get("full attention, cuDNN")
    for name, held in times.items():
        if held:
            seconds = statistics.median(held)
            rows[name] |= {"seconds_per_step": round(seconds, 3), "range": [round(min(held), 3), round(max(held), 3)]}
            rows[name]["vs_cudnn"] = round(statistics.median(dense) / seconds, 3) if dense else None
    return list(rows.values())


FREE_AND_TOTAL = torch.cuda.mem_get_info


def be_a_smaller_card(gibibytes: float | None):
    """Unload all models, then limit the memory that can be allocated and that is reported as available. None: all of the card."""
    comfy.model_management.unload_all_models()
    gc.collect()
    torch.cuda.empty_cache()
    _, total = FREE_AND_TOTAL()
    wanted = int(gibibytes * 2**30) if gibibytes else total
    torch.cuda.set_per_process_memory_fraction(wanted / total)

    def mem_get_info(device=None):
        free, _ = FREE_AND_TOTAL(device)
        return min(free, wanted - torch.cuda.memory_reserved(device)), wanted

    torch.cuda.mem_get_info = mem_get_info if gibibytes else FREE_AND_TOTAL


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--turns", type=int, default=2, help="0: memory only")
    parser.add_argument("--weights", nargs="+", default=["default", "fp8_e4m3fn"], choices=list(WEIGHT_OPTIONS))
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--variants", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument(
        "--cards", type=float, nargs="*", default=[], help="GiB that ISA may have afterwards, as on smaller cards"
    )
    parser.add_argument("--native", action="store_true", help="core's own in-context Wan (Bernini) instead of LIVEditor")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/steps/whole_step.py needs a GPU.")
    gpu = torch.cuda.get_device_name()
    result = {
        **heading(__spec__.name),
        "model": "Wan with context (Bernini)" if options.native else "LIVEditor",
        "blocks": options.blocks,
        "rows": [],
    }
    path = options.out or result_file(f"whole-step-{gpu_slug(gpu)}")
    for weights in options.weights:
        patcher = panel.model(
            options.blocks, panel.WIDTH, torch.device("cuda"), torch.bfloat16, WEIGHT_OPTIONS[weights], options.native
        )
        for card in [None, *sorted(options.cards, reverse=True)]:
            be_a_smaller_card(card)
            for size in options.sizes:
                frames, height, width = SIZES[size]
                tokens = 2 * frames * (height // 2) * (width // 2)
                print(f"{weights}, {size}, {tokens:,} tokens{f', {card:g} GiB' if card else ''}", flush=True)
                common = {
                    "weights": "bf16" if weights == "default" else weights,
                    "size": size,
                    "tokens": tokens,
                    "card_gib": card,
                }
                names = ["ISA"] if card else options.variants
                for row in measure(patcher, SIZES[size], 0 if card else options.turns, names):
                    print("  ", row, flush=True)
                    result["rows"].append({**common, **row})
                    path.write_text(json.dumps(result, indent=2) + "\n")
        del patcher


if __name__ == "__main__":
    main()
