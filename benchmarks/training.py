"""A training step of LIVEditor's real architecture: full attention beside ISA in one process, seconds, memory and share of the GPU's peak.

    python -m liveditor_isa.benchmarks.training                                           a LoRA step on one GPU
    python -m liveditor_isa.benchmarks.training --offload activations                     with what blocks keep in main memory
    torchrun --nproc-per-node 2 -m liveditor_isa.benchmarks.training --trains full --context 2 --offload activations weights
    python -m liveditor_isa.benchmarks.training --small --no-store                        on a CPU, to see that it runs

Random weights and latents, all 40 blocks of width 5120, bf16, gradient checkpointing, batch 1 for each group of GPUs. The steps are those
of `liveditor train`: noise, forward and backward pass, clipping, AdamW. Full attention and ISA take turns; the first turn of each warms up
and does not count. `planned_gb` is what `liveditor train --plan` says. Needs the extra `diffusers`: diffusers, transformers, accelerate, peft.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from types import SimpleNamespace

import diffusers
import torch

from ..checkpoint.keys import expected_shapes
from ..optional import needed
from ..pipelines import EXTRA
from ..pipelines.transformer import LIVEditorTransformer3DModel
from ..runtime.torchrun import Process, is_first, this_process
from ..training import processes
from ..training.editor.loop import flops_of
from ..training.editor.objective import Draws
from ..training.editor.parallel import Spread, join
from ..training.editor.plan import plan_of
from ..training.editor.recipe import Recipe, recipe_of
from ..training.editor.settings import TRAINS, Objective
from ..training.editor.trainer import Trainer
from ..training.editor.work import peak_of
from .machine import gpu_slug, heading, result_file

BUCKETS = {65_520: (832, 480, 81), 31_200: (832, 480, 37), 85_680: (960, 544, 81)}
"""By tokens of target and context."""

SMALL_BUCKET, SMALL = (128, 96, 9), {"num_attention_heads": 2, "ffn_dim": 640, "num_layers": 2, "text_dim": 64}
"""Of --small."""

TEXT = 512
KINDS = ("full", "isa")


class RandomPair:
    """A source of one pair, in place of those of a recipe."""

    def __init__(self, bucket: tuple[int, int, int], text_dim: int):
        self.buckets, generator = [bucket], torch.Generator().manual_seed(0)
        width, height, frames = bucket
        shape = 16, (frames - 1) // 4 + 1, height // 8, width // 8
        self.pair = {role: torch.randn(shape, generator=generator) for role in ("context", "target")}
        self.pair["text"] = torch.randn(TEXT, text_dim, generator=generator)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return self.pair


def recipe(options: argparse.Namespace, bucket: tuple[int, int, int], groups: int) -> Recipe:
    """A stage of one step for each turn of full attention and of ISA."""
    one = {"steps": 1, "batch": groups, "rate": 1e-5, "sources": [{"path": "random"}], "min_tokens": 0}
    return recipe_of(
        {
            "model": {"trains": options.trains, "dtype": "fp32" if options.small else "bf16"},
            "lora": {"rank": options.rank},
            "memory": {f"offload_{what}": True for what in options.offload} | {"compile": options.compile},
            "optimiser": {"eight_bit": options.eight_bit},
            "parallel": {"context": options.context},
            "objective": {"drop_text": 0.0},
            "stage": [one | {"attention": kind} for _ in range(options.turns + 1) for kind in KINDS],
            "data": {"buckets": [[*bucket]]},
        }
    )


def network(spread: Spread, size: dict) -> LIVEditorTransformer3DModel:
    """Random weights that keep activations near 1, in the type of computation."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(spread.dtype)
    try:
        with spread.device:
            return LIVEditorTransformer3DModel(**size).train()
    finally:
        torch.set_default_dtype(default)


