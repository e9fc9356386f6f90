"""The list of raw videos: JSON lines, one a row, with where each comes from and under which licence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..batch.manifest import all_ids, id_fault
from ..checkpoint.files import replacing


class SourcesError(ValueError):
    """What is wrong with a list of sources: the first fault in one sentence. faults: all of them."""

    def __init__(self, *faults: str):
        more = f" {len(faults) - 1} more are wrong." if len(faults) > 1 else ""
        super().__init__(faults[0] + more)
        self.faults = faults


@dataclass(frozen=True)
class Source:
    """video: absolute path. origin: name of the collection. licence: in words or as an SPDX name; empty where it is not known.

    url: where it was got. caption: what it shows.
    """

    id: str
    video: str
    origin: str = ""
    licence: str = ""
    url: str = ""
    caption: str = ""

    @property
    def facts(self) -> dict[str, str]:
        """For the records of what is made of it."""
        return {name: value for name, value in asdict(self).items() if name != "video"}


def read_sources(path: Path) -> list[Source]:
    """Relative paths are relative to the file. Raises SourcesError; whether the videos are there is not looked at."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SourcesError(f"The sources {path} cannot be read ({error}): name a .jsonl file in UTF-8.") from None
    rows, faults = [], []
    for number, line in enumerate(lines, 1):
        if line.strip():
            row, fault = _row(line)
            rows.append(row)
            faults += [f"Line {number} of {path.name}: {fault}."] if fault else []
    if not faults:
        given = [row["id"].lower() for row in rows if "id" in row]
        faults += [
            f"The id {id!r} is there twice in {path.name}." for id in sorted({id for id in given if given.count(id) > 1})
        ]
    if faults:
        raise SourcesError(*faults)
    if not rows:
        raise SourcesError(f'{path.name} holds no video: write one row each, like {{"video": "a.mp4", "licence": "CC0"}}.')
    folder = path.resolve().parent
    ids = all_ids([(row.get("id"), row["video"]) for row in rows])
    return [Source(**{**row, "id": id, "video": str(folder / row["video"])}) for row, id in zip(rows, ids)]


def write_sources(path: Path, sources: Iterable[Source]) -> None:
    """The inverse of `read_sources`, with absolute paths. Replaces the file at once."""
    rows = [json.dumps({"video": source.video, **source.facts}, ensure_ascii=False) for source in sources]
    with replacing(path) as partial:
        partial.write_text("\n".join(rows) + "\n", encoding="utf-8")


def _row(line: str) -> tuple[dict, str]:
    """The row, and what is wrong with it, empty if nothing is."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, f"this is not JSON ({error})"
    if isinstance(row, dict) and {"context", "target"} <= row.keys():
        return (
            {},
            "this is a pair and no raw video; liveditor data import --sources lists the videos that a data set's pairs began with",
        )
    if not isinstance(row, dict) or not isinstance(row.get("video"), str) or not row["video"].strip():
        return {}, 'a source is an object with a video, like {"video": "a.mp4", "licence": "CC0"}'
    known = {one.name for one in fields(Source)}
    for name, value in row.items():
        if name not in known:
            return row, f"there is no column {name!r}; there are {', '.join(sorted(known))}"
        if not isinstance(value, str):
            return row, f"{name} must be text; got {value!r}"
    return row, (id_fault(row["id"]) or "") if "id" in row else ""


def fingerprint(facts: dict) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
