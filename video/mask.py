"""Masks from files: a picture, or a video with a mask for every frame."""

from __future__ import annotations

import os

import torch

from .clip import open_clip
from .source import FileSource

NOISE = 4
"""Levels of 255 by which compression may leave black and white: these count as black and white, so that nothing of the edit shows
where a video's mask is black."""


def read_mask(path: str | os.PathLike, frames: int) -> torch.Tensor:
    """[M, h, w], bytes: the mean of the colours of at most `frames` frames; white is where the edit shows.

    Raises ValueError for a file that cannot be read.
    """
    clip = open_clip(FileSource(path), frames, 0, sound=False)
    masks = torch.cat([(chunk.mean(-1) * 255).round().byte() for chunk in clip.chunks()])
    masks[masks <= NOISE] = 0
    masks[masks >= 255 - NOISE] = 255
    return masks
