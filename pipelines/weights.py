"""Writes the weights of any checkpoint that the node pack loads in diffusers' layout."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from ..checkpoint.convert import Conversion, convert_checkpoint
from ..checkpoint.files import replacing
from .checkpoint import configuration, diffusers_names, open_liveditor
from .transformer import LIVEditorTransformer3DModel

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
    checkpoint = open_liveditor(source)
    with torch.device("meta"):
        model = LIVEditorTransformer3DModel(**configuration(checkpoint))
    folder = Path(folder)
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
