"""Small runs of `liveditor train` for tests: random networks of LIVEditor's and Wan's layout, random encoded pairs, recipes of both."""

from pathlib import Path

import torch
from liveditor_isa.checkpoint.included import path_of
from liveditor_isa.checkpoint.keys import core_metadata, expected_shapes
from liveditor_isa.data.shards import write_shards
from liveditor_isa.training.editor.recipe import recipe_of
from liveditor_isa.training.editor.start import is_new
from safetensors.torch import save_file

DIM, FFN, TEXT, BLOCKS = 256, 320, 256, 2


def write_network(path: Path, plain: bool = False, seed: int = 0) -> Path:
    """Random weights under official names; plain: Wan's alone."""
    generator = torch.Generator().manual_seed(seed)
    shapes = expected_shapes(DIM, FFN, TEXT, BLOCKS)
    weights = {
        name: torch.randn(shape, generator=generator) * (0.05 if len(shape) > 1 else 0.02) + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        for name, shape in shapes.items()
        if not (plain and is_new(name))
    }  # fmt: skip
    save_file(weights, path, core_metadata(shapes))
    return path


def write_encoded(folder: Path, buckets=((64, 48, 5),) * 4, seed: int = 0, text_width: int = TEXT) -> Path:
    """Shards of random latents and texts, one pair for each bucket."""
    generator = torch.Generator().manual_seed(seed)

    def pair(number, bucket):
        width, height, frames = bucket
        shape = 16, (frames - 1) // 4 + 1, height // 8, width // 8
        tensors = {role: torch.randn(shape, generator=generator).bfloat16() for role in ("context", "target")}
        return (
            f"pair-{number}",
            [*bucket],
            tensors | {"text": torch.randn(3 + number % 3, text_width, generator=generator).bfloat16()},
        )

    folder.parent.mkdir(parents=True, exist_ok=True)
    write_shards(folder, (pair(number, bucket) for number, bucket in enumerate(buckets)))
    return folder


def recipe(network: Path, source: Path, trains: str = "full", steps: int = 4, stage: dict | None = None, **tables):
    """Of one stage over one source, with LIVEditor-tiny's text encoder and VAE."""
    one = {"steps": steps, "batch": 2, "rate": 1e-3, "ema": 0.9, "sources": [{"path": str(source)}]} | (stage or {})
    model = {"start": str(network), "text_encoder": path_of("text_encoder"), "vae": path_of("vae"), "trains": trains}
    return recipe_of(
        {"model": model, "lora": {"rank": 4}, "operation": {"log_every": 1, "save_every": 100}, "stage": [one]} | tables
    )
