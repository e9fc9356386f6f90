"""A user's own clips: items that are written by hand."""

from __future__ import annotations

from pathlib import Path

from ..items import Item, read_items
from .bench import Bench, LayoutError


def prepare(folder: Path, subset: str | None) -> list[Item]:
    """folder: a file of items, or a folder with items.jsonl."""
    path = folder / "items.jsonl" if folder.is_dir() else folder
    if not path.is_file():
        raise LayoutError(f"There is no {path}: write a JSON lines file with source and instruction in every row.")
    return [*read_items(path).items]


BENCH = Bench(
    "own",
    "Own clips",
    "a JSON lines file; each row has source and instruction, and if there are, edit, reference, mask and task",
    prepare,
    lambda scored, mode: {},
)
