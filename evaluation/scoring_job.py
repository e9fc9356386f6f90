"""Scoring as a job of the batch engine: an item per task, on cores of this machine or of a Ray cluster whose nodes see the run's folder.

What is done is what the run's scores say, whatever becomes of the job: an item that kills its worker three times has its scores missing.
This module is the engine's editor: workers call `load` and `edit_file`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..batch import job
from ..batch.manifest import Clip
from ..batch.results import Results as JobResults
from . import catalogue
from .items import Item, ItemSet
from .judge.client import Endpoint
from .judge.judge import Judge
from .judge.local import LocalVLM
from .metrics.metric import Metric
from .metrics.plugins import metrics_of
from .metrics.preference import metric as preference_metric
from .records import Run, Settings, edit_of
from .results import edits_folder
from .scoring import Summary, Work, inputs_of, planned, score, summarised


@dataclass(frozen=True)
class Choice:
    """What all workers load. run: the folder, absolute. metrics: names, those of `named_metrics` left out. modules: as in `metrics.plugins`.
    device: where workers work."""

    run: str
    metrics: tuple[str, ...]
    judge: Endpoint | LocalVLM | None = None
    preference: str | None = None
    modules: tuple[str, ...] = ()
    retry_missing: bool = False
    device: str = "cpu"

    def shared(self) -> dict:
        """Nothing: another call may ask for other metrics."""
        return {}

    def absolute(self) -> Choice:
        return self


@dataclass(frozen=True)
class Task:
    """video: the run's record, in the place of the file that the engine looks for. id: of the item."""

    video: str
    id: str


@dataclass(frozen=True)
class Loaded:
    run: Run
    settings: Settings
    items: dict[str, Item]
    metrics: tuple[Metric, ...]
    retry_missing: bool


def named_metrics(
    judge: Endpoint | LocalVLM | None, preference: str | None, modules: Sequence[str], run: Run, mode: str, bench: str
) -> list[Metric]:
    """Those that the user names: by a judge, by a model of preference, of modules of their own."""
    judged = [Judge(judge, run.judge_cache, mode).metric(bench)] if judge else []
    return judged + ([preference_metric(preference)] if preference else []) + metrics_of(modules)


def score_by_job(
    run: Run, works: Sequence[Work], choice: Choice, address: str | None, workers: int | None, editor: str = __name__
) -> Summary:
    """As `scoring.score`. address, workers: as in `batch.job.run`, whose errors are raised."""
    left = [work for work in works if work.edit and work.metrics]
    this_call = uuid.uuid4().hex  # so that the engine takes no item for done because an earlier job did it
    clips = [Clip(work.item.id, line, Task(str(run.record), work.item.id), this_call) for line, work in enumerate(left, 1)]
    done = JobResults(run.job)
    job.run(clips, choice, run.job, address, workers, retry_quarantined=True, redo_changed=True, editor=editor)
    for work in left:
        if why := done.quarantined(work.item.id):
            _give_up(run, work, why["reason"])
    return summarised(run, works)


def _give_up(run: Run, work: Work, reason: str) -> None:
    """Scores that a lost worker did not store are missing."""
    scores = run.scores(work.item, work.files)
    now = planned(run, ItemSet("", (work.item,)), work.metrics, lambda item: work.edit)[0]
    run.store(work.item, work.files, scores | {metric.name: metric.missing(reason) for metric in now.metrics})


def load(choice: Choice) -> Loaded:
    run = Run(choice.run)
    settings, items = run.settings(), run.items()
    named = named_metrics(choice.judge, choice.preference, choice.modules, run, settings.mode, items.bench)
    known = catalogue.all_metrics()
    metrics = (*(known[name] for name in choice.metrics), *named)
    return Loaded(run, settings, {item.id: item for item in items.items}, metrics, choice.retry_missing)


def edit_file(loaded: Loaded, task: Task, output: Path, progress: bool = True) -> tuple[None, dict]:
    """Compute what the item lacks; makes no file but the run's scores."""
    item, folder = loaded.items[task.id], edits_folder(loaded.run, loaded.settings)
    items = ItemSet("", (item,))
    works = planned(loaded.run, items, loaded.metrics, lambda item: edit_of(item, folder), loaded.retry_missing)
    summary = score(loaded.run, works, inputs_of(loaded.settings))
    return None, {"computed": summary.computed, "missing": summary.missing}
