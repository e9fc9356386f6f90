"""Parts of a model from folders in diffusers' layout."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import torch

from ..checkpoint.keys import CheckpointError
from ..errors import is_out_of_memory


def load_part(kind: type, folder: Path, part: str, dtype: torch.dtype) -> torch.nn.Module:
    """The model of class `kind` in `folder`/`part`, or in `folder` itself if it contains only that part. Nothing is downloaded.

    Raises CheckpointError when it is not there, damaged, or not whole.
    """
    place = part_folder(folder, part)
    with said_of(place, kind.__name__):
        model, loading = kind.from_pretrained(str(place), dtype=dtype, output_loading_info=True, local_files_only=True)
        if wrong := [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]:
            raise ValueError(f"{len(wrong)} weights are missing, unknown or misshapen, {wrong[0]} for one")
    return model.eval().requires_grad_(False)


def part_folder(folder: Path, part: str) -> Path:
    return folder / part if (folder / part).is_dir() else folder


@contextmanager
def said_of(place: Path, what: str):
    """Turns a library's errors about a folder into one CheckpointError, except out of memory."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # libraries raise anything here: OSError, SafetensorError, KeyError of a damaged config
        if is_out_of_memory(error):
            raise
        words = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{place} holds no {what} that can be loaded ({words}): pick another, or download it again."
        ) from error
