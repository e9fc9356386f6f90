"""The items of an evaluation: JSON lines, one edit a row. What is edited, how, and what is known of a right edit."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from ..batch.manifest import all_ids, id_fault
from ..checkpoint.files import replacing
from ..errors import FaultsError
from ..pipelines.request import RANGES

OWN = "own"
"""The bench of a user's own clips."""

ALL = "all"
"""In reports, the items of every kind of edit together."""


class ItemsError(FaultsError):
    """What is wrong with a file of items: the first fault in one sentence. faults: all of them."""


@dataclass(frozen=True)
class Item:
    """One edit. Files have absolute paths; a video is a file, or a folder of its frames as pictures.

    source: the video to edit. instruction: what to change. edit: its edit, where it lies already.
    reference: the right edit, where that is known. mask: a video or picture, white where the edit should change something.
    task: the kind of edit, by which results are grouped. bench: whose item it is.
    source_prompt, target_prompt: descriptions of the video before and after.
    pictures: images that the instruction refers to.
    result: where an editor's folder has the edit in the bench's layout, without ending; the id, if empty.
    facts: further columns of the bench, which its own metrics read.
    """

    id: str
    source: str
    instruction: str = ""
    edit: str | None = None
    reference: str | None = None
    mask: str | None = None
    task: str = ""
    bench: str = OWN
    source_prompt: str = ""
    target_prompt: str = ""
    pictures: tuple[str, ...] = ()
    result: str = ""
    facts: dict = field(default_factory=dict, hash=False)

    @property
    def files(self) -> dict[str, str]:
        """{role: path} of what it reads, the edit left out."""
        named = {"source": self.source, "reference": self.reference, "mask": self.mask}
        return {role: path for role, path in named.items() if path}


FILES = ("source", "edit", "reference", "mask")
"""Columns that hold a path; `pictures` holds several."""


@dataclass(frozen=True)
class ItemSet:
    """name: the file's, without ending. Two sets are the same if their fingerprints are."""

    name: str
    items: tuple[Item, ...]

    @property
    def bench(self) -> str:
        """Of all items; "mixed" where they have several."""
        names = {item.bench for item in self.items}
        return names.pop() if len(names) == 1 else "mixed"

    @property
    def fingerprint(self) -> str:
        """sha256 of the bench's name and the sorted ids."""
        return hashlib.sha256("\n".join([self.bench, *sorted(item.id for item in self.items)]).encode()).hexdigest()

    @property
    def described(self) -> dict:
        """For records and reports."""
        return {"bench": self.bench, "set": self.name, "items": len(self.items), "sha256": self.fingerprint}


def read_items(path: str | Path) -> ItemSet:
    """All rows. Relative paths are relative to the file. Whether videos are there is not looked at: `missing_files` does.

    Raises ItemsError for bad rows, and for a file that cannot be read or holds none.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ItemsError(f"{path} is not UTF-8 text: save it as that.") from None
    except OSError as error:
        raise ItemsError(f"The items {path} cannot be read ({error.strerror}): name a .jsonl file.") from None
    rows, faults = [], []
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = _row(line)
            rows.append(row)
            faults += [f"Line {number} of {path.name}: {fault}." for fault in _faults(row)]
    if not faults:
        faults += _double_ids(rows, path.name)
    if faults:
        raise ItemsError(*faults)
    if not rows:
        raise ItemsError(f"{path.name} holds no item: write one JSON object per line, with a source and an instruction.")
    folder = path.resolve().parent
    ids = all_ids([(row.get("id"), row["source"]) for row in rows])
    return ItemSet(path.stem, tuple(_item({**row, "id": id}, folder) for row, id in zip(rows, ids)))


def write_items(path: str | Path, items: Iterable[Item]) -> None:
    """The inverse of `read_items`: paths relative to the file. Replaces the file at once."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.resolve().parent
    with replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
        for item in items:
            file.write(json.dumps(_relative(item, folder), ensure_ascii=False) + "\n")


def missing_files(items: Iterable[Item]) -> list[str]:
    """A sentence for each file that an item names and that is not there; edits are left out."""
    sentences = []
    for item in items:
        named = [*item.files.items(), *(("picture", path) for path in item.pictures)]
        sentences += [f"{item.id}: there is no {role} {path}." for role, path in named if not os.path.exists(path)]
    return sentences


def _row(line: str) -> dict | str:
    """The row, or what is wrong with the line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"this is not JSON ({error}): write one object in braces per line"
    if not isinstance(row, dict):
        return 'an item is an object in braces, like {"source": "cat.mp4", "instruction": "Let it snow"}'
    return {name: value for name, value in row.items() if value is not None}


def _faults(row: dict | str) -> list[str]:
    if isinstance(row, str):
        return [row]
    columns = {column.name for column in fields(Item)}
    found = [f"there is no column {name!r}; there are {', '.join(sorted(columns))}" for name in row if name not in columns]
    for name in columns - {"pictures", "facts"}:
        if not isinstance(row.get(name, ""), str):
            found.append(f"{name} must be text; got {row[name]!r}")
    pictures = row.get("pictures", [])
    if not (isinstance(pictures, list) and all(isinstance(path, str) and path for path in pictures)):
        found.append(f"pictures must be a list of files; got {pictures!r}")
    if not isinstance(row.get("facts", {}), dict):
        found.append(f"facts must be an object; got {row['facts']!r}")
    elif (rate := row.get("facts", {}).get("fps")) is not None and not _is_rate(rate):
        low, high = RANGES["fps"]
        found.append(f"fps in facts must be a number from {low} to {high}; got {rate!r}")
    if not found and not row.get("source", "").strip():
        found.append("source is missing")
    if row.get("task") == ALL:
        found.append(f"no kind of edit can be named {ALL!r}, as reports name all of them together")
    if not found and "id" in row and (fault := id_fault(row["id"])):
        found.append(fault)
    return found


def _is_rate(value) -> bool:
    low, high = RANGES["fps"]
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _double_ids(rows: list[dict], name: str) -> list[str]:
    """Faults. Compared without regard to case, as on some file systems."""
    seen, faults = set(), []
    for row in rows:
        if "id" in row and row["id"].lower() in seen:
            faults.append(f"{name} has the id {row['id']!r} twice: ids name the scores' files.")
        seen.add(row.get("id", "").lower())
    return faults


def _item(row: dict, folder: Path) -> Item:
    def absolute(path: str) -> str:
        return os.path.normpath(folder / path)

    paths = {name: absolute(row[name]) for name in FILES if row.get(name)}
    empty = {name: None for name in FILES if name in row and not row[name]}
    pictures = tuple(absolute(path) for path in row.get("pictures", ()))
    return Item(**{**row, **empty, **paths, "pictures": pictures})


def _relative(item: Item, folder: Path) -> dict:
    def relative(path: str) -> str:
        try:
            return Path(os.path.relpath(path, folder)).as_posix()
        except ValueError:  # another drive of Windows
            return path

    shown = replace(
        item,
        **{name: relative(path) for name in FILES if (path := getattr(item, name))},
        pictures=tuple(relative(path) for path in item.pictures),
    )
    plain = Item(item.id, item.source)
    return {name: value for name, value in asdict(shown).items() if name in ("id", "source") or value != getattr(plain, name)}
