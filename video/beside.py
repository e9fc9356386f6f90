"""A video that shows the source beside the edit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from .composite import bicubic, resize
from .geometry import CropBox


def source_beside(
    frames: Iterable[torch.Tensor], originals: Iterable[torch.Tensor], crop: CropBox | None
) -> Iterator[torch.Tensor]:
    """Frames [h, w, 3] of an edit and their source's, [H, W, 3] -> [h, 2·w, 3]: the source on the left.

    crop: the part of the source that was edited, which is resized to the edit's size; None for an edit that was put back
    into its source's whole frame, whose last odd row and column it has not.
    """
    for edited, original in zip(frames, originals):
        height, width = edited.shape[:2]
        if crop is None:
            original = original[:height, :width]
        else:
            rows = bicubic(original.shape[0], crop.top, crop.height, height)
            columns = bicubic(original.shape[1], crop.left, crop.width, width)
            original = resize(original, rows, columns).clamp(0, 1)
        yield torch.cat([original, edited], dim=1)
