"""This project's own: pairs.jsonl with all that is known, rejected pairs included; mp4 files; safetensors shards of what was encoded.

pairs.jsonl, videos/*.mp4
shards/00000.safetensors    keys ID/context, ID/target [16, T, h, w] and ID/text [tokens, width], bf16, text without padding
shards/index.jsonl          {"id", "shard", "bucket": [W, H, T] in pixels and frames, "tokens": of the text}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..records import ACCEPTED, Pair, read_pairs, write_pairs
from .files import opened, placed

ABOUT = "records of all pairs, mp4 files, safetensors shards of latents and text"

SHARD_BYTES = 2**30
"""A shard is closed when it is larger. An 81-frame pair of 832×480 has some 17 MB."""

TENSORS = ("context", "target", "text")


def write(pairs: Sequence[Pair], folder: Path) -> None:
    write_videos(pairs, folder)
    _write_shards([pair for pair in pairs if pair.status == ACCEPTED and pair.latents], folder / "shards")


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
    from safetensors import safe_open

    with opened(folder / "shards/index.jsonl") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    for row in rows:
        with safe_open(folder / "shards" / row["shard"], "pt") as shard:
            yield row, {name: shard.get_tensor(f"{row['id']}/{name}") for name in TENSORS}


def _write_shards(pairs: Sequence[Pair], folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    held: dict = {}
    index, size, number = [], 0, 0
    for at, pair in enumerate(pairs):
        assert pair.latents
        tensors = load_file(pair.latents)
        held |= {f"{pair.id}/{name}": tensors[name] for name in TENSORS}
        size += sum(tensor.nbytes for tensor in tensors.values())
        bucket = [pair.width, pair.height, pair.frames]
        index.append({"id": pair.id, "shard": f"{number:05}.safetensors", "bucket": bucket, "tokens": len(tensors["text"])})
        if size >= SHARD_BYTES or at == len(pairs) - 1:
            save_file(held, folder / f"{number:05}.safetensors")
            held, size, number = {}, 0, number + 1
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in index), encoding="utf-8")