def measure(trainer: Trainer, spread: Spread) -> list[dict]:
    """A row for each step."""
    rows = []
    for stage in trainer.recipe.stage:
        if spread.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        processes.wait()
        began = time.perf_counter()
        done = trainer.step()  # reads its loss, and so waits for the GPU
        seconds = time.perf_counter() - began
        flops = stage.batch * flops_of(trainer, stage, *done["shape"])
        peak = peak_of(spread.device)
        row = {
            "attention": stage.attention,
            "seconds": round(seconds, 3),
            "loss": round(done["loss"], 4),
            "tflop": round(flops / 1e12, 3),
        }
        if spread.device.type == "cuda":
            row["memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
            row["mfu"] = peak and round(flops / seconds / peak / processes.count(), 4)
        rows.append(row)
        if is_first():
            print("  ", row, flush=True)
    return rows


def summary(steps: list[dict], mode: str, tokens: int) -> list[dict]:
    """A row for each attention: medians over the turns after the first, and how many times as fast as full attention."""
    own = {kind: [step for step in steps if step["attention"] == kind][1:] for kind in KINDS}
    seconds = {kind: statistics.median(step["seconds"] for step in own[kind]) for kind in KINDS}
    rows = []
    for kind in KINDS:
        row = {"mode": mode, "tokens": tokens, "attention": kind, "seconds": seconds[kind]}
        row["vs_full"] = round(seconds["full"] / seconds[kind], 3)
        if "memory_gb" in own[kind][0]:
            row["memory_gb"] = max(step["memory_gb"] for step in own[kind])
        if own[kind][0].get("mfu"):
            row["mfu"] = statistics.median(step["mfu"] for step in own[kind])
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trains", choices=TRAINS, default="lora")
    parser.add_argument("--rank", type=int, default=32, help="of the LoRA (default: %(default)s)")
    parser.add_argument("--tokens", type=int, choices=list(BUCKETS), default=65_520)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--turns", type=int, default=3, help="that count, of each attention (default: %(default)s)")
    parser.add_argument("--offload", nargs="*", choices=("activations", "weights"), default=[])
    parser.add_argument("--context", type=int, default=1, help="GPUs that share the tokens of an example")
    parser.add_argument("--backend", help="diffusers' name of the attention that full attention and ISA's dense blocks take")
    parser.add_argument("--compile", action="store_true", help="torch.compile, block by block")
    parser.add_argument("--eight-bit", action="store_true", help="AdamW's moments in 8 bits, with torchao")
    parser.add_argument("--small", action="store_true", help="a small network and a short clip")
    parser.add_argument("--no-store", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    needed("peft", "peft", EXTRA)
    size = SMALL if options.small else {"num_layers": options.blocks}
    bucket = SMALL_BUCKET if options.small else BUCKETS[options.tokens]
    count = (this_process() or Process()).count
    settings = recipe(options, bucket, max(1, count // options.context))
    spread = join("cuda" if torch.cuda.is_available() else "cpu", settings.model.dtype, settings.parallel)
    model = network(spread, size)
    if options.backend:
        model.set_attention_backend(options.backend)
    config = SimpleNamespace(**model.config)
    shapes = expected_shapes(
        config.num_attention_heads * config.attention_head_dim, config.ffn_dim, config.text_dim, config.num_layers
    )
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    sources = SimpleNamespace(pairs={"random": RandomPair(bucket, config.text_dim)})
    draws = Draws(Objective(shift=6.0, drop_text=0.0), 0, TEXT, torch.zeros(1, config.text_dim))
    trainer = Trainer(settings, model, sources, draws, spread)
    trained = sum(weight.numel() for weight in trainer.weights)
    planned = plan_of(settings, 0, bucket, config, shapes, total, trained, count)
    steps = measure(trainer, spread)
    if is_first():
        launcher = ("torchrun", "--nproc-per-node", str(count)) if count > 1 else ("python",)
        about = heading(__spec__.name, spread.device, launcher)
        about["versions"]["diffusers"] = diffusers.__version__
        facts = {
            "rank": options.rank,
            "blocks": config.num_layers,
            "trained": trained,
            "offload": options.offload,
            "compile": options.compile,
            "eight_bit": options.eight_bit,
        }
        facts |= {"gpus": count, "planned_gb": round(planned.total, 2), "planned_host_gb": round(planned.host, 2)}
        result = about | facts | {"rows": summary(steps, options.trains, planned.tokens), "steps": steps}
        print(*map(json.dumps, (facts, *result["rows"])), sep="\n", flush=True)
        if not options.no_store:
            name = gpu_slug(torch.cuda.get_device_name()) if torch.cuda.is_available() else "cpu"
            name = f"{count}x-{name}" if count > 1 else name
            extras = [*options.offload, *["compile"] * options.compile, *["eight-bit"] * options.eight_bit]
            path = options.out or result_file("-".join(["training-step", options.trains, *extras, name]))
            path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    processes.leave()


if __name__ == "__main__":
    main()
