"""LIVEditor's weights between their names: any checkpoint that the node pack loads, and diffusers' layout."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from ..checkpoint.convert import Conversion, convert_checkpoint
from ..checkpoint.keys import CheckpointError, block_count, check_keys, is_quantisation, official_names
from ..checkpoint.opening import Checkpoint, open_checkpoint

HEAD_DIM = 128
WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
"""Files of a model in diffusers' layout."""


def open_liveditor(path: str | Path) -> Checkpoint:
    """A checked checkpoint that can be held in diffusers. Raises CheckpointError, or OSError where there is none."""
    checkpoint = open_checkpoint(path)
    check_keys(checkpoint.shapes)
    if any(is_quantisation(name) for name in checkpoint.shapes):
        raise CheckpointError(
            f"{checkpoint.path.name} is quantised for ComfyUI: take the .bin or a bf16 conversion of it, and let diffusers "
            "keep the weights in 8 bits (storage 'fp8')."
        )
    return checkpoint


def configuration(checkpoint: Checkpoint) -> dict:
    """The transformer's configuration, as the weights' shapes tell it."""
    dim = checkpoint.shapes["head.modulation"][-1]
    return {
        "num_attention_heads": dim // HEAD_DIM,
        "attention_head_dim": HEAD_DIM,
        "ffn_dim": checkpoint.shapes["blocks.0.ffn.0.weight"][0],
        "text_dim": checkpoint.shapes["text_embedding.0.weight"][1],
        "num_layers": block_count(checkpoint.shapes),
    }


def diffusers_names(model: torch.nn.Module) -> dict[str, str]:
    """{official name: name in the diffusers model}."""
    return official_names(model.state_dict())[0]


def save_for_diffusers(
    source: str | Path,
    folder: str | Path,
    dtype: str = "keep",
    progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Write checkpoint `source` into `folder` as LIVEditorTransformer3DModel's `from_pretrained` reads it, tensor by tensor.

    dtype, progress and errors as of `convert_checkpoint`, which also writes the other way: it reads such a folder.
    """
    from .transformer import LIVEditorTransformer3DModel

    checkpoint = open_liveditor(source)
    with torch.device("meta"):
        model = LIVEditorTransformer3DModel(**configuration(checkpoint))
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(errno.EEXIST, "There is a file where the folder should be; name another", str(folder))
    # A loader would take these, or both.
    if others := sorted(path.name for path in folder.glob("*.safetensors*") if path.name != WEIGHTS):
        raise FileExistsError(errno.EEXIST, f"The folder holds other weights ({others[0]}); name an empty one", str(folder))
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        result = convert_checkpoint(source, folder / WEIGHTS, dtype, progress, overwrite, diffusers_names(model))
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise
    partial = folder / f".{CONFIG}.partial"
    partial.write_text(model.to_json_string(), encoding="utf-8")
    os.replace(partial, folder / CONFIG)
    return result
