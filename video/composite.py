"""Putting an edit back into its source's frames, through the crop that the model saw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .geometry import CropBox
from .region import Region, extent

CUBIC = -0.5
"""Parameter of the bicubic kernel, as in torch's antialiased resize."""


def put_back(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], region: Region, crop: CropBox) -> Iterator[torch.Tensor]:
    """Pairs of the edit's frame, [h, w, 3], and its source's, [H, W, 3], all in 0..1 -> frames [H, W, 3].

    Where the region shows nothing of the edit, pixels are the source's, bit for bit; where it shows all, the resized edit's.
    An odd row or column at the end of the source's frame is dropped: H.264 needs even sizes.
    """
    samples: tuple[Samples, Samples] | None = None
    for index, (edited, original) in enumerate(pairs):
        if samples is None:
            rows = _over_the_frame(edited.shape[0], crop.top, crop.height, original.shape[0])
            columns = _over_the_frame(edited.shape[1], crop.left, crop.width, original.shape[1])
            samples = rows, columns
        yield _even(blend(original, edited, region.weights(index)[0], *samples))


def blend(source: torch.Tensor, edit: torch.Tensor, weight: torch.Tensor, rows: Samples, columns: Samples) -> torch.Tensor:
    """[H, W, 3], [h, w, 3] and the edit's weight [H, W] -> [H, W, 3]; rows, columns: H and W samples of the edit."""
    down, across = extent(weight)
    if down.stop == 0:
        return source
    result, part, weight = source.clone(), source[down, across], weight[down, across, None]
    edited = resize(edit, rows.part(down), columns.part(across)).clamp(0, 1)
    result[down, across] = torch.where(weight > 0, torch.lerp(part, edited, weight), part)
    return result


class Samples(NamedTuple):
    """Sampling positions along one axis, each a weighted sum of pixels."""

    pixels: torch.Tensor
    """[count, taps] int64."""
    weights: torch.Tensor
    """[count, taps]; the weights of each sample sum to 1."""

    def part(self, which: slice) -> Samples:
        return Samples(self.pixels[which], self.weights[which])


def bicubic(size: int, start: float, length: float, count: int) -> Samples:
    """`count` samples over start to start + length of an axis of `size` pixels, antialiased where they are fewer than pixels.

    start and length are in pixels and need not be whole; beyond the axis's ends its last pixel goes on.
    """
    step = length / count
    reach = max(1.0, step)
    centres = start + (torch.arange(count, dtype=torch.float64)[:, None] + 0.5) * step - 0.5
    taps = math.ceil(2 * reach)
    pixels = centres.floor() + torch.arange(1 - taps, taps + 1)
    weights = _cubic((pixels - centres) / reach)
    return Samples(pixels.long().clamp(0, size - 1), (weights / weights.sum(1, keepdim=True)).float())


def resize(frame: torch.Tensor, rows: Samples, columns: Samples) -> torch.Tensor:
    """[h, w, C] -> [H, W, C], at H rows and W columns."""
    wide = _sampled(frame.movedim(1, 0), columns).movedim(1, 0)
    return _sampled(wide, rows)


def _sampled(frame: torch.Tensor, samples: Samples) -> torch.Tensor:
    """[n, m, C] -> [count, m, C]."""
    pixels, weights = samples
    return F.embedding_bag(pixels, frame.flatten(1), per_sample_weights=weights, mode="sum").view(-1, *frame.shape[1:])


def _cubic(x: torch.Tensor) -> torch.Tensor:
    x = x.abs()
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = CUBIC * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def _over_the_frame(size: int, start: float, length: float, count: int) -> Samples:
    """A frame's `count` pixels along one axis, in an edit of `size` pixels that covers start to start + length of them."""
    scale = size / length
    return bicubic(size, -start * scale, count * scale, count)


def _even(frame: torch.Tensor) -> torch.Tensor:
    height, width = frame.shape[:2]
    return frame[: height - height % 2, : width - width % 2]
