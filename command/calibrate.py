"""liveditor calibrate: the threshold that costs as much as a ratio."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from ..batch.manifest import read_manifest
from ..isa_core.config import ERROR_AWARE
from ..pipelines import require
from ..runtime.torchrun import is_first
from .options import add_model_options, model_choice
from .outcome import Outcome, Status
from .output import quiet_loading

EPILOG = """\
examples:
  liveditor calibrate clips.jsonl --policy error_aware --exact-ratio 0.28 --min-tokens 0
  liveditor calibrate clips.jsonl --dense-query-ratio 0.5 --model FOLDER

A ratio makes every clip cost the same. A threshold spends more on a busy clip than on a calm one, but its scale is the model's
own. This command samples the clips by the ratio, then by thresholds, until one costs as much on average within 1 %: some five
to twelve runs over all clips. Take clips and sizes like those that you edit. A manifest is as for liveditor batch.
"""


def add_arguments(parser: argparse.ArgumentParser):
    parser.description, parser.epilog = "Find the threshold of a model that costs as much as a ratio.", EPILOG
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="clips to try it on, .jsonl or .csv as for batch")
    add_model_options(parser)


def run(options: argparse.Namespace) -> Outcome:
    from ..pipelines import calibration

    choice = model_choice(options)
    if choice.isa is None:
        raise ValueError("Without sparse attention there is nothing to calibrate: leave out --no-isa.")
    calibration.check(choice.isa)
    choice.check_files()
    clips = read_manifest(options.manifest)
    edits = [clip.edit for clip in clips]
    for edit in edits:
        edit.check_files()
    require("av")
    from ..pipelines.edit import load

    if options.quiet:
        quiet_loading()
    pipe = load(choice)
    pipe.set_progress_bar_config(disable=True)
    with tqdm(unit="edit", leave=False, disable=options.quiet or not is_first()) as bar:
        found = calibration.calibrate(pipe, edits, bar.update)
    name, ratio = calibration.THRESHOLDS[choice.isa.policy], calibration.RATIOS[choice.isa.policy]
    if is_first():
        print(f"{name} {found.threshold:g}")
        print(
            f"  attends exactly to {found.density:.1%} of all pairs of tokens, {ratio} {getattr(choice.isa, ratio):g} to "
            f"{found.wanted:.1%} ({len(edits)} clips, {found.runs} runs)"
        )
        if len(edits) > 1:
            print(f"  from {min(found.each):.1%} to {max(found.each):.1%}, clip by clip")
        routing = ERROR_AWARE if choice.isa.policy == ERROR_AWARE else "threshold"
        print(f"  in place of {ratio}: --{name.replace('_', '-')} {found.threshold:g} here, routing {routing} on Attach ISA")
    facts = {name: found.threshold, "density": found.density, "wanted_density": found.wanted, "runs": found.runs}
    return Outcome(Status.DONE, facts | {"densities": dict(zip([clip.id for clip in clips], found.each))})
