"""ComfyUI: shards as its node Load Training Dataset reads them, for Train LoRA; put the folder into ComfyUI's datasets.

shard_0000.pkl, metadata.json    latents: the target's; conditioning: the text, padded as Wan's is, with the context under core's key
pairs.jsonl, videos/             what the pairs are, which ComfyUI does not read
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ...runtime.in_context import CONTEXT_LATENTS
from ..records import Pair
from . import native
from .files import check_encoded, write_json

ABOUT = "ComfyUI: shards for Load Training Dataset, the context as context_latents"

PAIRS_A_SHARD = 100


def write(pairs: Sequence[Pair], folder: Path) -> None:
    """Raises ValueError for a pair that was not encoded."""
    from safetensors.torch import load_file

    from ...pipelines.text_encoder import TEXT_LENGTH  # these import diffusers
    from ...pipelines.vae import without_normalisation

    check_encoded(pairs)
    native.write_videos(pairs, folder)
    count = 0
    for start in range(0, len(pairs), PAIRS_A_SHARD):
        shard: dict[str, list] = {"latents": [], "conditioning": []}
        for pair in pairs[start : start + PAIRS_A_SHARD]:
            tensors = load_file(str(pair.latents))
            context, target = (without_normalisation(tensors[role][None]) for role in ("context", "target"))
            text = torch.nn.functional.pad(tensors["text"], (0, 0, 0, TEXT_LENGTH - len(tensors["text"])))[None]
            shard["latents"].append({"samples": target})
            shard["conditioning"].append([[text, {CONTEXT_LATENTS: [context]}]])
        torch.save(shard, folder / f"shard_{count:04}.pkl")
        count += 1
    write_json(folder / "metadata.json", {"num_samples": len(pairs), "num_shards": count, "shard_size": PAIRS_A_SHARD})


def read(folder: Path) -> list[Pair]:
    return native.read(folder)
