"""A whole edit of LIVEditor's real architecture: full attention, ISA, context reuse, and both.

    python -m liveditor_isa.benchmarks.steps.whole_edit [--sizes 832x480 960x544] [--weights fp8_e4m3fn_fast] [--complete]
    python -m liveditor_isa.benchmarks.steps.whole_edit --weights fp8_e4m3fn --cards 24 32 --variants full-cudnn reuse balanced+reuse

Random weights, all 40 transformer blocks, sampled by ComfyUI with the video as context, one pass of guidance. An edit takes
minutes, so its time is composed: steps that compute the context and steps that reuse it are timed between the sampler's own
calls, and summed as the schedule has them. `--complete` also runs one edit of ISA with context reuse from begin to end,
which has to agree. All variants run in one process; with other weights too, the baseline is full attention with cuDNN and
bf16 weights, the first that is measured. `--cards` gives each edit no more than so much GPU memory, as smaller cards would: weights that do not fit are moved in as they
are needed, and kept contexts go to main memory. Needs ComfyUI in COMFYUI_PATH, and a GPU.
"""

# ruff: noqa: E402  ComfyUI is found, and told of the GPU, before its modules are imported.
from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

from ..machine import gpu_slug, heading, result_file
from . import panel  # makes comfy importable

# isort: split
import comfy.model_management
import comfy.samplers
import torch

from ...comfyui.attach import EIGHT_BIT, OVERRIDE, attach_isa
from ...comfyui.loaders import WEIGHT_OPTIONS
from ...comfyui.sampling_run import Watcher
from ...isa_core import TRAINING_FREE, ISAConfig, TokenLayout
from ...runtime.context_reuse import ContextStore
from ...runtime.kept_context import Keeping, Refresh
from ...runtime.live import LiveSettings, Settings
from ...runtime.schedule import Schedule
from .whole_step import SIZES, be_a_smaller_card, by_cudnn, sampled

BETWEEN = 0.5
"""context_refresh of the steps that are timed, between the distances of `in_pairs`."""
FULL = Schedule(min_tokens=10_000_000)


class Variant(NamedTuple):
    """isa: whether ISA acts; reuse: whether contexts are reused; backend: as on the node; config: ISA's."""

    isa: bool
    reuse: bool
    backend: str = "auto"
    config: ISAConfig = ISAConfig()


BASELINE = "full-cudnn"
BALANCED = TRAINING_FREE
FAST = ISAConfig(exact_ratio=0.125, policy="segment_top_k")
"""The node's presets of these names, but for context reuse. Its preset Quality is "reuse"."""
VARIANTS = {
    BASELINE: Variant(False, False),
    "isa": Variant(True, False),
    "reuse": Variant(False, True),
    "isa+reuse": Variant(True, True),
    "isa-8bit+reuse": Variant(True, True, EIGHT_BIT),
    "balanced": Variant(True, False, config=BALANCED),
    "balanced+reuse": Variant(True, True, config=BALANCED),
    "balanced-8bit+reuse": Variant(True, True, EIGHT_BIT, BALANCED),
    "fast+reuse": Variant(True, True, config=FAST),
}


class Rows(Watcher):
    """What each step did with the context, and how many bytes of it were kept since, (on the GPU, in main memory)."""

    def __init__(self):
        self.context: list[str | None] = []
        self.held = (0, 0)

    def stepped(self, row):
        self.context.append(row.get("context"))
        self.held = max(self.held, row.get("context_held", self.held), key=sum)


class Sampled(NamedTuple):
    """seconds: of every step but the first. peak_gb: of GPU memory. weights_gb: of weights on the GPU. context, held: as in Rows."""

    seconds: list[float]
    peak_gb: float
    weights_gb: float
    context: list[str | None]
    held: tuple[int, int]


def run(
    patcher, variant: Variant, keeping: Keeping, size, steps: int, fall: float, sigmas: torch.Tensor | None = None
) -> Sampled:
    """A sampling run. sigmas: in place of the schedule's."""
    gc.collect()
    torch.cuda.empty_cache()
    cudnn = patcher.clone()
    cudnn.model_options["transformer_options"][OVERRIDE] = by_cudnn
    rows, schedule = Rows(), Schedule() if variant.isa else FULL
    live = LiveSettings(Settings(variant.config, True, fall if variant.reuse else 0.0))
    # Dense query blocks attend by cuDNN too, whether ISA chooses that itself or calls the override before it.
    attached = attach_isa(
        cudnn, live, schedule, variant.backend, lambda line: print("   ", line.replace("\n", "; ")), rows, keeping
    )
    seconds, peak, _ = sampled(attached, size, steps, 1.0, sigmas)
    return Sampled(seconds, peak, torch.cuda.memory_allocated() / 1e9, rows.context, rows.held)


def in_pairs(pairs: int) -> torch.Tensor:
    """Sigmas of 2 · pairs steps and the end, at which with a context_refresh of BETWEEN every other step computes the context."""
    log_odds = torch.arange(pairs)[:, None] * -2 * BETWEEN + torch.tensor([0.0, -BETWEEN / 4]) + BETWEEN * pairs
    return torch.cat([log_odds.flatten().sigmoid(), torch.zeros(1)])


def measured(
    patcher, variant: Variant, keeping: Keeping, size, computed: int, reused: int
) -> tuple[float, float | None, Sampled]:
    """(median seconds of a step that computes the context, of one that reuses it, the run they are from).

    Steps of both kinds take turns, as a context that no step reuses would not be kept. The first of either kind compiles and
    loads, and is not counted.
    """
    if not variant.reuse:
        found = run(patcher, variant, keeping, size, 1 + computed, 0.0)
        return statistics.median(found.seconds), None, found
    pairs = 1 + max(computed, reused)
    found = run(patcher, variant, keeping, size, 2 * pairs, BETWEEN, in_pairs(pairs))
    assert found.context == ["refreshed", "reused"] * pairs, found.context
    return statistics.median(found.seconds[1::2][:computed]), statistics.median(found.seconds[2::2][:reused]), found


