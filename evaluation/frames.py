"""Frames of an item's videos, read as the editor reads them and laid over each other pixel by pixel."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch

from ..optional import needed
from ..video.geometry import cropped_to
from ..video.pictures import FOLDER_RATE, PICTURES, pictures_in, read_picture
from . import EXTRA
from .items import Item

CROP, STRETCH = ALIGNMENTS = "crop", "stretch"
"""How source and edit of unlike size are compared: the source centre-cropped and resized as `liveditor edit` does it, or the edit
stretched to the source's size by PIL's bicubic, as FiVE-Bench's code does."""


class Video(NamedTuple):
    """frames: [T, H, W, 3] uint8. fps: 0 where a folder of pictures states none."""

    frames: torch.Tensor
    fps: float


def read_video(path: str, most: int = 0) -> Video:
    """most: at most so many frames, 0 for all. Raises ValueError for what cannot be read."""
    if os.path.isdir(path):
        files = pictures_in(Path(path))
        frames = [read_picture(file) for file in files[: most or None]]
        if other := next((file for file, frame in zip(files, frames) if frame.shape != frames[0].shape), None):
            raise ValueError(f"{other} has another size than {files[0].name}: frames of one video are of one size.")
        return Video(torch.stack(frames), 0.0)
    needed("av", "av", EXTRA)
    from ..video.clip import open_clip
    from ..video.source import FileSource

    if not os.path.isfile(path):
        raise ValueError(f"There is no video {path}: check the name.")
    clip = open_clip(FileSource(path), most, 0, sound=False)
    return Video(torch.cat([to_bytes(chunk) for chunk in clip.chunks()]), float(clip.fps))


def to_bytes(frames: torch.Tensor) -> torch.Tensor:
    """0..1 -> uint8, rounded."""
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8)


def to_unit(frames: torch.Tensor) -> torch.Tensor:
    """[T, H, W, 3] uint8 -> [T, 3, H, W] in 0..1."""
    return frames.movedim(-1, 1).float() / 255


class Inputs:
    """The videos of an item and its edit, each read once, when a metric asks for it.

    alignment: one of ALIGNMENTS. mask_above: a mask's values, 0..1, above this are the edited region.

    Source and reference have the edit's frames and, with CROP, its size. Where the edit is shorter they are cut to its length.
    Raises ValueError, on access, for a file that cannot be read, and for an edit that is longer than its source.
    """

    def __init__(self, item: Item, edit: str, alignment: str = CROP, mask_above: float = 0.5):
        self.item, self.edit_path = item, edit
        self.alignment, self.mask_above = alignment, mask_above

    @cached_property
    def edit(self) -> torch.Tensor:
        """[T, H, W, 3] uint8, at the size at which it is compared."""
        frames = self.edit_as_made.frames
        return frames if self.alignment == CROP else _stretched(frames, self._source.frames.shape[1:3])

    @cached_property
    def edit_as_made(self) -> Video:
        return read_video(self.edit_path)

    @cached_property
    def source(self) -> torch.Tensor:
        """[T, H, W, 3] uint8."""
        return self._aligned(self._source.frames)

    @cached_property
    def _source(self) -> Video:
        return self._as_long(self.item.source, "source")

    @cached_property
    def reference(self) -> torch.Tensor:
        """[T, H, W, 3] uint8."""
        assert self.item.reference
        return self._aligned(self._as_long(self.item.reference, "reference").frames)

    @cached_property
    def mask(self) -> torch.Tensor:
        """[T, H, W] bool: the region that should be edited. A single picture holds for all frames."""
        assert self.item.mask
        if Path(self.item.mask).suffix.lower() in PICTURES:
            frames = read_picture(Path(self.item.mask))[None].expand(len(self.edit), -1, -1, -1)
        else:
            frames = self._as_long(self.item.mask, "mask").frames
        return self._aligned(frames).float().mean(-1) / 255 > self.mask_above

    @property
    def fps(self) -> float:
        return self.edit_as_made.fps or self._source.fps or float(self.item.facts.get("fps") or FOLDER_RATE)

    def _as_long(self, path: str, role: str) -> Video:
        count = len(self.edit_as_made.frames)
        video = read_video(path, count)
        if len(video.frames) < count:
            raise ValueError(
                f"The edit has {count} frames, its {role} {len(video.frames)}: frames that have no counterpart cannot be compared."
            )
        return video

    def _aligned(self, frames: torch.Tensor) -> torch.Tensor:
        height, width = self.edit.shape[1:3]
        if frames.shape[1:3] == (height, width):
            return frames
        if self.alignment == STRETCH:
            return _stretched(frames, (height, width))
        return torch.cat([to_bytes(cropped_to(part.float() / 255, width, height)[0]) for part in frames.split(16)])


def _stretched(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """By PIL's bicubic filter, frame by frame; size: height and width."""
    import numpy as np
    from PIL import Image

    if tuple(frames.shape[1:3]) == tuple(size):
        return frames
    images = [Image.fromarray(frame.numpy()).resize((size[1], size[0]), Image.Resampling.BICUBIC) for frame in frames]
    return torch.stack([torch.from_numpy(np.array(image)) for image in images])
