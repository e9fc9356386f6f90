"""A manifest of clips: one edit per row, JSON lines or CSV."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import unicodedata
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ..errors import FaultsError
from ..pipelines.request import RANGES, Edit, box_of
from ..runtime.windows import Windows


class ManifestError(FaultsError):
    """What is wrong with a manifest: the first fault in one sentence, with its line number. faults: all of them."""

    more = "rows are wrong: --dry-run lists them"


class Request(Protocol):
    """What is asked of one clip: a dataclass that can be pickled. The engine reads its video alone, the editor all of it."""

    __dataclass_fields__: dict[str, Any]

    @property
    def video(self) -> str:
        """Absolute path of the file that the work begins with."""


@dataclass(frozen=True)
class Clip:
    """One row.

    id: names the outputs. line: where it stands in the manifest. edit: with absolute paths; an `Edit` where a manifest was read.
    fingerprint: of what the row asks for, as it is written there: the same where the whole folder is moved.
    """

    id: str
    line: int
    edit: Request
    fingerprint: str


COLUMNS = {
    "video": str, "prompt": str, "id": str, "negative_prompt": str, "references": list,
    "seed": int, "frames": int, "fps": float, "steps": int, "guidance": float, "width": int, "height": int,
    "whole_frame": bool, "start_frame": int, "every_nth": int,
    "mask": str, "boxes": list, "feather": int, "match_colors": bool, "window": int, "window_overlap": int,
}  # fmt: skip
REQUIRED = ("video", "prompt")

MULTIPLE = 16
"""Width and height must be multiples of this many pixels, the size of the model's patches."""

ID_LENGTH = 100
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices, with any ending."""
SAFE_ID = re.compile(r"\w(?:[\w.-]*[\w-])?", re.ASCII)


def read_manifest(path: str | Path) -> list[Clip]:
    """All rows, in order. Relative paths in it are relative to the manifest.

    A clip without an id takes its video's name, numbered on (-2, -3, ...) where that is taken.
    Raises ManifestError for bad rows, and for a file that cannot be read or holds none. Whether the videos are there is not
    looked at.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ManifestError(f"{path} is not UTF-8 text: save it as that.") from None
    except OSError as error:
        raise ManifestError(f"The manifest {path} cannot be read ({error.strerror}).") from None
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".ndjson", ".json", ".csv"):
        raise ManifestError(f"{path.name} is neither JSON lines (.jsonl) nor CSV (.csv): give it the ending of what it is.")
    rows, faults = [], []
    for line, row_of in _csv_rows(text) if suffix == ".csv" else _json_rows(text):
        try:
            rows.append((line, _checked(row_of(), line)))
        except ManifestError as error:
            faults += error.faults
    faults += _double_ids(rows)
    if faults:
        raise ManifestError(*faults)
    if not rows:
        raise ManifestError(f"{path.name} holds no clip: write one row per clip, with video and prompt.")
    folder = path.resolve().parent
    names = all_ids([(row.get("id"), row["video"]) for _, row in rows])
    return [_clip(row, line, name, folder) for (line, row), name in zip(rows, names)]


def _json_rows(text: str):
    """(line, function that makes the row)."""
    for line, content in enumerate(text.split("\n"), 1):
        if content.strip():
            yield line, partial(_json_row, content, line)


def _json_row(content: str, line: int) -> dict:
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _bad(line, f"this is not JSON ({error}): write one object in braces per line") from None
    if not isinstance(row, dict):
        raise _bad(line, 'a row is an object in braces, like {"video": "cat.mp4", "prompt": "Let it snow"}')
    return {name: value for name, value in row.items() if value is not None}


