"""The stored scores of a run, as reports and aggregates read them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .items import Item, ItemSet
from .judge.cost import Cost, cost_of
from .records import Run, Settings, edit_of, unpacked


@dataclass(frozen=True)
class Scored:
    """One item. values: {column: number}. missing: {metric: reason}. edit: None where it is not there."""

    item: Item
    edit: str | None
    values: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    """{metric: what its judge said}."""
    costs: dict[str, Cost] = field(default_factory=dict)
    """{metric: what its judge's answers took}."""
    features: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    """{metric of sets: {role: [clips, C]}}."""
    stamps: dict[str, str] = field(default_factory=dict)
    """{column: version and model of what computed it}."""

    @property
    def has_scores(self) -> bool:
        return bool(self.values or self.features)


@dataclass(frozen=True)
class Results:
    """All items of a run, those without any score included."""

    run: Run
    settings: Settings
    items: ItemSet
    scored: tuple[Scored, ...]

    @property
    def columns(self) -> list[str]:
        """In the order in which items have them."""
        return list({column: None for one in self.scored for column in one.values})

    @property
    def tasks(self) -> list[str]:
        return list({one.item.task: None for one in self.scored if one.item.task})

    def of(self, column: str, task: str | None = None) -> dict[str, float]:
        """{id: value} of the items that have it; task: of that kind alone."""
        return {one.item.id: one.values[column] for one in self.of_task(task) if column in one.values}

    def features(self, metric: str, role: str) -> np.ndarray | None:
        """[clips, C] of all items; None where there is none."""
        rows = [one.features[metric][role] for one in self.scored if role in one.features.get(metric, {})]
        return np.concatenate(rows) if rows else None

    def stamps(self, column: str) -> set[str]:
        """Versions and models that computed it: several where weights changed in between."""
        return {one.stamps[column] for one in self.scored if column in one.stamps}

    def of_task(self, task: str | None) -> list[Scored]:
        return [one for one in self.scored if task is None or one.item.task == task]


def edits_folder(run: Run, settings: Settings) -> Path | None:
    """Where the run's edits lie; None for those that the items name themselves."""
    if settings.edits:
        return Path(settings.edits)
    return run.made_edits if run.made_edits.is_dir() else None


def collect(run: Run) -> Results:
    """Raises ValueError where the folder holds no evaluation, or its items are gone."""
    settings, items = run.settings(), run.items()
    folder = edits_folder(run, settings)
    return Results(run, settings, items, tuple(_scored(run, item, edit_of(item, folder)) for item in items.items))


def _scored(run: Run, item: Item, edit: str | None) -> Scored:
    # Scores of files that are others now would be those of another edit.
    files = {**item.files, "edit": edit} if edit else item.files
    scores = run.scores(item, files) if edit else {}
    missing = {name: score["missing"] for name, score in scores.items() if "missing" in score}
    words = {name: score["words"] for name, score in scores.items() if "words" in score}
    features = {name: unpacked(score["features"]) for name, score in scores.items() if "features" in score}
    costs = {name: cost_of(score["judge"]) for name, score in scores.items() if "judge" in score}
    stamps = {column: score.get("version", "") for score in scores.values() for column in score.get("values", {})}
    return Scored(item, edit, _values(scores.values()), missing, words, costs, features, stamps)


def _values(scores: Iterable[dict]) -> dict[str, float]:
    return {column: value for score in scores for column, value in score.get("values", {}).items()}
