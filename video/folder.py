"""A folder of frames as the source of a clip, read a few frames at a time as a video's file is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import torch

from .geometry import letterboxed
from .pictures import FOLDER_RATE, picture_size, pictures_in, read_picture
from .source import FileSource, Source, Stamp


def source_of(path: str | os.PathLike, fps: float = 0) -> Source:
    """Of a video's file, or a folder of its frames. fps: of a folder's, 0 for `FOLDER_RATE`.

    Raises ValueError for what is neither.
    """
    if os.path.isdir(path):
        return FolderSource(Path(path), Fraction(fps).limit_denominator(1000) if fps else FOLDER_RATE)
    return FileSource(path)


class FolderSource:
    """Pictures without sound, one after the other. A picture of another size than the first is fitted into it.

    All methods, and making one, raise ValueError for what cannot be read.
    """

    def __init__(self, folder: Path, rate: Fraction):
        self.rate = rate
        self._files = pictures_in(folder)
        self._size = picture_size(self._files[0])
        self._is_uneven = False

    def stamps(self) -> Iterator[Stamp]:
        for index, file in enumerate(self._files):
            size = picture_size(file)
            self._is_uneven |= size != self._size
            yield Stamp(index / self.rate, size)

    def images(self, indices: Iterable[int]) -> Iterator[torch.Tensor]:
        for index in indices:
            frame = read_picture(self._files[index]).float() / 255
            yield frame if frame.shape[1::-1] == self._size else letterboxed(frame, self._size)

    def sound(self, start: Fraction | None, seconds: Fraction) -> dict | None:
        return None

    def pixel_aspect(self) -> Fraction:
        return Fraction(1)

    def notices(self) -> tuple[str, ...]:
        size = "{}×{}".format(*self._size)
        return (f"The pictures' size changes on the way: all are fitted into the first's, {size}.",) if self._is_uneven else ()
