"""Señorita-2M: JSON lists of source_video_path, target_video_path and enhanced_instruction, with paths relative to all of it.

The keys are those that users' loaders read. Lists name folders as the authors had them, THING_videos; what is downloaded is in THING_upload.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..records import Pair
from .files import distinct, placed_videos, read_json, rows_of, write_json

ABOUT = "Señorita-2M: *.json of source_video_path, target_video_path, enhanced_instruction"
COLUMNS = "source_video_path", "target_video_path", "enhanced_instruction"
NAMED, UPLOADED = "_videos", "_upload"


def write(pairs: Sequence[Pair], folder: Path) -> None:
    rows = [
        dict(zip(COLUMNS, (*(f"./{name}" for name in placed_videos(pair, folder)), pair.instruction))) | {"task": pair.task}
        for pair in pairs
    ]
    write_json(folder / "pairs.json", rows)


def read(folder: Path) -> list[Pair]:
    """The kind of an edit is the list's name, since the lists name none."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ValueError(f"{folder} has no list of pairs, *.json: name a folder of this format.")
    rows = [(file.stem, row) for file in files for row in rows_of(read_json(file), file, *COLUMNS)]
    return [
        Pair(name, row.get("task") or task, row[COLUMNS[2]], _file(folder, row[COLUMNS[0]]), _file(folder, row[COLUMNS[1]]))
        for name, (task, row) in zip(distinct([row[COLUMNS[1]] for _, row in rows]), rows)
    ]


def _file(folder: Path, name: str) -> str:
    """Where the video lies, by the list's path."""
    first, *rest = Path(name).parts
    if rest and first.endswith(NAMED) and not (folder / first).is_dir():
        first = first.removesuffix(NAMED) + UPLOADED
    return str(folder.joinpath(first, *rest))
