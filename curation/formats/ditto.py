"""Ditto-1M: videos, and training_metadata with JSON lists of source_path, edited_path and instruction, relative to the videos.

Several lists hold the same edits; each is read once. Source: the data set's card, QingyanBai/Ditto-1M.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..records import Pair
from .files import distinct, placed_videos, read_json, rows_of, write_json

ABOUT = "Ditto-1M: training_metadata/*.json of source_path, edited_path, instruction"
LISTS, VIDEOS = "training_metadata", "videos"
COLUMNS = "source_path", "edited_path", "instruction"


def write(pairs: Sequence[Pair], folder: Path) -> None:
    rows = []
    for pair in pairs:
        names = (Path(name).relative_to(VIDEOS).as_posix() for name in placed_videos(pair, folder))
        rows.append(dict(zip(COLUMNS, (*names, pair.instruction))))
    (folder / LISTS).mkdir()
    write_json(folder / LISTS / "pairs.json", rows)


def read(folder: Path) -> list[Pair]:
    files = sorted(folder.glob(f"{LISTS}/*.json"))
    if not files:
        raise ValueError(f"{folder} has no {LISTS}/*.json: name a folder of this format.")
    # A dict keeps their order.
    rows = [
        *dict.fromkeys(
            tuple(row[name] for name in COLUMNS) for file in files for row in rows_of(read_json(file), file, *COLUMNS)
        )
    ]
    return [
        Pair(name, "", instruction, str(folder / VIDEOS / source), str(folder / VIDEOS / edited))
        for name, (source, edited, instruction) in zip(distinct([edited for _, edited, _ in rows]), rows)
    ]
