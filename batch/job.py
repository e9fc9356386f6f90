"""A Ray Data job that edits the clips of a manifest: one clip per task, a pool of workers that hold the model."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from ..pipelines.request import ModelChoice
from ..video.room import check_length, check_output
from . import cluster
from .manifest import Clip
from .results import JobError, Results
from .worker import BAD_INPUT, Worker

EDITOR = f"{ModelChoice.__module__.rpartition('.')[0]}.edit"
"""The editor: a module with `load` and `edit_file`, by the name under which every worker can import it."""

SAME_FAILURES = 3
"""After so many clips in a row failed alike, and not by being bad input, the job is taken to be what fails."""


class Choice(Protocol):
    """What the editor's `load` is given: it can be pickled. `ModelChoice` is one."""

    @property
    def device(self) -> str:
        """auto, cpu or cuda: where the workers work."""

    def shared(self) -> dict:
        """Settings that the results depend on. A job that goes on must have the same."""

    def absolute(self):
        """The same with absolute paths, because workers have folders of their own."""


@dataclass
class Plan:
    """The plan of a job for each clip.

    changed: done, but from a row or a video that is another now.
    """

    pending: list[Clip] = field(default_factory=list)
    done: list[Clip] = field(default_factory=list)
    quarantined: list[Clip] = field(default_factory=list)
    changed: list[Clip] = field(default_factory=list)


@dataclass(frozen=True)
class Summary:
    """Counts over all clips of the manifest. edited: by this run; pending: neither done nor given up; seconds: of this run."""

    clips: int
    done: int
    quarantined: int
    pending: int
    edited: int
    seconds: float


def plan(clips: list[Clip], results: Results, retry_quarantined: bool = False) -> Plan:
    """Quarantined clips are tried again on request, and when their row or video has changed since."""
    planned = Plan()
    for clip in clips:
        if record := results.record(clip.id):
            (planned.done if _is_of(record, clip) else planned.changed).append(clip)
        elif not retry_quarantined and (why := results.quarantined(clip.id)) and _is_of(why, clip, also_if_gone=False):
            planned.quarantined.append(clip)
        else:
            planned.pending.append(clip)
    return planned


def settings_of(choice: Choice, editor: str = EDITOR) -> dict:
    """Settings that all clips of a job share, in the form for `Results`."""
    return json.loads(json.dumps(choice.absolute().shared() | {"editor": editor}))


def run(
    clips: list[Clip],
    choice: Choice,
    out: str | Path,
    address: str | None = None,
    workers: int | None = None,
    gpus_per_worker: float = 1.0,
    retry_quarantined: bool = False,
    redo_changed: bool = False,
    limit: int | None = None,
    progress: bool = True,
    editor: str = EDITOR,
    here: bool = False,
) -> Summary:
    """Edit all clips that are not done. Another call continues where the last one was stopped or killed.

    address: of a Ray cluster, or "auto"; None for this machine alone. Where Ray is connected already, that is used.
    workers: None for as many as the GPUs allow, or one per machine without. limit: edit no more than so many now.
    here: in this process, one clip after the other, without Ray; a crash of native code then ends this process.

    Raises JobError in one sentence where the job cannot begin or go on; ValueError for a device that is not to be had.
    """
    begun = time.monotonic()
    results, choice = Results(out), choice.absolute()
    with results.claim(settings_of(choice, editor)) as work:
        planned = plan(clips, results, retry_quarantined)
        if planned.changed and not redo_changed:
            raise JobError(_about_changed(planned.changed))
        for clip in planned.changed:
            results.forget(clip.id)
        pending = sorted(planned.pending + planned.changed, key=lambda clip: clip.line)[:limit]
        for clip in pending:
            results.release(clip.id)
        if pending:
            longest = max((clip.id for clip in pending), key=len)
            check_output(results.video(longest))
            check_length(work / longest / "1" / f"{longest}.mp4")
        edited: set[str] = set()
        try:
            worker = (editor, choice, str(results.folder), str(work))
            if pending and here:
                _follow(_in_this_process(pending, worker), pending, results, edited, progress)
            elif pending:
                with cluster.connected(address) as ray, cluster.sigterm_as_ctrl_c():
                    pool = cluster.pool_for(ray, choice, workers, gpus_per_worker, len(pending), is_local=address is None)
                    stream = _stream(ray, pending, pool, worker)
                    _follow(stream, pending, results, edited, progress)
        except BaseException:
            with suppress(OSError):  # on a full disk
                _summarise(clips, results, edited, begun, work)
            raise
        return _summarise(clips, results, edited, begun, work)


def _summarise(clips: list[Clip], results: Results, edited: set[str], begun: float, work: Path) -> Summary:
    rows = [_row(clip, results) for clip in clips]
    count = Counter(row["status"] for row in rows)
    summary = Summary(
        clips=len(rows),
        done=count["done"],
        quarantined=count["quarantined"],
        pending=count["pending"],
        edited=len(edited),
        seconds=round(time.monotonic() - begun, 3),
    )
    results.write_summary(asdict(summary), rows, work)
    return summary


