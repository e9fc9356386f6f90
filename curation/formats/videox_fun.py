"""VideoX-Fun: metadata.json, a list of file_path, control_file_path, text, type, width and height."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..records import Pair
from .files import distinct, placed_videos, read_json, rows_of, write_json

ABOUT = "VideoX-Fun: metadata.json of file_path, control_file_path, text"


def write(pairs: Sequence[Pair], folder: Path) -> None:
    rows = []
    for pair in pairs:
        context, target = placed_videos(pair, folder)
        row = {"file_path": target, "control_file_path": context, "text": pair.instruction, "type": "video"}
        rows.append({**row, "width": pair.width, "height": pair.height})
    write_json(folder / "metadata.json", rows)


def read(folder: Path) -> list[Pair]:
    path = folder / "metadata.json"
    rows = rows_of(read_json(path), path, "file_path", "control_file_path", "text")
    return [
        Pair(
            id, "", row["text"], str(folder / row["control_file_path"]),
            str(folder / row["file_path"]), width=int(row.get("width") or 0), height=int(row.get("height") or 0),
        )
        for id, row in zip(distinct([row["file_path"] for row in rows]), rows)
    ]  # fmt: skip
