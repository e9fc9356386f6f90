"""A video as a folder of its frames: pictures in the order of their names. Needs no decoder of videos."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

FOLDER_RATE = Fraction(16)
"""Frames per second of a folder, which states none: Wan's own."""


def pictures_in(folder: Path) -> list[Path]:
    """The frames' files. Raises ValueError where there is none."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES)
    if not files:
        raise ValueError(
            f"The folder {folder} holds no picture: a video's frames are .png or .jpg files, named in their order."
        )
    return files


def read_picture(file: Path) -> torch.Tensor:
    """[H, W, 3] uint8. Raises ValueError for what cannot be read."""
    import numpy as np

    with _opened(file) as image:
        return torch.from_numpy(np.array(image.convert("RGB")))


def picture_size(file: Path) -> tuple[int, int]:
    """Width and height, by the file's head. Raises ValueError for what cannot be read."""
    with _opened(file) as image:
        return image.size


@contextmanager
def _opened(file: Path) -> Iterator[Image]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            yield image
    except (OSError, ValueError) as error:
        raise ValueError(f"The picture {file} cannot be read ({error}): save it again as PNG.") from None