def _is_of(outcome: dict, clip: Clip, also_if_gone: bool = True) -> bool:
    """Whether a record belongs to the present row and video.

    also_if_gone: nobody has to keep the video of a clip that is done.
    """
    size = size_of(clip.edit.video)
    same = size == outcome.get("source_bytes") or (also_if_gone and size is None)
    return same and outcome.get("fingerprint") == clip.fingerprint


def size_of(path: str) -> int | None:
    """In bytes; of a folder, its files together. None where there is none."""
    try:
        files = [*os.scandir(path)] if os.path.isdir(path) else [Path(path)]
        return sum(file.stat().st_size for file in files)
    except OSError:
        return None


def _about_changed(changed: list[Clip]) -> str:
    names = ", ".join(f"{clip.id} (line {clip.line})" for clip in changed[:3])
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return (
        f"{names}{more}: edited already, but from another row or video of that name; give what is new an id of its own, "
        "or replace the old results with --redo-changed."
    )


def row_of(clip: Clip) -> bytes:
    """The arguments of a worker."""
    return pickle.dumps((clip, size_of(clip.edit.video)))


def _in_this_process(pending: list[Clip], worker: tuple) -> Iterator[dict]:
    """As `_stream`, one after the other."""
    work = Worker(*worker)
    for clip in pending:
        yield json.loads(work({"row": row_of(clip)})["row"])


def _stream(ray, pending: list[Clip], pool: cluster.Pool, worker: tuple) -> Iterator[dict]:
    """The outcome of each clip, in the order of completion. Closing the generator stops the workers."""
    rows = [{"row": row_of(clip)} for clip in pending]
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised as well
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    with ray.data.DataContext.current(context):
        # One task per clip, none queued behind another, because clips take long and unequal times. Ray restarts killed
        # workers and gives them their clip again without limit; `worker.ATTEMPTS` is the limit.
        edited = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            Worker,
            fn_constructor_args=worker,
            compute=ray.data.ActorPoolStrategy(size=pool.size, max_tasks_in_flight_per_actor=1),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
        )
        batches = iter(edited.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
        try:
            for batch in batches:
                for row in batch.column("row").to_pylist():
                    yield json.loads(row)
        except ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines()
            reason = lines[-1] if re.match(r"[\w.]+(Error|Exception)\b", lines[-1]) else lines[0]
            cure = "every node needs liveditor-isa[batch], in the same version"
            raise JobError(f"Ray gave up ({reason.rstrip('.')}): {cure}.") from error
        finally:
            del batches


def _follow(stream: Iterator[dict], pending: list[Clip], results: Results, edited: set[str], progress: bool):
    """Runs until all clips are done, or until an error occurs that would also fail the remaining clips."""
    from tqdm import tqdm

    failures: list[dict] = []
    quarantined = 0
    form = "{desc}: {n_fmt}/{total_fmt} |{bar:30}| {elapsed}, {remaining} left{postfix}"
    interval = 0.5 if sys.stderr.isatty() else 30  # seconds; a log gets one line per interval
    bar = tqdm(
        total=len(pending), desc="clips", bar_format=form, mininterval=interval, maxinterval=interval, disable=not progress
    )
    begun = time.monotonic()
    with closing(stream), bar:
        for outcome in stream:
            if outcome["traceback"]:
                results.log(outcome)
            if outcome["status"] == "stopped":
                raise JobError(outcome["reason"])
            if outcome["status"] == "done":
                edited.add(outcome["id"])
                failures.clear()
            else:
                quarantined += 1
                bar.write(f"{outcome['id']}: {outcome['reason']}", file=sys.stderr)
                if outcome["kind"] != BAD_INPUT:
                    alike = not failures or failures[-1]["kind"] == outcome["kind"]
                    failures = [*failures, outcome] if alike else [outcome]
            if len(failures) == SAME_FAILURES:
                for failure in failures:
                    results.release(failure["id"])
                reason = failures[-1]["reason"].rstrip(".")
                raise JobError(
                    f"{SAME_FAILURES} clips in a row failed alike, the last with: {reason}; {results.log_file} says where."
                )
            speed = 60 * (bar.n + 1) / (time.monotonic() - begun)
            bar.set_postfix_str(f"{speed:.1f} clips/min, {quarantined} quarantined", refresh=False)
            bar.update()


def _row(clip: Clip, results: Results) -> dict:
    """Of metrics.csv."""
    outcome = results.record(clip.id) or results.quarantined(clip.id) or {"status": "pending"}
    names = ("status", "frames", "seconds", "attempt", "host", "pid", "finished", "kind", "reason")
    row = {"id": clip.id, "video": clip.edit.video} | {name: outcome.get(name) for name in names}
    run = (outcome.get("run") or {}).items()
    return row | {name: value for name, value in run if name not in row and isinstance(value, (str, int, float))}
