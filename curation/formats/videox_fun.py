"""VideoX-Fun: metadata.json, a list of file_path, control_file_path, text, type, width and height."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..records import Pair
from .files import id_of, placed_videos, read_json, write_json

ABOUT = "VideoX-Fun: metadata.json of file_path, control_file_path, text"


def write(pairs: Sequence[Pair], folder: Path) -> None:
    rows = []
    for pair in pairs:
        context, target = placed_videos(pair, folder)
        row = {"file_path": target, "control_file_path": context, "text": pair.instruction, "type": "video"}
        rows.append({**row, "width": pair.width, "height": pair.height})
    write_json(folder / "metadata.json", rows)


def read(folder: Path) -> list[Pair]:
    return [
        Pair(
            id_of(row["file_path"]), "", row["text"], str(folder / row["control_file_path"]),
            str(folder / row["file_path"]), width=row["width"], height=row["height"],
        )
        for row in read_json(folder / "metadata.json")
    ]  # fmt: skip
