"""Decoded frames as upright RGB pixels, whatever their format, orientation, colours and fields.

ffmpeg's filters convert with exact rounding. Alpha is dropped and the colours under it stay, 10 bits keep their precision.
Frames from ComfyUI's `get_components` differ: its conversion is less exact, and it ignores mirrored recordings, HDR and wide
gamut, interlaced frames, and HD without colour tags.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
import torch

from .filters import Chain

EXACT = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
"""Flags of ffmpeg's scaler. Without them it rounds down and interpolates colours less exactly."""

# Codes of ITU-T H.273, which all containers and codecs share.
BT709, UNSPECIFIED = 1, 2

FULL_RANGE = 2
"""ffmpeg's code for samples from 0 to the largest value."""

HDR = {16: "PQ", 18: "HLG"}
"""Transfer functions."""

WIDE_GAMUT = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
"""Primaries."""

HD = (1280, 577)
"""Width and height from which players take a video without tags for BT.709, not BT.601."""

SMALLEST_DEINTERLACED = 8
"""Pixels along a side; bwdif takes no smaller frame where colours have half the detail."""

NOT_CONVERTED = {
    8: "YCgCo", 10: "BT.2020 with constant luminance", 12: "a matrix derived from the primaries",
    13: "a matrix derived from the primaries with constant luminance",
    14: "ICtCp",
}  # fmt: skip
"""Matrices that ffmpeg does not convert."""

Matrix = tuple[int, int, int, int]
"""x' = a·x + c·y, y' = b·x + d·y in 1/65536, as (a, b, c, d)."""

UPRIGHT: Matrix = (1, 0, 0, 1)

EXIF_ORIENTATION = 0x0112


