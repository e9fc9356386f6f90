"""All numbers of all items of a run, stored one by one; another call goes on where the last one ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ..errors import is_out_of_memory, sentence
from .frames import Inputs
from .items import Item, ItemSet
from .metrics.metric import Judged, Metric, Noted
from .records import REFERENCE, Run, Settings, packed

logger = logging.getLogger(__name__)

Scores = dict[str, dict]
"""{metric: score} of one item."""


@dataclass(frozen=True)
class Work:
    """What is left to do for one item. edit: None where there is none."""

    item: Item
    edit: str | None
    metrics: tuple[Metric, ...]

    @property
    def files(self) -> dict[str, str]:
        return {**self.item.files, **({"edit": self.edit} if self.edit else {})}


@dataclass(frozen=True)
class Summary:
    """Scores: computed by this call, stored before it, and missing of both. no_edit: ids of items without an edit."""

    computed: int
    stored: int
    missing: int
    no_edit: tuple[str, ...]


def planned(
    run: Run, items: ItemSet, metrics: Sequence[Metric], find: Callable[[Item], str | None], retry_missing: bool = False
) -> list[Work]:
    """What each item lacks: scores that are not stored, or are of an earlier version of the metric or the files.

    find: the edit of an item. retry_missing: also scores that failed.
    """
    works = []
    for item in items.items:
        edit = find(item)
        found = Work(item, edit, ())
        scores = run.scores(item, found.files) if edit else {}
        left = [
            metric
            for metric in metrics
            if edit and metric.applies(item) and not _is_done(scores.get(metric.name), metric, retry_missing)
        ]
        works.append(Work(item, edit, tuple(left)))
    return works


def score(
    run: Run,
    works: Sequence[Work],
    open_inputs: Callable[[Item, str], Inputs] = Inputs,
    each: Callable[[Work], object] = lambda work: None,
) -> Summary:
    """Compute what is left. A metric that fails is stored as missing, with its reason.

    each: called when an item is done.
    """

    def done() -> Iterator[Scores]:
        for work in works:
            scores = _stored(run, work)
            if work.edit is not None and work.metrics:
                inputs = open_inputs(work.item, work.edit)
                for metric in work.metrics:
                    scores[metric.name] = _scored(metric, inputs)
                    run.store(work.item, work.files, scores)
            each(work)
            yield scores

    return _summary(works, done())


def summarised(run: Run, works: Sequence[Work]) -> Summary:
    """Of planned work that other processes have done."""
    return _summary(works, (_stored(run, work) for work in works))


def _stored(run: Run, work: Work) -> Scores:
    return dict(run.scores(work.item, work.files)) if work.edit is not None else {}


def _summary(works: Sequence[Work], done: Iterable[Scores]) -> Summary:
    """done: of each of the works, in their order; one is held at a time."""
    computed, stored, missing = 0, 0, 0
    for work, scores in zip(works, done):
        asked = {metric.name for metric in work.metrics}
        computed += len(asked & scores.keys())
        stored += len(scores.keys() - asked)
        missing += sum("missing" in score for score in scores.values())
    return Summary(computed, stored, missing, tuple(work.item.id for work in works if work.edit is None))


def inputs_of(settings: Settings) -> Callable[[Item, str], Inputs]:
    """How a run reads its videos."""
    # FiVE-Bench's code takes everything above 0 of its masks, which are JPEG.
    return partial(Inputs, alignment=settings.alignment, mask_above=0.0 if settings.mode == REFERENCE else 0.5)


def runnable(metrics: Iterable[Metric]) -> tuple[list[Metric], dict[str, str]]:
    """Those that can run here, and {name: why not} of the others."""
    able, unable = [], {}
    for metric in metrics:
        try:
            metric.ready()
        except RuntimeError as error:
            unable[metric.name] = sentence(error)
        else:
            able.append(metric)
    return able, unable


def _is_done(score: dict | None, metric: Metric, retry_missing: bool) -> bool:
    if score is None or score.get("version") != metric.stamp:
        return False
    return not (retry_missing and "missing" in score)


def _scored(metric: Metric, inputs: Inputs) -> dict:
    began = time.perf_counter()
    try:
        values = metric.compute(inputs)
    except Exception as error:  # whatever a model's library raises: the other scores go on
        level = logging.WARNING if is_out_of_memory(error) else logging.INFO
        logger.log(level, "%s of %s failed", metric.name, inputs.item.id, exc_info=error)
        return metric.missing(sentence(error))
    wrong = [name for name, value in values.items() if not abs(value) < float("inf")]
    if wrong:
        return metric.missing(f"{', '.join(wrong)} is not finite.")
    more = dict(values.facts) if isinstance(values, Noted) else {}
    if isinstance(values, Judged):
        more["words"] = values.words
    if isinstance(values, Noted) and values.features:
        more["features"] = packed(values.features)
    return {"version": metric.stamp, "values": dict(values), "seconds": round(time.perf_counter() - began, 3), **more}
