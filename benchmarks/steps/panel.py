"""Time of a denoising step with full attention, with ISA, and with ISA and the page's panel.

    python -m liveditor_isa.benchmarks.steps.panel

The network is LIVEditor's in its real width with random weights and a few of its 40 transformer blocks, sampled by ComfyUI with
guidance, 480p of 81 frames beside its context. Whole runs alternate in one process; what a run without steps takes is not
in it. The panel's cost per step hardly depends on the number of blocks, so its share is an upper bound of a whole model's.
Needs ComfyUI in COMFYUI_PATH, and a GPU.
"""

# ruff: noqa: E402  ComfyUI is found, and told of the GPU, before its modules are imported.
from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

from ..machine import gpu_slug, heading, result_file, use_comfyui

use_comfyui()

import comfy.sample
import comfy.sd
import torch

from ...checkpoint.keys import MEMORY, core_metadata, expected_shapes
from ...comfyui import attach
from ...comfyui.architecture import register
from ...isa_core import ISAConfig
from ...runtime.heatmap import EVERY_BLOCK, OFF, THUMBNAIL, encode
from ...runtime.live import LiveSettings, Settings
from ...runtime.monitor import StepMonitor
from ...runtime.schedule import Schedule

WIDTH = {"dim": 5120, "ffn_dim": 13824, "text_dim": 4096}
SIZE = (21, 60, 104)
"""Of the latent: 81 frames of 832×480, 32,760 tokens, and as many of context."""


class Page(attach.Watcher):
    """Does with what it is told what the server does for its page: JSON of every step, heat maps in another thread."""

    def __init__(self, detail: str):
        self.detail, self.sent, self.encoded = detail, 0, []
        self.thread = ThreadPoolExecutor(1)

    def started(self, live, steps, parts):
        return self.detail

    def stepped(self, row):
        self.sent += len(json.dumps(row))

    def mapped(self, at, blocks, maps):
        self.thread.submit(lambda: self.encoded.append([encode(found) for found in maps.tensor()]))


class Silent(StepMonitor):
    """No panel at all."""

    def sparse(self, *_):
        pass

    full = begin = end = sparse

    def finished(self, wait=False):
        return []


def model(blocks: int, width: dict, device: torch.device, dtype: torch.dtype, options: dict | None = None, native=False):
    """A ModelPatcher of LIVEditor with random weights, loaded with core's options; native: of the Wan that it was made from."""
    register()
    shapes = expected_shapes(width["dim"], width["ffn_dim"], width["text_dim"], blocks)
    if native:
        shapes = {name: shape for name, shape in shapes.items() if MEMORY not in name and ".alpha_" not in name}
    generator = torch.Generator(device).manual_seed(0)

    def weight(name, shape):
        if "norm" in name and name.endswith("weight"):
            return torch.ones(shape, device=device, dtype=dtype)
        noise = torch.randn(shape, device=device, dtype=dtype, generator=generator)
        return noise * (0.02 if len(shape) == 1 else 1 / math.sqrt(math.prod(shape[1:])))

    weights = {name: weight(name, shape) for name, shape in shapes.items()}
    return comfy.sd.load_diffusion_model_state_dict(weights, {"dtype": dtype, **(options or {})}, core_metadata(shapes))


def variants(patcher, schedule: Schedule = Schedule()) -> dict[str, tuple]:
    """{name: (model, its StepMonitor, its Page)}."""
    found = {"full attention": (patcher, StepMonitor, None)}
    for name, monitor, page in (
        ("ISA", Silent, attach.Watcher()),
        ("ISA, panel", StepMonitor, Page(OFF)),
        ("ISA, panel, thumbnail", StepMonitor, Page(THUMBNAIL)),
        ("ISA, panel, every block's map", StepMonitor, Page(EVERY_BLOCK)),
    ):
        live = LiveSettings(Settings(ISAConfig()))
        found[name] = attach.attach_isa(patcher, live, schedule, "auto", lambda line: None, page), monitor, page
    return found


def sample(patcher, monitor, size, text_dim: int, steps: int) -> float:
    """Seconds of a sampling run."""
    generator = torch.Generator().manual_seed(1)
    noise, source = (torch.randn(1, 16, *size, generator=generator) for _ in range(2))
    text = torch.randn(1, 512, text_dim, generator=generator)
    positive, negative = ([[words, {"context_latents": [source]}]] for words in (text, text * 0))
    with mock.patch.object(attach, "StepMonitor", monitor):
        began = time.perf_counter()
        comfy.sample.sample(
            patcher, noise, steps, 2.5, "euler", "simple", positive, negative, noise * 0, seed=1, disable_pbar=True
        )
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began


def measure(patcher, size, text_dim: int, steps: tuple[int, int], turns: int) -> dict[str, dict]:
    """{variant: {"seconds_per_step", "range"}}: the difference of a longer and a shorter run, over their steps."""
    runs = variants(patcher)
    times = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, (each, monitor, _) in runs.items():
            short, long = (sample(each, monitor, size, text_dim, count) for count in steps)
            # The first turn compiles and loads.
            if turn:
                times[name].append((long - short) / (steps[1] - steps[0]))
    for name, (_, _, page) in runs.items():
        if isinstance(page, Page):
            page.thread.shutdown()
            assert page.sent, f"{name}: nothing was told"
            assert bool(page.encoded) == (page.detail != OFF), f"{name}: maps"
    return {
        name: {"seconds_per_step": round(statistics.median(held), 4), "range": [round(min(held), 4), round(max(held), 4)]}
        for name, held in times.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/steps/panel.py needs a GPU.")
    patcher = model(options.blocks, WIDTH, torch.device("cuda"), torch.bfloat16)
    rows = measure(patcher, SIZE, WIDTH["text_dim"], (1, 4), options.turns)
    isa = rows["ISA"]["seconds_per_step"]
    for name, row in rows.items():
        row["over_isa"] = round(row["seconds_per_step"] / isa - 1, 4)
        print(f"{name:32} {row['seconds_per_step']:8.4f} s/step  {row['over_isa']:+7.2%} of ISA's  {row['range']}")
    gpu = torch.cuda.get_device_name()
    result = {
        **heading(__spec__.name),
        "blocks": options.blocks,
        "latent": SIZE,
        "rows": rows,
    }
    path = options.out or result_file(f"panel-{gpu_slug(gpu)}")
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
