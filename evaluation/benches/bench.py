"""What a bench is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..frames import CROP
from ..items import Item
from ..metrics.metric import Metric
from ..results import Scored

PUBLISHED = Path(__file__).parent / "published"


class LayoutError(ValueError):
    """A bench's folder is not as it should be: one sentence, which says what is missing. faults: all that is."""

    def __init__(self, *faults: str):
        more = f" {len(faults) - 1} more are wrong." if len(faults) > 1 else ""
        super().__init__(faults[0] + more)
        self.faults = faults


@dataclass(frozen=True)
class Bench:
    """
    name: as on the command line. title: as in reports. about: the layout that `prepare` reads, in one sentence.
    prepare: (the bench's folder, subset or None for all) -> items; raises LayoutError.
    subsets: names of parts of the bench. metrics: names of metrics that it consists of.
    own: metrics of this bench alone. aggregate: (items, mode) -> {column: number}, in the bench's units.
    notes: sentences for reports. reference_alignment: how its published code lays source and edit over each other.
    """

    name: str
    title: str
    about: str
    prepare: Callable[[Path, str | None], list[Item]]
    aggregate: Callable[[Sequence[Scored], str], dict[str, float]]
    metrics: tuple[str, ...] = ()
    own: tuple[Metric, ...] = ()
    subsets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reference_alignment: str = CROP

    def published(self) -> list[dict]:
        """Tables of published numbers: {"set", "items", "source", "columns", "rows": [{"method", "values"}]}."""
        path = PUBLISHED / f"{self.name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def read_json(path: Path, what: str):
    """Raises LayoutError in one sentence."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise LayoutError(f"There is no {path}: {what}.") from None
    except (OSError, ValueError) as error:
        raise LayoutError(f"{path} cannot be read ({error}): {what}.") from None


def mean_of(scored: Sequence[Scored], column: str) -> float | None:
    """None where no item has it."""
    values = [one.values[column] for one in scored if column in one.values]
    return sum(values) / len(values) if values else None


def safe_id(text: str) -> str:
    """An id for `batch`: every other character becomes an underscore."""
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "_-.") else "_" for char in text)
    return kept.strip("._-")[:90] or "item"
