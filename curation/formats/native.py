"""This project's own: pairs.jsonl with all that is known, rejected pairs included; mp4 files; safetensors shards of what was encoded.

pairs.jsonl, videos/*.mp4
shards/                     as `data.shards` writes them
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ...data.shards import read_index, read_pair, write_shards
from ..records import ACCEPTED, Pair, read_pairs, write_pairs
from .files import placed

ABOUT = "records of all pairs, mp4 files, safetensors shards of latents and text"

SHARDS = "shards"


def write(pairs: Sequence[Pair], folder: Path) -> None:
    write_videos(pairs, folder)
    write_shards(folder / SHARDS, _encoded([pair for pair in pairs if pair.status == ACCEPTED and pair.latents]))


def write_videos(pairs: Sequence[Pair], folder: Path) -> None:
    """pairs.jsonl and the videos that it names."""
    moved = []
    for pair in pairs:
        files = {role: getattr(pair, role) for role in ("context", "target")}
        named = {
            role: str(folder / placed(file, folder, f"videos/{pair.id}.{role}.mp4")) for role, file in files.items() if file
        }
        moved.append(replace(pair, **named, latents=None))
    write_pairs(folder / "pairs.jsonl", moved)


def read(folder: Path) -> list[Pair]:
    return [*read_pairs(folder / "pairs.jsonl")]


def read_shards(folder: Path) -> Iterator[tuple[dict, dict]]:
    """(row of the index, {"context", "target", "text"}) of every encoded pair of an export. Raises ValueError where there is none."""
    for row in read_index(folder / SHARDS):
        yield row, read_pair(folder / SHARDS, row)


def _encoded(pairs: Sequence[Pair]) -> Iterator[tuple[str, list[int], dict]]:
    from safetensors.torch import load_file

    for pair in pairs:
        assert pair.latents
        yield pair.id, [pair.width, pair.height, pair.frames], load_file(pair.latents)
