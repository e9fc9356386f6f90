"""Parts of a model from folders in diffusers' layout."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch

from ..checkpoint.keys import CheckpointError
from ..errors import is_out_of_memory

NOT_OF_FILES = (ImportError, NotImplementedError)
"""What libraries raise where they lack something. Damaged files may cause any other error."""


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
    """Turns a library's errors about a folder into one CheckpointError, except out of memory.

    Raises RuntimeError where the libraries are at fault, not the files.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # libraries raise anything here: OSError, SafetensorError, KeyError of a damaged config
        if is_out_of_memory(error):
            raise
        raise library_fault(error, f"the {what} in {place}") or CheckpointError(
            f"{place} holds no {what} that can be loaded ({words_of(error)}): pick another, or download it again."
        ) from error


def library_fault(error: Exception, what: str) -> RuntimeError | None:
    """The sentence to raise where the libraries are to blame, not the files."""
    if not isinstance(error, NOT_OF_FILES):
        return None
    libraries = " and ".join(f"{name} {version(name)}" for name in ("diffusers", "transformers"))
    return RuntimeError(f"{libraries} cannot load {what} ({words_of(error)}): update them, or install what they lack.")


def words_of(error: Exception) -> str:
    """In one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
