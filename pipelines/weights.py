"""Writes the weights of any checkpoint that the node pack loads in diffusers' layout, alone or as a whole pipeline."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from ..checkpoint.convert import Conversion, convert_checkpoint, require_space
from ..checkpoint.dtypes import DTYPES
from ..checkpoint.files import new_folder, replacing
from .checkpoint import configuration, diffusers_names, open_liveditor
from .pipeline import LIVEditorPipeline
from .text_encoder import load_text_encoder
from .transformer import LIVEditorTransformer3DModel
from .vae import load_vae

WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
"""Files of a model in diffusers' layout."""


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
    model, folder = _empty_model(source), Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(errno.EEXIST, "There is a file where the folder should be; name another", str(folder))
    # A loader would read these instead, or as well.
    if others := sorted(path.name for path in folder.glob("*.safetensors*") if path.name != WEIGHTS):
        raise FileExistsError(errno.EEXIST, f"The folder holds other weights ({others[0]}); name an empty one", str(folder))
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        result = convert_checkpoint(source, folder / WEIGHTS, dtype, progress, overwrite, diffusers_names(model))
    except BaseException:
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise
    with replacing(folder / CONFIG) as partial:
        partial.write_text(model.to_json_string(), encoding="utf-8")
    return result


def save_pipeline(
    source: str | Path,
    text_encoder: str | Path,
    vae: str | Path,
    folder: str | Path,
    dtype: str = "keep",
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Write the files that `LIVEditorPipeline.from_files` opens as a new folder that diffusers opens: the same pipeline.

    dtype: type of all weights; "keep" is that of each file, and fp32 of fp8 weights with a scale. progress: of the transformer.
    Returns the transformer's Conversion, with the folder and its bytes.

    The folder appears under its name only when it is whole. Raises CheckpointError naming what is wrong with a file,
    FileExistsError for a folder that holds anything, OSError for a full disk.
    """
    with new_folder(Path(folder)) as partial:
        wanted, transformer = DTYPES.get(dtype), _empty_model(source)
        pipe = LIVEditorPipeline.of_parts(*load_text_encoder(text_encoder, wanted), load_vae(vae, wanted), transformer)
        require_space(partial, sum(weight.nbytes for part in (pipe.text_encoder, pipe.vae) for weight in part.parameters()))
        pipe.save_config(partial)
        for name, part in pipe.components.items():
            if part is not transformer:
                part.save_pretrained(partial / name)
        result = save_for_diffusers(source, partial / "transformer", dtype, progress)
        size = sum(path.stat().st_size for path in partial.rglob("*"))
    return replace(result, path=Path(folder), bytes=size)


def _empty_model(source: str | Path) -> LIVEditorTransformer3DModel:
    """Of the checkpoint's size, without weights. Raises CheckpointError, or OSError where there is none."""
    with torch.device("meta"):
        return LIVEditorTransformer3DModel(**configuration(open_liveditor(source)))
