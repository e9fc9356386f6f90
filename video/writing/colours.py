"""RGB to the values that encoders take.

ffmpeg's own conversion shifts the mean of a channel by up to half a level, differently for each input format.
Here, values are rounded to the nearest, so that the mean stays, also over many generations.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from .formats import Pixels

RED, BLUE = 0.2126, 0.0722
GREEN = 1 - RED - BLUE
BT709 = torch.tensor(
    [
        [RED, GREEN, BLUE],
        [-RED / (2 - 2 * BLUE), -GREEN / (2 - 2 * BLUE), 0.5],
        [0.5, -GREEN / (2 - 2 * RED), -BLUE / (2 - 2 * RED)],
    ]
)
"""RGB in 0..1 to luma in 0..1 and two colour differences in -0.5..0.5."""


def encoded_frames(frames: torch.Tensor, pixels: Pixels) -> Iterator[bytes]:
    """[f, H, W, 3] in 0..1, values beyond saturate -> the bytes of each frame. H and W are multiples of `down` and `across`."""
    for frame in frames:
        frame = frame.cpu().float().clamp(0, 1)
        yield _bytes(frame * 255, 8) if pixels.is_rgb else _planes(frame, pixels)


def _planes(frame: torch.Tensor, pixels: Pixels) -> bytes:
    """Y, U and V one after the other, in the limited range. A colour is the mean of its pixels."""
    step = 2 ** (pixels.bits - 8)
    planes = frame.movedim(-1, 0).contiguous()
    cells = F.avg_pool2d(planes, (pixels.down, pixels.across))
    luma = (BT709[:1] * 219 * step) @ planes.flatten(1) + 16 * step
    colours = (BT709[1:] * 224 * step) @ cells.flatten(1) + 128 * step
    return _bytes(luma, pixels.bits) + _bytes(colours, pixels.bits)


def _bytes(values: torch.Tensor, bits: int) -> bytes:
    return values.round().numpy().astype(np.uint8 if bits == 8 else np.dtype("<u2")).tobytes()
