"""Encoded training pairs in safetensors shards, which `liveditor data export native` writes and `liveditor train` reads.

00000.safetensors    keys ID/context, ID/target [16, T, h, w] and ID/text [tokens, width], bf16, text without padding
index.jsonl          {"id", "shard", "bucket": [W, H, T] in pixels and frames, "tokens": of the text}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch

SHARD_BYTES = 2**30
"""A shard is closed when it is larger. An 81-frame pair of 832×480 has some 17 MB."""

TENSORS = ("context", "target", "text")
INDEX = "index.jsonl"


def write_shards(folder: Path, pairs: Iterable[tuple[str, list[int], dict[str, torch.Tensor]]]) -> None:
    """pairs: (id, bucket, its TENSORS). folder: a new one. Holds no more than a shard in memory."""
    from safetensors.torch import save_file

    folder.mkdir()
    held: dict[str, torch.Tensor] = {}
    index, size, number = [], 0, 0
    for id, bucket, tensors in pairs:
        held |= {f"{id}/{name}": tensors[name] for name in TENSORS}
        size += sum(tensors[name].nbytes for name in TENSORS)
        index.append({"id": id, "shard": f"{number:05}.safetensors", "bucket": bucket, "tokens": len(tensors["text"])})
        if size >= SHARD_BYTES:
            save_file(held, folder / f"{number:05}.safetensors")
            held, size, number = {}, 0, number + 1
    if held:
        save_file(held, folder / f"{number:05}.safetensors")
    (folder / INDEX).write_text("".join(json.dumps(row) + "\n" for row in index), encoding="utf-8")


def read_index(folder: Path) -> list[dict]:
    """The rows of the index. Raises ValueError in one sentence where there is none, or it is none."""
    try:
        with open(folder / INDEX, encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.strip()]
        if wrong := next((row for row in rows if not {"id", "shard", "bucket", "tokens"} <= set(row)), None):
            raise ValueError(f"it has a row without its columns, {str(wrong)[:80]}")
    except OSError as error:
        raise ValueError(f"{folder / INDEX} cannot be read ({error.strerror}): name a folder of shards.") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / INDEX} is no index of shards ({error}): export the pairs again.") from None
    return rows


def read_pair(folder: Path, row: dict) -> dict[str, torch.Tensor]:
    """The TENSORS of a row of the index. Raises ValueError in one sentence for a shard that is missing or damaged."""
    from safetensors import SafetensorError

    path = folder / row["shard"]
    try:
        shard = _opened(str(path))
        return {name: shard.get_tensor(f"{row['id']}/{name}") for name in TENSORS}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"The pair {row['id']} cannot be read from {path} ({error}): export the pairs again.") from None


@lru_cache(maxsize=64)
def _opened(path: str):
    from safetensors import safe_open

    return safe_open(path, "pt")
