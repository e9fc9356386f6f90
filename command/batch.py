"""liveditor batch: the edits of a manifest, on this machine or on a Ray cluster."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from ..batch import job
from ..batch.manifest import COLUMNS, Clip, ManifestError, read_manifest
from ..batch.results import Results
from ..batch.worker import ATTEMPTS
from ..errors import sentence
from ..optional import needed
from ..pipelines import EXTRA
from ..video.geometry import crop_box
from .failure import reported
from .options import add_model_options, model_choice, whole_number
from .outcome import STATUSES, Outcome, Status, failure

DESCRIPTION = "Edit many clips. A manifest says which and how; each clip becomes one mp4 in the output folder."

EPILOG = f"""\
a manifest, JSON lines (clips.jsonl):
  {{"video": "beach.mp4", "prompt": "Let it snow"}}
  {{"video": "street.mp4", "prompt": "Make it night", "id": "street_night", "seed": 7, "frames": 49}}

the same as CSV (clips.csv; a cell may be empty, references and boxes are separated by |):
  video,prompt,id,seed,frames
  beach.mp4,Let it snow,,,
  street.mp4,Make it night,street_night,7,49

columns: {", ".join(COLUMNS)}.
Only video and prompt have to be there. Paths are relative to the manifest. Without an id the clip is called as its video.
A video is a file, or a folder of its frames as pictures, whose rate is fps (default: 16).
frames is the most that are edited, 0 for all; width and height are multiples of 16; boxes are texts, "x,y,width,height" each.

in the output folder:
  beach.mp4                  the edited clip
  records/beach.json         how it was made: seconds, frames, settings, worker
  quarantine/street.json     why a clip was given up; the others go on
  metrics.csv, summary.json  all clips in one table
  errors.log                 what went wrong inside, with tracebacks

examples:
  liveditor batch clips.jsonl --out edited --dry-run      look whether the manifest is right; edits nothing
  liveditor batch clips.jsonl --out edited --limit 3      edit three clips, to see what comes out
  liveditor batch clips.jsonl --out edited                edit the others too
  liveditor batch clips.jsonl --out edited --retry-quarantined
  liveditor batch clips.csv --out /shared/edited --address 10.0.0.1:6379 --workers 16

Stop it with Ctrl-C, or let it be killed: the same command goes on where it was, and no clip is edited twice. A clip that
kills its worker is tried {ATTEMPTS} times. Rows may be added to the manifest later.

on a cluster: ray start --head on one machine, ray start --address=... on the others, pip install liveditor-isa[batch] on all,
and manifest, clips, models and output folder on storage that all of them see under the same path. Where the cluster wants a
token (ray get-auth-token), set RAY_AUTH_MODE=token.

