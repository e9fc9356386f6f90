"""NeMo AutoModel: its cache of encoded videos, which its trainer reads when it is started in this folder with "." as cache_dir.

WIDTHxHEIGHT/ID.meta                          target, text and context of a pair, by torch.save
metadata.json, metadata_shard_0000.json       what there is, in which bucket
pairs.jsonl, videos/                          what the pairs are, which NeMo does not read

Source: NVIDIA-NeMo/Automodel, components/datasets/diffusion and tools/diffusion/processors/wan.py. Its dataset takes target and text; the
context, under a name of its own, is for a trainer that takes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ...runtime.in_context import CONTEXT_LATENTS
from ..records import Pair
from . import native
from .files import check_encoded, write_json

ABOUT = "NeMo AutoModel: WIDTHxHEIGHT/ID.meta of video_latents, text_embeddings, context_latents; metadata.json and its shards"

TEXT_LENGTH = 226
"""Tokens of a text, to which NeMo pads Wan's with zeros."""

PAIRS_A_SHARD = 1000


def write(pairs: Sequence[Pair], folder: Path) -> None:
    """Raises ValueError for a pair that was not encoded."""
    from safetensors.torch import load_file

    check_encoded(pairs)
    native.write_videos(pairs, folder)
    rows = []
    for pair in pairs:
        tensors = load_file(str(pair.latents))
        context, target = (tensors[role][None].half() for role in ("context", "target"))
        text = tensors["text"][:TEXT_LENGTH]
        name = f"{pair.width}x{pair.height}/{pair.id}.meta"
        facts = {"bucket_resolution": [pair.width, pair.height], "aspect_ratio": pair.width / pair.height}
        (folder / name).parent.mkdir(exist_ok=True)
        cached = {
            "video_latents": target,
            "text_embeddings": torch.nn.functional.pad(text, (0, 0, 0, TEXT_LENGTH - len(text)))[None],
            CONTEXT_LATENTS: context,
            "num_frames": pair.frames,
            "prompt": pair.instruction,
            "model_type": "wan",
        }
        torch.save(cached | facts, folder / name)
        rows.append({"cache_file": name} | facts)
    shards = [rows[start : start + PAIRS_A_SHARD] for start in range(0, len(rows), PAIRS_A_SHARD)]
    names = [f"metadata_shard_{number:04}.json" for number in range(len(shards))]
    for name, shard in zip(names, shards):
        write_json(folder / name, shard)
    write_json(folder / "metadata.json", {"shards": names})


def read(folder: Path) -> list[Pair]:
    return native.read(folder)
