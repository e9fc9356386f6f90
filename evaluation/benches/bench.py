"""What a bench is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import FaultsError
from ..frames import CROP
from ..items import Item
from ..metrics.metric import Metric
from ..results import Scored

PUBLISHED = Path(__file__).parent / "published"


class LayoutError(FaultsError):
    """A bench's folder is not as it should be: one sentence, which says what is missing. faults: all that is."""


@dataclass(frozen=True)
class Bench:
    """
    name: as on the command line. title: as in reports. about: the layout that `prepare` reads, in one sentence.
    prepare: (the bench's folder, subset or None for all) -> items; raises LayoutError.
    subsets: names of parts of the bench. metrics: names of metrics that it consists of.
    own: metrics of this bench alone. aggregate: (items, mode) -> {column: number}, in the bench's units.
    export: (a new folder, items): writes them in the bench's layout, so that `prepare` reads them; raises LayoutError.
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
    export: Callable[[Path, Sequence[Item]], None] | None = None

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


def check_rows(rows: Iterable[tuple[str, object]], needed: Sequence[str], optional: Sequence[str] = ()) -> None:
    """rows: (where it stands, row) of a bench's list. Raises LayoutError for rows that are no objects, and for columns that are not
    there, or are no text; a column of `optional` may be missing or null."""
    faults = []
    for place, row in rows:
        if not isinstance(row, dict):
            faults.append(f"{place}: it should be an object; got {row!r}.")
            continue
        faults += [f"{place}: there is no {name}." for name in needed if row.get(name) is None]
        named = [(name, row[name]) for name in (*needed, *optional) if row.get(name) is not None]
        faults += [f"{place}: {name} must be text; got {value!r}." for name, value in named if not isinstance(value, str)]
    if faults:
        raise LayoutError(*faults)


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def exported(item: Item, folder: Path) -> Path:
    """A copy of an item's source, named by its id. Raises LayoutError for one that is a folder of frames."""
    source = Path(item.source)
    if not source.is_file():
        raise LayoutError(f"{item.id}: {source} is no video file, which the bench's layout asks for.")
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(source, folder / f"{item.id}{source.suffix}"))


def described(item: Item) -> dict[str, str]:
    """{"source_prompt", "target_prompt"}. Raises LayoutError where one is empty."""
    found = {"source_prompt": item.source_prompt, "target_prompt": item.target_prompt}
    if lacking := [name for name, text in found.items() if not text]:
        raise LayoutError(f"{item.id} has no {lacking[0]}, which the bench's layout asks for.")
    return found


def mean_of(scored: Sequence[Scored], column: str) -> float | None:
    """None where no item has it."""
    values = [one.values[column] for one in scored if column in one.values]
    return sum(values) / len(values) if values else None


def safe_id(text: str) -> str:
    """An id for `batch`: every other character becomes an underscore."""
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "_-.") else "_" for char in text)
    return kept.strip("._-")[:90] or "item"