{STATUSES}.
--dry-run opens every video and has the status that the run would have.
"""


def add_arguments(parser: argparse.ArgumentParser):
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="the clips, .jsonl or .csv (see below)")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the results; made where it is missing"
    )
    parser.add_argument("--limit", type=whole_number, metavar="N", help="edit no more than N clips now")
    parser.add_argument(
        "--dry-run", action="store_true", help="open every video, list every bad row, say what would be done, and do nothing"
    )
    parser.add_argument(
        "--retry-quarantined", action="store_true", help="try again what was given up (what has changed since is anyway)"
    )
    parser.add_argument(
        "--redo-changed",
        action="store_true",
        help="edit clips again whose row or video has changed since, and replace their results; refused otherwise",
    )
    where = parser.add_argument_group("where it runs")
    where.add_argument("--address", help="of a Ray cluster, or auto (default: this machine alone)")
    where.add_argument(
        "--workers", type=whole_number, metavar="N", help="clips at a time (default: one per GPU, or one per machine without)"
    )
    where.add_argument(
        "--gpus-per-worker",
        type=_share,
        default=1.0,
        metavar="N",
        help="0.5 puts two workers on each GPU: for small models (default: 1)",
    )
    add_model_options(parser)


def run(options: argparse.Namespace, editor: str = job.EDITOR) -> Outcome:
    """An error is one line on stderr."""
    try:
        choice = model_choice(options)
        choice.check_files()
        clips = read_manifest(options.manifest)
        if options.dry_run:
            return _dry_run(clips, job.settings_of(choice, editor), options)
        summary = job.run(
            clips,
            choice,
            options.out,
            address=options.address,
            workers=options.workers,
            gpus_per_worker=options.gpus_per_worker,
            retry_quarantined=options.retry_quarantined,
            redo_changed=options.redo_changed,
            limit=options.limit,
            progress=not options.quiet,
            editor=editor,
        )
    except KeyboardInterrupt:
        print(f"\nStopped. What is done is in {options.out}; the same command goes on from there.", file=sys.stderr)
        return failure("stopped; the same command goes on", Status.STOPPED)
    except (ValueError, RuntimeError, OSError, MemoryError) as error:  # ManifestError and JobError are among them
        if options.dry_run and isinstance(error, ManifestError):
            print("\n".join(error.faults))
        outcome = reported("batch", error, options.debug)
        return outcome._replace(facts=outcome.facts | {"faults": [*getattr(error, "faults", ())]})
    print(_report(summary, options.out))
    status = Status.DONE if summary.done == summary.clips else Status.PARTLY
    return Outcome(status, {"output": str(options.out), **asdict(summary)})


def _dry_run(clips: list[Clip], settings: dict, options: argparse.Namespace) -> Outcome:
    """With the exit status that the run would have, if every clip that can be opened were edited."""
    needed("av", "av", EXTRA)
    results = Results(options.out)
    results.check(settings)
    planned = job.plan(clips, results, options.retry_quarantined)
    refused = planned.changed if not options.redo_changed else []
    faults = [
        f"line {clip.line}, {clip.id}: edited already, but from another row or video; needs --redo-changed, or a new id"
        for clip in refused
    ]
    print(*faults, sep="\n", end="\n" * bool(faults))
    bad = 0
    for clip in planned.pending + planned.changed:
        if why := _fault_of(clip):
            bad += 1
            faults.append(f"line {clip.line}, {clip.id}: {why} It would be put in quarantine.")
            print(faults[-1])
    counts = {name: len(getattr(planned, name)) for name in ("pending", "done", "quarantined", "changed")}
    print(
        f"{len(clips)} clips: {counts['pending']} to edit, {counts['done']} done, {counts['quarantined']} in quarantine, "
        f"{counts['changed']} changed. Nothing was done."
    )
    left = options.limit is not None and len(planned.pending + planned.changed) > options.limit
    status = Status.FAILED if refused else Status.PARTLY if bad or planned.quarantined or left else Status.DONE
    return Outcome(status, {"clips": len(clips), **counts, "faults": faults})


def _fault_of(clip: Clip) -> str | None:
    """Why a clip cannot be edited, as far as opening its files tells."""
    from ..video.clip import open_clip
    from ..video.folder import source_of
    from ..video.mask import read_mask
    from ..video.region import Region, SourceFrames, box_list
    from ..video.source import FileSource

    edit = clip.edit
    try:
        edit.check_files()
        clip = open_clip(source_of(edit.video, edit.fps), edit.frames, edit.fps, edit.start_frame, edit.every_nth, sound=False)
        for other in edit.references:
            open_clip(FileSource(other), edit.frames, 0, sound=False)
        # Without a size the model chooses one, and with it what is cut off at the edges.
        crop = crop_box(clip.size, *(edit.size or map(round, clip.shown_size)), clip.pixel_aspect)
        mask = read_mask(edit.mask, clip.source_frames + 1) if edit.mask else None
        Region(clip.size, crop, mask, box_list(edit.boxes), edit.feather, SourceFrames(clip.indices, clip.source_frames))
    except (ValueError, OSError) as error:
        return sentence(error)
    return None


def _report(summary: job.Summary, out: Path) -> str:
    text = (
        f"{summary.done} of {summary.clips} clips are in {out}, {summary.edited} of them edited now in {summary.seconds:.0f} s."
    )
    if summary.quarantined:
        text += f" {summary.quarantined} are in quarantine: {out / 'quarantine'} says why."
    if summary.pending:
        text += f" {summary.pending} are left: the same command goes on."
    return text


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 1:
        raise argparse.ArgumentTypeError(f"a share of a GPU, from 0.01 to 1; got {text!r}")
    return value
