"""Tables of a run: means by task, the comparison of two runs, what is missing and why, a bench's own columns beside published rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..benches.bench import Bench
from ..items import ALL
from ..judge import cost
from ..metrics import i3d
from ..metrics.metric import About
from ..results import Results
from .statistics import LEVEL, Estimate, estimate, paired

OTHER_MODEL = "another model or version"


@dataclass(frozen=True)
class Table:
    """notes: sentences under the title. rows: cells as text. folded: a page shows the title alone, until it is clicked."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    folded: bool = False


def means(results: Results) -> list[Table]:
    """A table of each kind of edit, and one of all: every column with its interval and how many items have it."""
    tables = []
    for task in [None, *(results.tasks if len(results.tasks) > 1 else [])]:
        rows = []
        count = len(results.of_task(task))
        for column in results.columns:
            if values := results.of(column, task):
                found = estimate([*values.values()])
                rows.append((column, number(found.mean), interval(found), f"{found.count} of {count}"))
        name = task or "All items"
        header = ("column", "mean", f"{LEVEL:.0%} interval", "items")
        tables.append(Table(f"{name} ({count})", header, tuple(rows), folded=task is not None))
    return tables


def by_task(results: Results, columns: Sequence[str]) -> Table:
    """One row for every kind of edit, one column for every column of scores."""
    rows = []
    for task in [*results.tasks, None]:
        cells = [results.of(column, task) for column in columns]
        shown = [number(estimate([*values.values()]).mean) if values else "–" for values in cells]
        rows.append((task or ALL, str(len(results.of_task(task))), *shown))
    return Table("By kind of edit", ("task", "items", *columns), tuple(rows))


def comparison(first: Results, second: Results, metrics: dict[str, About]) -> Table:
    """Item by item: the second run less the first, where both have the column."""
    rows = []
    for column in first.columns:
        pairs = paired(first.of(column), second.of(column))
        if pairs is None:
            continue
        found = pairs.difference
        clear = found.count > 1 and (found.low > 0 or found.high < 0)
        better = higher_is_better(column, metrics)
        verdict = "no clear difference"
        if clear and better is not None:
            verdict = "better" if (found.mean > 0) == better else "worse"
        elif clear:
            verdict = "higher" if found.mean > 0 else "lower"
        if len(first.stamps(column) | second.stamps(column)) > 1:
            verdict = OTHER_MODEL
        row = (column, signed(found.mean), interval(found, signed), f"{pairs.above} / {pairs.below}", str(found.count), verdict)
        rows.append(row)
    names = second.settings.label, first.settings.label
    notes = ["Each item is compared with itself. Above and below count items whose difference is above and below 0."]
    if first.items.fingerprint != second.items.fingerprint:
        notes.append("The two runs have other sets of items: only what both have is compared.")
    if any(row[-1] == OTHER_MODEL for row in rows):
        notes.append(
            f"{OTHER_MODEL.capitalize()}: the two runs were scored by unlike judges, weights or code, which differ themselves."
        )
    ways = [f"{one.settings.mode} and {one.settings.alignment}" for one in (first, second)]
    if ways[0] != ways[1]:
        notes.append(f"Mode and alignment are {ways[1]} in the one run, {ways[0]} in the other: differences hold these too.")
    header = ("column", "difference", f"{LEVEL:.0%} interval", "above / below", "items", "it is")
    return Table(f"{names[0]} less {names[1]}", header, tuple(rows), tuple(notes))


def coverage(results: Results) -> Table:
    """What is missing, with the reasons and how often."""
    reasons: Counter[tuple[str, str]] = Counter()
    for one in results.scored:
        if one.edit is None:
            reasons["(edit)", "There is no edit of the item, or its scores are of other files."] += 1
        for metric, reason in one.missing.items():
            reasons[metric, reason] += 1
    rows = tuple((metric, str(count), reason) for (metric, reason), count in reasons.most_common())
    scored = sum(one.has_scores for one in results.scored)
    note = (
        f"{scored} of {len(results.scored)} items have scores. What is missing is left out of every mean; it never counts as 0."
    )
    return Table("Coverage", ("metric", "items", "reason"), rows, (note,))


