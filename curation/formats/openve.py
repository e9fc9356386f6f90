"""OpenVE-3M: a CSV for each kind of edit, of original_video, video and prompt, whose paths are relative to the folder videos.

The columns are those that trainings on it read (ReCo's and ThinkV2V's loaders); copies of the lists are separated by commas or semicolons.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from ..records import Pair
from .files import distinct, opened, placed_videos, rows_of, write_csv

ABOUT = "OpenVE-3M: KIND.csv of original_video, video, prompt, and the folder videos"
VIDEOS = "videos"
COLUMNS = "original_video", "video", "prompt"


def write(pairs: Sequence[Pair], folder: Path) -> None:
    by_task: dict[str, list[dict[str, object]]] = {}
    for pair in pairs:
        names = (Path(name).relative_to(VIDEOS).as_posix() for name in placed_videos(pair, folder))
        by_task.setdefault(pair.task or "edit", []).append(dict(zip(COLUMNS, (*names, pair.instruction))))
    for task, rows in by_task.items():
        write_csv(folder / f"{task}.csv", rows)


def read(folder: Path) -> list[Pair]:
    """The kind of an edit is its column edited_type, or the list's name."""
    files = sorted({*folder.glob("*.csv"), *folder.glob("*/*.csv")})
    if not files:
        raise ValueError(f"{folder} has no list of pairs, KIND.csv: name a folder of this format.")
    rows = [(file.stem, row) for file in files for row in rows_of(_rows(file), file, *COLUMNS)]
    root = folder / VIDEOS
    return [
        Pair(
            name, row.get("edited_type") or task, row["prompt"], str(root / row["original_video"]), str(root / row["video"])
        )
        for name, (task, row) in zip(distinct([row["video"] for _, row in rows]), rows)
    ]  # fmt: skip


def _rows(file: Path) -> list[dict[str, str]]:
    with opened(file) as content:
        header = content.readline()
        content.seek(0)
        return [*csv.DictReader(content, delimiter=";" if ";" in header else ",")]
