"""The path of a video in the output folder. Errors say in one sentence why a path is not possible."""

from __future__ import annotations

import os

import folder_paths

from ..video.room import NAME_BYTES

FORBIDDEN = ':*?"<>|' if os.name == "nt" else ""
"""Characters not allowed in a name: with a colon, Windows writes to another stream of the file; it refuses the others."""


def check_prefix(prefix: str, root: str):
    """Raises ValueError for a prefix that leads out of the folder `root` or is no name."""
    if not prefix.isprintable() or any(char in prefix for char in FORBIDDEN):
        raise ValueError(f"filename_prefix {prefix[:80]!r} holds characters that no file name may have: choose another.")
    if not folder_paths.is_within_directory(root, os.path.join(root, os.path.dirname(os.path.normpath(prefix)))):
        raise ValueError(f"filename_prefix {prefix[:80]!r} leads out of the output folder: choose a name inside it.")


def output_path(prefix: str, width: int, height: int, suffix: str = ".mp4", root: str | None = None) -> tuple[str, str]:
    """(path of the next video by that prefix, its subfolder in the form that ComfyUI's page expects). Creates the subfolder.

    root: the output folder if None. A name that is too long is cut.
    Raises ValueError for a prefix that leads out of the output folder or is no name, OSError where no folder can be made.
    """
    root = root or folder_paths.get_output_directory()
    check_prefix(prefix, root)
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root, width, height)
    except OSError as error:
        told = f"filename_prefix {prefix[:80]!r} cannot be used in the output folder ({error.strerror}): choose another, or make it writable"
        raise OSError(error.errno, told) from None
    number = f"_{counter:05}_{suffix}"
    name = os.fsencode(name)[: NAME_BYTES - len(number)].decode(errors="ignore")
    return os.path.join(folder, f"{name}{number}"), subfolder