def _csv_rows(text: str):
    """(line, function that makes the row). Where the table itself is broken, what follows cannot be read, and it raises."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if len({*header}) < len(header):
            raise _bad(1, "a column is there twice")
        before = reader.line_num
        for cells in reader:
            line, before = before + 1, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            yield line, partial(_csv_row, header, cells, line)
    except csv.Error as error:
        raise _bad(reader.line_num, f"this is not CSV ({error})") from None


def _csv_row(header: list[str], cells: list[str], line: int) -> dict:
    """Cells are text; an empty cell means that the value is not given."""
    if len(cells) > len(header):
        raise _bad(line, f"there are {len(cells)} cells for {len(header)} columns: put quotes around text with commas")
    return {name: _parsed(name, cell.strip(), line) for name, cell in zip(header, cells) if cell.strip()}


def _parsed(name: str, cell: str, line: int):
    kind = COLUMNS.get(name, str)
    if kind is bool:
        return {"true": True, "false": False}.get(cell.lower(), cell)
    if kind is list:
        return [part.strip() for part in cell.split("|")]
    try:
        return kind(cell)
    except ValueError:
        raise _bad(line, f"{name} must be a {'whole ' if kind is int else ''}number; got {cell!r}") from None


def _checked(row: dict, line: int) -> dict:
    for name, value in row.items():
        if name not in COLUMNS:
            raise _bad(line, f"there is no column {name!r}; there are {', '.join(COLUMNS)}")
        _check_value(name, value, line)
    row = {name: float(value) if COLUMNS[name] is float else value for name, value in row.items()}
    for name in REQUIRED:
        if not row.get(name, "").strip():
            raise _bad(line, f"{name} is missing")
    if ("width" in row) != ("height" in row):
        raise _bad(line, "width and height go together: give both or neither")
    try:
        Windows.of_frames(row.get("window", 0), row.get("window_overlap"))
    except ValueError as error:
        raise _bad(line, str(error).rstrip(".")) from None
    if "id" in row and (fault := id_fault(row["id"])):
        raise _bad(line, fault)
    return row


def id_fault(id: str) -> str | None:
    """Why an id cannot name files, without a full stop; None if it can."""
    if not SAFE_ID.fullmatch(id) or len(id) > ID_LENGTH:
        return (
            f"the id {id!r} cannot name a file: use up to {ID_LENGTH} letters a-z, digits, '-', '_' and '.', "
            "and no '.' at either end"
        )
    if RESERVED.fullmatch(id):
        return f"the id {id!r} is the name of a device on Windows: choose another"
    return None


def _check_value(name: str, value, line: int):
    kind = COLUMNS[name]
    if kind is str and not isinstance(value, str):
        raise _bad(line, f"{name} must be text; got {value!r}")
    if kind is list and not (isinstance(value, list) and all(isinstance(part, str) and part for part in value)):
        raise _bad(line, f"{name} must be a list of texts; got {value!r}")
    if kind is bool and not isinstance(value, bool):
        raise _bad(line, f"{name} must be true or false; got {value!r}")
    if name in RANGES:
        low, high = RANGES[name]
        numeric = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
        if not numeric or not low <= value <= high:
            whole = "whole " if kind is int else ""
            raise _bad(line, f"{name} must be a {whole}number from {low} to {high}; got {value!r}")
    if name == "boxes":
        _boxes(value, line)
    if name in ("width", "height") and value % MULTIPLE:
        raise _bad(line, f"{name} must be a multiple of {MULTIPLE}; got {value}")
    for text in value if kind is list else [value] if kind is str else []:
        if "\0" in text:
            raise _bad(line, f"{name} holds a zero character")
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise _bad(line, f"{name} holds half a character, {ascii(text)}: write it as UTF-8")


def _boxes(texts: list[str], line: int) -> tuple[tuple[int, int, int, int], ...]:
    try:
        return tuple(map(box_of, texts))
    except ValueError as error:
        raise _bad(line, str(error)) from None


def _double_ids(rows: list[tuple[int, dict]]) -> list[str]:
    """Faults. Names are compared without regard to case, as on some file systems."""
    lines, faults = {}, []
    for line, row in rows:
        if "id" in row and (first := lines.setdefault(row["id"].lower(), line)) != line:
            faults += _bad(line, f"the id {row['id']!r} is line {first}'s already").faults
    return faults


def all_ids(named: list[tuple[str | None, str]]) -> list[str]:
    """(id or None, file) of each row -> ids: one that is not given is made from the file's name, unlike all others."""
    taken = {id.lower() for id, _ in named if id is not None}
    numbers: dict[str, int] = {}
    return [id if id is not None else _free(_stem(file), taken, numbers) for id, file in named]


def _stem(video: str) -> str:
    """An id from the file's name: letters without accents, an underscore for every other character."""
    plain = unicodedata.normalize("NFKD", re.split(r"[/\\]", video)[-1]).encode("ascii", "ignore").decode()
    name = re.sub(r"[^\w-]+", "_", Path(plain).stem, flags=re.ASCII).strip("_-")[: ID_LENGTH - 10] or "clip"
    return f"clip_{name}" if RESERVED.fullmatch(name) else name


def _free(stem: str, taken: set[str], numbers: dict[str, int]) -> str:
    """A name not in `taken`. `numbers` keeps the last number of each name, because thousands of clips may share one."""
    name = stem
    while name.lower() in taken:
        numbers[stem.lower()] = number = numbers.get(stem.lower(), 1) + 1
        name = f"{stem}-{number}"
    taken.add(name.lower())
    return name


def _clip(row: dict, line: int, name: str, folder: Path) -> Clip:
    asked = {key: value for key, value in row.items() if key != "id"}
    fingerprint = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    size = (asked.pop("width"), asked.pop("height")) if "width" in asked else None
    asked["video"] = str(folder / row["video"])
    asked["references"] = tuple(str(folder / file) for file in row.get("references", ()))
    asked["boxes"] = _boxes(row.get("boxes", []), line)
    if "mask" in row:
        asked["mask"] = str(folder / row["mask"])
    return Clip(name, line, Edit(**asked, size=size), fingerprint)


def _bad(line: int, what: str) -> ManifestError:
    return ManifestError(f"Line {line} of the manifest: {what}.")
