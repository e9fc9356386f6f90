"""Writing an mp4, H.264 and AAC, which every player takes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from .writing.encode import write_video
from .writing.formats import H264
from .writing.names import ABANDONED_SECONDS

__all__ = ["ABANDONED_SECONDS", "write_mp4"]


def write_mp4(
    path: str | os.PathLike,
    chunks: Iterable[torch.Tensor],
    fps: Fraction,
    crf: int = 18,
    **options: Any,
) -> Path:
    """`write_video` for the usual format; options: its others."""
    return write_video(path, chunks, fps, H264, crf, **options)