TWO_TOKENS = torch.empty(1, 2, 1, 1), torch.empty(1, 2, 1, 1), TokenLayout(1, (1,))
"""Keys, values and layout of the smallest attention, of which only the kept context counts."""


def refreshes(patcher, steps: int, fall: float) -> int:
    """How many of an edit's steps compute the context."""
    sigmas = comfy.samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), "simple", steps)[:-1].tolist()
    store, count = ContextStore(), 0
    for sigma in sigmas:
        contexts = store.begin("edit", sigma, fall)
        contexts.attended(0, 1, *TWO_TOKENS)
        store.end(contexts)
        count += isinstance(contexts, Refresh)
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--steps", type=int, default=32, help="of a whole edit")
    parser.add_argument("--falls", type=float, nargs="+", default=[1.0, 0.5, 2.0], help="context_refresh")
    parser.add_argument(
        "--timed", type=int, nargs=2, default=(5, 5), help="steps timed that compute the context, and that reuse it"
    )
    parser.add_argument("--weights", nargs="+", default=["default"], choices=list(WEIGHT_OPTIONS))
    parser.add_argument("--sizes", nargs="+", default=["832x480"], choices=list(SIZES))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument(
        "--keeping", nargs="+", default=["auto/default"], help="context_device/context_dtype, one after the other"
    )
    parser.add_argument("--cards", type=float, nargs="*", default=[], help="GiB that an edit may have, as on smaller cards")
    parser.add_argument("--complete", action="store_true", help="also run one edit of isa+reuse, at the first of the falls")
    parser.add_argument("--native", action="store_true", help="core's own in-context Wan (Bernini) instead of LIVEditor")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/steps/whole_edit.py needs a GPU.")
    gpu = torch.cuda.get_device_name()
    model = "Wan with context (Bernini)" if options.native else "LIVEditor"
    result = {**heading(__spec__.name), "blocks": options.blocks, "rows": []}
    path = options.out or result_file(f"whole-edit-{gpu_slug(gpu)}")

    def add(row: dict):
        print("  ", row, flush=True)
        result["rows"].append(row)
        path.write_text(json.dumps(result, indent=2) + "\n")

    baselines: dict[str, float] = {}
    for weights in dict.fromkeys(["default", *options.weights]):
        wanted = weights in options.weights
        be_a_smaller_card(None)
        patcher = panel.model(
            options.blocks, panel.WIDTH, torch.device("cuda"), torch.bfloat16, WEIGHT_OPTIONS[weights], options.native
        )
        for card, size in itertools.product(options.cards if wanted and options.cards else [None], options.sizes):
            be_a_smaller_card(card)
            frames, height, width = SIZES[size]
            common = {"model": model, "tokens": 2 * frames * (height // 2) * (width // 2), "steps": options.steps, "passes": 1}
            common["weights"] = "bf16" if weights == "default" else weights
            if card:
                common["card_gib"] = card
            for name in options.variants if wanted else [BASELINE]:
                variant = VARIANTS[name]
                for kept in options.keeping if variant.reuse else options.keeping[:1]:
                    keeping = Keeping(*kept.split("/"))
                    refresh, reuse, found = measured(patcher, variant, keeping, SIZES[size], *options.timed)
                    for fall in options.falls if variant.reuse else [0.0]:
                        count = refreshes(patcher, options.steps, fall) if fall else options.steps
                        seconds = count * refresh + (options.steps - count) * (reuse or 0.0)
                        if name == BASELINE:
                            baselines.setdefault(size, seconds)
                        add({
                            **common, "variant": name, "fall": fall, "refreshes": count, "seconds": round(seconds, 2), "composed": True,
                            "vs_cudnn": round(baselines[size] / seconds, 3) if size in baselines else None,
                            "refresh_seconds": round(refresh, 3), "reuse_seconds": reuse and round(reuse, 3),
                            **memory_of(variant, keeping, found),
                        })  # fmt: skip
            if options.complete:
                fall, keeping = options.falls[0], Keeping(*options.keeping[0].split("/"))
                found = run(patcher, VARIANTS["isa+reuse"], keeping, SIZES[size], options.steps, fall)
                # The first step's time is not between two calls of the sampler: it refreshes, as some of the others.
                kinds = zip(found.seconds, found.context[1:])
                seconds = sum(found.seconds) + statistics.median(second for second, kind in kinds if kind == "refreshed")
                add({
                    **common, "variant": "isa+reuse", "fall": fall, "refreshes": found.context.count("refreshed"),
                    "seconds": round(seconds, 2), "composed": False,
                    "vs_cudnn": round(baselines[size] / seconds, 3) if size in baselines else None,
                    **memory_of(VARIANTS["isa+reuse"], keeping, found),
                })  # fmt: skip
        del patcher
        comfy.model_management.unload_all_models()


def memory_of(variant: Variant, keeping: Keeping, found: Sampled) -> dict:
    row = {"peak_gb": round(found.peak_gb, 2), "weights_gpu_gb": round(found.weights_gb, 2)}
    if variant.reuse:
        row |= {"context_device": keeping.device, "context_dtype": keeping.dtype}
        row |= {f"cache_{where}_gb": round(held / 1e9, 2) for where, held in zip(("gpu", "cpu"), found.held)}
    return row


if __name__ == "__main__":
    main()
