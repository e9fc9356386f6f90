"""Which streams of a file are read, and the times of their packets where the file's clock jumps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.format import Flags
from av.stream import Disposition

logger = logging.getLogger(__name__)

STILL = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
"""Streams that hold a cover or thumbnails."""

PICTURE_CODECS = ("mjpeg", "png", "bmp", "tiff", "webp")
"""What covers are in containers that do not say so."""

JUMP = 10
"""Seconds from which a difference to the expected time is a jump of the clock, and no gap; as in ffmpeg's command."""

LONGEST_PAUSE = 600
"""Seconds between two frames, or blocks of sound, from which a time is taken for a fault of a damaged file."""

BACK = Fraction(1, 10)
"""Seconds from which a step back is a jump."""


def whole(rate: Fraction | int) -> Fraction:
    return Fraction(rate).limit_denominator(1001 * 1000)


def rate_of(stream: Any) -> Fraction:
    """Frames per second of a stream of pictures, 1 where it has none or one that is a fault of a damaged file."""
    rate = whole(stream.average_rate or 1)
    return rate if rate * LONGEST_PAUSE >= 1 else Fraction(1)


def picture_stream(container: InputContainer) -> Any:
    """The stream of moving pictures: the default one, else the largest; a cover only where there is nothing else.

    Raises ValueError where the file has none.
    """
    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    if not streams:
        raise ValueError("No video stream found")
    moving = [stream for stream in streams if not stream.disposition & STILL] or streams
    moving = [stream for stream in moving if stream.codec_context.name not in PICTURE_CODECS] or moving
    return max(moving, key=lambda stream: (bool(stream.disposition & Disposition.default), stream.width * stream.height))


def sound_streams(container: InputContainer) -> list[Any]:
    """The streams of sound that can be decoded: the default ones first, else in the file's order."""
    # Streams that ffmpeg cannot decode have no codec context.
    streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
    return sorted(streams, key=lambda stream: not stream.disposition & Disposition.default)


def pixel_aspect_of(stream: Any) -> Callable[[], Fraction]:
    """A function that gives the width of a stored pixel by its height, for the frames that are being decoded.

    The container's, where it states another than the codec; else the codec's, which may change on the way.
    """
    stated, coded = stream.sample_aspect_ratio, stream.codec_context.sample_aspect_ratio
    if stated and stated != coded:
        return lambda: Fraction(stated)
    return lambda: Fraction(stream.codec_context.sample_aspect_ratio or 1)


def decode(container: InputContainer, stream: Any) -> Iterator[Any]:
    """All frames of a stream except damaged ones, which core leaves out too. Their times go on where the clock jumps."""
    clock = _Clock(container)
    watched = [stream for stream in container.streams if stream.type in ("video", "audio")] if clock.jumps else [stream]
    for packet in container.demux(watched):
        clock.correct(packet)
        if packet.stream_index != stream.index:
            continue
        try:
            yield from packet.decode()
        except av.error.InvalidDataError as error:
            logger.info("A damaged part of the video is left out (%s)", error)


def time_of(frame: av.VideoFrame | av.AudioFrame) -> Fraction | None:
    """In seconds."""
    return None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base


class _Clock:
    """Shifts packets so that time goes on where a container's clock jumps: recordings were joined, or it was set anew.

    As ffmpeg's command does it, for the formats that allow it; all streams are shifted alike. Shorter gaps stay, and so does a
    gap in one stream alone, which ffmpeg's command closes.
    """

    def __init__(self, container):
        self.jumps = bool(container.format.flags & Flags.ts_discont.value)
        self._shift = Fraction(0)
        self._latest: dict[int, Fraction] = {}
        self._expected: dict[int, Fraction] = {}
        self._last: Fraction | None = None

    def correct(self, packet: av.Packet):
        if not self.jumps or packet.dts is None or packet.time_base is None:
            return
        stream, time = packet.stream_index, packet.dts * packet.time_base + self._shift
        expected = self._expected.get(stream, self._last)
        if expected is not None:
            back = stream in self._latest and time + BACK < self._latest[stream]
            if back or (abs(time - expected) > JUMP and not self._others_are_at(time, stream)):
                self._shift += expected - time
                time = expected
        self._latest[stream] = self._last = time
        self._expected[stream] = time + (packet.duration or 0) * packet.time_base
        ticks = round(self._shift / packet.time_base)
        packet.dts += ticks
        if packet.pts is not None:
            packet.pts += ticks

    def _others_are_at(self, time: Fraction, stream: int) -> bool:
        """Whether another stream has come to about this time: then this one has a gap, and the clock did not jump."""
        return any(abs(time - latest) <= JUMP for other, latest in self._latest.items() if other != stream)
