"""liveditor train: the editor's network on training pairs, whole or as a LoRA."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from ..pipelines import require
from ..runtime.torchrun import is_first
from ..training import processes
from ..training.stopping import Stopped, stop_by_signals
from .options import whole_number
from .outcome import Outcome, Status

EPILOG = """\
a recipe, TOML (recipe.toml); a stage with steps and sources is all that has to be there:
  [model]
  start = "tiny"                   # or a checkpoint of LIVEditor or of Wan 2.2 T2V, with text_encoder and vae
  trains = "lora"                  # full, lora, new: what LIVEditor adds to Wan
  [lora]
  rank = 32
  [[stage]]
  steps = 2000
  rate = 1e-4
  attention = "isa"                # full, isa, error_aware, segment_top_k
  [[stage.sources]]
  path = "pairs_native"            # of liveditor data export native, or raw pairs

examples:
  liveditor train recipe.toml --plan --gpus 8          memory of each GPU, before anything is loaded
  liveditor train recipe.toml --out run
  torchrun --nproc-per-node 8 -m liveditor_isa train recipe.toml --out run
  liveditor edit beach.mp4 "Let it snow" --lora run/lora.safetensors

Stopped or killed, the same command goes on from the last checkpoint with the same numbers. Ctrl-C and SIGTERM save after the step
that runs, and end with status 130 and 143. docs/training.md lists all settings of a recipe.
"""


def add_arguments(parser: argparse.ArgumentParser):
    parser.description, parser.epilog = "Train the editor's network on pairs of clips, as a recipe says.", EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="the recipe, .toml")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run; made where it is missing")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto, a GPU if there is one)"
    )
    plan = parser.add_argument_group("before a run")
    plan.add_argument("--plan", action="store_true", help="print memory of each GPU and the work of a step, and load nothing")
    plan.add_argument("--gpus", type=whole_number, metavar="N", default=1, help="of the plan (default: %(default)s)")


def run(options: argparse.Namespace) -> Outcome:
    """Raises ValueError, CheckpointError, OSError or RuntimeError in one sentence."""
    require("peft")
    from ..training.editor.recipe import read_recipe

    recipe = read_recipe(options.recipe)
    if options.plan:
        from ..training.editor.plan import planned, told

        plans = planned(recipe, options.gpus)
        print("\n".join(told(plans)))
        return Outcome(Status.DONE, {"plan": [asdict(plan) for plan in plans]})
    if options.out is None:
        raise ValueError("Name a folder for the run with --out, or ask for its --plan.")
    return _trained(recipe, options)


def _trained(recipe, options: argparse.Namespace) -> Outcome:
    from ..training.editor import loop

    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("There is no GPU for --device cuda: leave it out.")
    device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    stop_by_signals()
    try:
        result = loop.run(recipe, options.out, device, progress=not options.quiet)
    except Stopped as stopped:
        if is_first():
            print(f"Stopped. What is done is in {options.out}; the same command goes on from there.")
        return Outcome(128 + stopped.signal, {"run": str(options.out)})
    finally:
        processes.leave()
    if is_first():
        print(f"{result.steps} steps are done: {result.file}")
    return Outcome(
        Status.DONE, {"run": str(options.out), "file": str(result.file), "steps": result.steps, "resumed": result.resumed}
    )
