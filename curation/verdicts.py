"""A VLM's verdict on a pair: the three scores of `evaluation`'s judge, 1 to 10. Both stages of verdicts are this."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..evaluation.frames import Inputs
from ..evaluation.items import OWN, Item
from ..evaluation.judge.cost import cost_of
from ..evaluation.judge.judge import Judge
from ..evaluation.metrics.metric import Judged, Metric
from ..evaluation.records import CORRECTED
from .outcomes import Outcome, Work
from .settings import Settings, StageChoice


def rows(kept: list[Outcome], settings: Settings) -> Iterator[tuple[str, Work]]:
    for edit in kept:
        yield edit.id, Work(edit.edit, edit.work.facts | {"edit": edit.edit, "edit_bytes": edit.edit_bytes})


def load(choice: StageChoice) -> Metric:
    """Its answers are the stage's records, so that none is kept beside them."""
    return Judge(choice.settings.vlm, cache=None, mode=CORRECTED).metric(OWN)


def edit_file(metric: Metric, work: Work, output: Path, progress: bool) -> tuple[None, dict]:
    """Raises JudgeError, a sentence, where there is no answer; UnreachableError where there is no VLM any more."""
    item = Item("pair", work.facts["real"], work.facts["proposal"]["instruction"])
    values = metric.compute(Inputs(item, work.video))
    assert isinstance(values, Judged)
    took = cost_of(values.facts["judge"])
    return None, {"scores": dict(values), "model": metric.stamp, "words": values.words, "judge": took._asdict()}
