"""What a metric is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..frames import Inputs
from ..items import Item


@dataclass(frozen=True)
class Metric:
    """
    name: unique. needs: attributes of an item that must be there, such as "reference"; the edit and the source always are.
    compute: {column: value} of one item's videos. columns: names of the values.
    about: what it is, in one sentence. version: raise it where the numbers change. model: which weights compute it, for the record.
    higher: whether more is better; None where neither is. ready: raises RuntimeError, a sentence, where the metric cannot run here.
    unit: of the values, as shown.
    calls: questions to a judge for one item.
    """

    name: str
    compute: Callable[[Inputs], dict[str, float]]
    about: str
    needs: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    higher: bool | None = True
    unit: str = ""
    version: str = "1"
    model: Callable[[], str] = lambda: ""
    ready: Callable[[], object] = lambda: None
    calls: Callable[[Item], int] = lambda item: 0

    def applies(self, item: Item) -> bool:
        return all(getattr(item, need, None) or item.facts.get(need) for need in self.needs)

    @property
    def stamp(self) -> str:
        """Scores with another one are computed again. Asks `model`, so that `ready` has to hold."""
        return ", ".join(filter(None, (self.version, self.model())))

    def missing(self, reason: str) -> dict:
        """The score of an item that has none; reason: a sentence."""
        return {"version": self.stamp, "missing": reason}

    @property
    def names(self) -> tuple[str, ...]:
        """Columns that it fills."""
        return self.columns or (self.name,)


class About(NamedTuple):
    """What a report says of a metric. names: its columns. higher: whether more is better."""

    names: tuple[str, ...]
    about: str
    higher: bool | None


class Noted(dict):
    """Values of a metric that has more for the record. facts: as JSON takes them. features: {role of a video: [N, C], a row for each of
    its clips}, of metrics that compare sets of items."""

    facts: dict = {}
    features: dict[str, np.ndarray] = {}


class Judged(Noted):
    """words: of a judge, for people."""

    words: str = ""


class NothingToMeasure(ValueError):
    """A metric has no value for an item, such as where the mask is empty; the message says why, in one sentence."""