EXIF: dict[int, Matrix] = {
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
"""By the values of EXIF's tag Orientation."""


class Shown(NamedTuple):
    """A decoded frame, and how players show it."""

    frame: av.VideoFrame
    matrix: Matrix
    """Its orientation."""
    aspect: Fraction
    """Width of a stored pixel by its height."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as shown."""
        width, height = self.frame.width, self.frame.height
        return (height, width) if is_turned(self.matrix) else (width, height)

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a shown pixel by its height."""
        return 1 / self.aspect if is_turned(self.matrix) else self.aspect

    @property
    def shape(self) -> tuple:
        """What must be the same for two frames to need no fitting."""
        return self.size, self.pixel_aspect


def orientation(frame: av.VideoFrame) -> Matrix | None:
    """The display matrix of a video's frame, without the parts that move or scale; None where it has none."""
    try:
        found: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know some other side data of the frame
        return {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}.get(frame.rotation % 360)
    if found is None:
        return None
    a, b, _, c, d, *_ = struct.unpack("<9i", bytes(found)[:36])
    return (a, b, c, d) if a * d - b * c else UPRIGHT


def picture_orientation(file: str | io.BytesIO) -> Matrix:
    """Of a picture file, by its EXIF data, which ffmpeg does not apply to all formats."""
    try:
        from PIL import Image

        with Image.open(file) as picture:
            return EXIF.get(picture.getexif().get(EXIF_ORIENTATION, 1), UPRIGHT)
    except Exception:  # no Pillow, a format that it does not know, or damaged EXIF data: as it is stored
        return UPRIGHT


def is_turned(matrix: Matrix) -> bool:
    """Whether width and height change places."""
    a, b, c, d = matrix
    return abs(b) + abs(c) > abs(a) + abs(d)


def upright(pixels: np.ndarray, matrix: Matrix) -> np.ndarray:
    """[H, W, 3] as players show it: mirrored and turned by the nearest quarter turn."""
    a, b, c, d = matrix
    turned = is_turned(matrix)
    pixels = pixels.swapaxes(0, 1) if turned else pixels
    return pixels[:: -1 if (b if turned else d) < 0 else 1, :: -1 if (c if turned else a) < 0 else 1]


def is_interlaced(frame: av.VideoFrame) -> bool:
    return frame.interlaced_frame and min(frame.width, frame.height) >= SMALLEST_DEINTERLACED


def deinterlaced(frames: Iterable[Shown]) -> Iterator[Shown]:
    """One frame for each: interlaced ones through ffmpeg's bwdif, which looks at their neighbours; others as they are."""
    waiting: list[Shown] = []
    chain: _Filters | None = None
    for shown in frames:
        if chain is not None and chain.kind != _kind(shown.frame):
            yield from _deinterlaced_only(chain.push(None), waiting)
            chain = None
        chain = chain or _Filters(shown.frame, [("bwdif", "mode=send_frame:deint=interlaced")])
        waiting.append(shown)
        yield from _deinterlaced_only(chain.push(shown.frame), waiting)
    if chain is not None:
        yield from _deinterlaced_only(chain.push(None), waiting)


def _deinterlaced_only(results: list[av.VideoFrame], waiting: list[Shown]) -> Iterator[Shown]:
    """The results for interlaced frames; progressive frames as they were. Removes them from `waiting`."""
    for result in results:
        original = waiting.pop(0)
        yield original._replace(frame=result) if is_interlaced(original.frame) else original


class Pixels:
    """Converts decoded frames to [H, W, 3] float in 0..1, upright, in BT.709's colours."""

    def __init__(self):
        self._scaler: _Filters | None = None

    def __call__(self, shown: Shown) -> torch.Tensor:
        frame = shown.frame
        if frame.colorspace in NOT_CONVERTED:
            raise ValueError(f"its colours are in {NOT_CONVERTED[frame.colorspace]}, which ffmpeg does not convert")
        if is_untagged_hd(frame):
            frame.colorspace = BT709
        if self._scaler is None or self._scaler.kind != _kind(frame):
            # ffmpeg's colour management. Relative to white: HDR's reference white becomes white.
            to_bt709 = ":out_primaries=bt709:out_transfer=bt709" if other_colours(frame) else ""
            # ffmpeg converts few bits and palettes exactly to 8 bits alone.
            few = [("format", "rgb24")] if _has_few_bits(frame) else []
            self._scaler = _Filters(frame, [*few, ("scale", f"flags={EXACT}{to_bt709}"), ("format", "gbrpf32le")])
        pixels = self._scaler.push(frame)[0].to_ndarray()
        return torch.from_numpy(np.ascontiguousarray(upright(pixels, shown.matrix))).div_(white(frame)).clamp_(0, 1)


def _has_few_bits(frame: av.VideoFrame) -> bool:
    """RGB with less than 8 bits a channel, or a palette."""
    return frame.format.has_palette or (frame.format.is_rgb and max(c.bits for c in frame.format.components) < 8)


def white(frame: av.VideoFrame) -> float:
    """What ffmpeg makes of white, which should be 1: it extends samples to 16 bits by zeros, 255 to 65,280 of 65,535."""
    components = frame.format.components
    is_yuv = not frame.format.is_rgb and len(components) > 2
    limited = is_yuv and frame.color_range != FULL_RANGE and not frame.format.name.startswith("yuvj")
    # Limited range is stretched to that of 8 bits, whatever its own.
    bits = 8 if limited or _has_few_bits(frame) else max(component.bits for component in components)
    return (2**bits - 1) * 2 ** (16 - bits) / 65_535 if bits <= 16 else 1.0


def other_colours(frame: av.VideoFrame) -> str | None:
    """What the frame's colours are by its tags, where they must be converted to BT.709's: HDR, or a wide gamut."""
    return HDR.get(frame.color_trc) or WIDE_GAMUT.get(frame.color_primaries)


def is_untagged_hd(frame: av.VideoFrame) -> bool:
    """Whether ffmpeg would take the frame for BT.601 only because nothing says that it is BT.709."""
    unknown = frame.colorspace == UNSPECIFIED and not frame.format.is_rgb and len(frame.format.components) > 1
    return unknown and (frame.width >= HD[0] or frame.height >= HD[1])


def _kind(frame: av.VideoFrame) -> tuple:
    colours = frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc
    return frame.format.name, frame.width, frame.height, *colours


class _Filters(Chain):
    """Filters for frames like `first`."""

    def __init__(self, first: av.VideoFrame, filters: list[tuple[str, str]]):
        self.kind = _kind(first)
        graph = av.filter.Graph()
        # A format's name is accepted too; av's type stub lacks it.
        name: Any = first.format.name
        source = graph.add_buffer(width=first.width, height=first.height, format=name, time_base=first.time_base)
        super().__init__(graph, [source, *(graph.add(*each) for each in filters), graph.add("buffersink")])
