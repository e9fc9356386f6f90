"""Decoded frames as upright RGB pixels, whatever their format, orientation, colours and fields.

Pixels are those that ComfyUI's `get_components` gives, bit for bit: alpha is dropped and the colours under it stay, 10 bits
keep their precision. Different on purpose, where core's are wrong: mirrored recordings, HDR and wide gamut, interlaced
frames, and HD without colour tags.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import av
import numpy as np
import torch

from .filters import Chain

EIGHT_BIT_FORMATS = ("yuvj420p", "yuvj422p", "yuvj444p", "rgb24", "rgba", "pal8")
"""Pixel formats that core converts through 8 bits a channel; it converts all others to floats."""

# Codes of ITU-T H.273, which all containers and codecs share.
BT709, UNSPECIFIED = 1, 2

HDR = {16: "PQ", 18: "HLG"}
"""Transfer functions."""

WIDE_GAMUT = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
"""Primaries."""

HD = (1280, 577)
"""Width and height from which players take a video without tags for BT.709, not BT.601."""

SMALLEST_DEINTERLACED = 4
"""Pixels along a side; bwdif takes no smaller frame."""

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


def orientation(frame: av.VideoFrame) -> Matrix:
    """The display matrix of a video's frame, without the parts that move or scale."""
    try:
        found: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know some other side data of the frame
        return {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}.get(frame.rotation % 360, UPRIGHT)
    if found is None:
        return UPRIGHT
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


def deinterlaced(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """One frame for each: interlaced ones through ffmpeg's bwdif, which looks at their neighbours; others as they are."""
    waiting: list[av.VideoFrame] = []
    chain: _Filters | None = None
    for frame in frames:
        if chain is not None and chain.kind != _kind(frame):
            yield from _deinterlaced_only(chain.push(None), waiting)
            chain = None
        chain = chain or _Filters(frame, [("bwdif", "mode=send_frame:deint=interlaced")])
        waiting.append(frame)
        yield from _deinterlaced_only(chain.push(frame), waiting)
    if chain is not None:
        yield from _deinterlaced_only(chain.push(None), waiting)


def _deinterlaced_only(results: list[av.VideoFrame], waiting: list[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """The results for interlaced frames; progressive frames as they were. Removes them from `waiting`."""
    for result in results:
        original = waiting.pop(0)
        yield result if is_interlaced(original) else original


class Pixels:
    """Converts decoded frames to [H, W, 3] float in 0..1, upright, in BT.709's colours."""

    def __init__(self):
        self._padding: _Filters | None = None

    def __call__(self, frame: av.VideoFrame, matrix: Matrix) -> torch.Tensor:
        """matrix: the frame's orientation."""
        width, height, colours = frame.width, frame.height, other_colours(frame)
        eight_bit = frame.format.name in EIGHT_BIT_FORMATS and not colours
        if is_untagged_hd(frame):
            frame.colorspace = BT709
        right, below = -width % 32, -height % 32
        # Core pads so: ffmpeg's conversion to floats is not deterministic at other widths. It cannot pad a tiny picture.
        if not eight_bit and right:
            if right > width or below > height:
                eight_bit = not colours
            else:
                frame = self._padded(frame, width + right, height + below)
        if colours:
            # ffmpeg's colour management. Relative to white: HDR's reference white becomes white.
            frame = frame.reformat(format="gbrpf32le", dst_color_trc=BT709, dst_color_primaries=BT709)
        pixels = frame.to_ndarray(format="rgb24" if eight_bit else "gbrpf32le")[:height, :width]
        image = torch.from_numpy(np.ascontiguousarray(upright(pixels, matrix)))
        return image.float() / 255.0 if eight_bit else image

    def _padded(self, frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
        if self._padding is None or self._padding.kind != _kind(frame):
            edges = f"left=0:right={width - frame.width}:top=0:bottom={height - frame.height}:mode=smear"
            self._padding = _Filters(frame, [("pad", f"{width}:{height}:0:0"), ("fillborders", edges)])
        return self._padding.push(frame)[0]


def other_colours(frame: av.VideoFrame) -> str | None:
    """What the frame's colours are by its tags, where they must be converted to BT.709's: HDR, or a wide gamut."""
    return HDR.get(frame.color_trc) or WIDE_GAMUT.get(frame.color_primaries)


def is_untagged_hd(frame: av.VideoFrame) -> bool:
    """Whether ffmpeg would take the frame for BT.601 only because nothing says that it is BT.709."""
    unknown = frame.colorspace == UNSPECIFIED and not frame.format.is_rgb and len(frame.format.components) > 1
    return unknown and (frame.width >= HD[0] or frame.height >= HD[1])


def _kind(frame: av.VideoFrame) -> tuple:
    return frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range


class _Filters(Chain):
    """Filters for frames like `first`."""

    def __init__(self, first: av.VideoFrame, filters: list[tuple[str, str]]):
        self.kind = _kind(first)
        graph = av.filter.Graph()
        # A format's name is accepted too; av's type stub lacks it.
        name: Any = first.format.name
        source = graph.add_buffer(width=first.width, height=first.height, format=name, time_base=first.time_base)
        super().__init__(graph, [source, *(graph.add(*each) for each in filters), graph.add("buffersink")])