class Distance(NamedTuple):
    """FVD of two sets of clips, with the number of clips in each."""

    first: str
    second: str
    value: float
    clips: tuple[int, int]


def distances(results: Results, against: Results | None = None) -> list[Distance]:
    """Of the run's edits from sources, right edits and the other run's edits, where two clips or more have features."""
    edits = results.features(i3d.NAME, "edit")
    sets = [("sources", results, "source"), ("right edits", results, "reference")]
    sets += [(f"edits of {against.settings.label}", against, "edit")] if against else []
    found = []
    for name, run, role in sets:
        other = run.features(i3d.NAME, role)
        if edits is not None and other is not None and min(len(edits), len(other)) > 1:
            found.append(Distance("edits", name, i3d.frechet(edits, other), (len(edits), len(other))))
    return found


def of_sets(results: Results, against: Results | None) -> list[Table]:
    """No table where nothing is computed."""
    found = distances(results, against)
    if not found:
        return []
    rows = tuple((one.first, one.second, number(one.value), f"{one.clips[0]} and {one.clips[1]}") for one in found)
    notes = [
        f"Fréchet distance of I3D's logits, clips of {i3d.FRAMES} frames: 0 for equal sets. Compare values of like counts alone."
    ]
    if min(clips for one in found for clips in one.clips) < i3d.ENOUGH:
        notes.append(f"Fewer than {i3d.ENOUGH} clips in a set: two halves of one set would be far from 0 as well.")
    return [Table("FVD", ("set", "from", "FVD", "clips"), rows, tuple(notes))]


def of_bench(results: Results, bench: Bench) -> list[Table]:
    """The bench's own columns, aggregated as the bench does; no table where nothing is scored."""
    found = bench.aggregate(results.scored, results.settings.mode)
    if not found:
        return []
    described = results.items.described
    notes = [
        f"Mode {results.settings.mode}. Items: {described['set']}, {described['items']}, "
        f"sha256 of the list {described['sha256'][:12]}."
    ]
    if lacking := sum(bool(one.missing) or not one.has_scores for one in results.scored):
        notes.append(
            f"{lacking} items lack scores, which are left out: these are not numbers of the whole set. Coverage says what is missing."
        )
    rows = tuple((name, number(value)) for name, value in found.items())
    return [Table(f"{bench.title}: {results.settings.label}", ("column", "value"), rows, (*notes, *bench.notes))]


def judged(results: Results) -> list[Table]:
    """What the answers of judges took; no table where none was asked."""
    costs: dict[str, list[cost.Cost]] = {}
    for one in results.scored:
        for metric, took in one.costs.items():
            costs.setdefault(metric, []).append(took)
    rows = tuple((metric, *cost.table_row(took)) for metric, took in costs.items())
    return [Table("What the judge took", ("metric", *cost.COLUMNS), rows, (cost.NOTE,))] if rows else []


def published(bench: Bench) -> list[Table]:
    """Rows of papers, a table for each set of items: rows of unlike sets are never ranked together."""
    tables = []
    for part in bench.published():
        rows = tuple((row["method"], *(number(value) for value in row["values"])) for row in part["rows"])
        note = f"{part['source']}. Items: {part['items']}. Rows of other items or judges are not comparable with the run's."
        tables.append(Table(f"{bench.title}, published: {part['set']}", ("method", *part["columns"]), rows, (note,)))
    return tables


def higher_is_better(column: str, metrics: dict[str, About]) -> bool | None:
    return next((metric.higher for metric in metrics.values() if column in metric.names), None)


def number(value: float | None) -> str:
    """Four digits that count; a dash for none."""
    return "–" if value is None else f"{value:.4g}"


def signed(value: float) -> str:
    return f"{value:+.3g}"


def interval(found: Estimate, shown=number) -> str:
    return "–" if found.count < 2 else f"{shown(found.low)} to {shown(found.high)}"
