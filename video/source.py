"""The frames of a video file in order, in as many passes as needed.

Pixels are those that ComfyUI's `get_components` gives all at once, bit for bit: alpha is dropped and the colours under it
stay, 10 bits keep their precision, HDR is not tone-mapped.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from typing import Any, Protocol

import av
import numpy as np
import torch

from ..errors import is_out_of_memory

EIGHT_BIT_FORMATS = ("yuvj420p", "yuvj422p", "yuvj444p", "rgb24", "rgba", "pal8")
"""Pixel formats that core converts through 8 bits a channel; it converts all others to floats."""


class Source(Protocol):
    """What a clip is read from."""

    rate: Fraction
    """Frames per second, as the video states."""

    def stamps(self) -> Iterator[tuple[Fraction | None, tuple[int, int]]]:
        """Time in seconds, or None for a frame without, and shown width and height of every frame."""

    def images(self, indices: Iterable[int]) -> Iterator[torch.Tensor]:
        """[H, W, 3] in 0..1 of the frames at these indices, which grow."""

    def sound(self, start: Fraction | None, seconds: Fraction) -> dict | None:
        """ComfyUI's AUDIO from `start` on, which is the first frame's time; silence where the sound begins later."""


class FileSource:
    """A video in a file, or its content in memory, opened anew by every method.

    start, duration: the part of it that counts, in seconds; a duration of 0 goes to the end.
    each_frame: called for every frame that is decoded; what it raises ends the reading and comes out as it is.
    All methods, and making one, raise ValueError for what cannot be read.
    """

    def __init__(
        self,
        file: str | os.PathLike | bytes,
        start: float = 0,
        duration: float = 0,
        each_frame: Callable[[], object] = lambda: None,
    ):
        # Each pass opens the bytes anew, because two passes may run at the same time.
        self._bytes = file if isinstance(file, bytes) else None
        self._path = "" if isinstance(file, bytes) else _plain(file)
        self._start, self._duration, self._each_frame = start, duration, each_frame
        self._version = self._stamp()
        with readable(), self._opened() as container:
            self.rate = whole(_pictures(container).average_rate or 1)

    def stamps(self) -> Iterator[tuple[Fraction | None, tuple[int, int]]]:
        """Time in seconds, or None for a frame without, and shown width and height of every frame; converts none."""
        for frame in self._frames():
            turned = _quarter_turns(frame) % 2
            yield _time(frame), (frame.height, frame.width) if turned else (frame.width, frame.height)

    def images(self, indices: Iterable[int]) -> Iterator[torch.Tensor]:
        """[H, W, 3] in 0..1 of the frames at these indices, which grow. Converts only these."""
        indices = iter(indices)
        wanted = next(indices, None)
        convert = None
        for index, frame in enumerate(self._frames()):
            with readable():
                convert = convert or _Converter(frame)
                image = convert(frame) if index == wanted else None
            if image is not None:
                yield image
                wanted = next(indices, None)
            if wanted is None:
                return
        if wanted is not None:
            raise ValueError(f"The video now ends after {index + 1} frames. {CHANGED}")

    def sound(self, start: Fraction | None, seconds: Fraction) -> dict | None:
        """ComfyUI's AUDIO from `start` on, which is the first frame's time; silence where the sound begins later."""
        with readable(), self._opened() as container:
            # Streams that ffmpeg cannot decode have no codec context. Core takes the last of the decodable ones.
            decodable = (track for track in reversed(container.streams.audio) if track.codec_context is not None)
            stream = next(decodable, None)
            if stream is None:
                return None
            if self._start > 0:
                container.seek(int(self._start * av.time_base))
            parts: list[np.ndarray] = []
            begins, rate = None, 0
            resampler = av.AudioResampler(format="fltp")
            for frame in _decode(container, stream):
                time = _time(frame)
                if not parts:
                    begins, rate = time, frame.sample_rate
                if start is not None and time is not None and time >= start + seconds:
                    break
                parts += [part.to_ndarray() for part in resampler.resample(frame)]
        if not parts:
            return None
        waveform = torch.from_numpy(np.concatenate(parts, axis=1))[None]
        late = 0 if start is None or begins is None else round((begins - start) * rate)
        silence = waveform.new_zeros(*waveform.shape[:2], min(max(0, late), round(seconds * rate)))
        return cut_audio({"waveform": torch.cat([silence, waveform[..., max(0, -late) :]], -1), "sample_rate": rate}, seconds)

    def _frames(self) -> Iterator[av.VideoFrame]:
        if self._stamp() != self._version:
            raise ValueError(f"The video's file is another than before. {CHANGED}")
        with closing(self._decoded()) as frames:
            for frame, counts in frames:
                self._each_frame()
                if counts:
                    yield frame

    def _decoded(self) -> Generator[tuple[av.VideoFrame, bool], None, None]:
        """Each decoded frame, and whether it was asked for: frames on which the first such frame depends come before it."""
        with readable(), self._opened() as container:
            stream = _pictures(container)
            start, end = (int(seconds / stream.time_base) for seconds in (self._start, self._start + self._duration))
            if start:
                container.seek(start, stream=stream)
            for frame in _decode(container, stream):
                if self._duration and frame.pts is not None and frame.pts >= end:
                    return
                yield frame, frame.pts is None or frame.pts >= start

    def _opened(self):
        return av.open(self._path if self._bytes is None else io.BytesIO(self._bytes))

    def _stamp(self) -> tuple[int, int] | None:
        """Identifies a file, so that a replacement is noticed. None for a missing file and for bytes."""
        if self._bytes is not None:
            return None
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size


def _plain(file: str | os.PathLike) -> str:
    """An absolute path: in a relative name such as "talk: part 1.mp4", ffmpeg reads "talk:" as a protocol."""
    return os.path.abspath(file) if os.path.exists(file) else os.fspath(file)


CHANGED = "It was changed, moved or deleted during the run: put it back and run again."


def whole(rate: Fraction | int) -> Fraction:
    return Fraction(rate).limit_denominator(1001 * 1000)


def _pictures(container):
    if not container.streams.video:
        raise ValueError("No video stream found")
    return container.streams.video[0]


def _decode(container, stream):
    """All frames of a stream except damaged ones, which core leaves out too."""
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError as error:
            logging.info("A damaged part of the video is left out (%s)", error)


def _time(frame: av.VideoFrame | av.AudioFrame) -> Fraction | None:
    """In seconds."""
    return None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base


def _quarter_turns(frame) -> int:
    """Counterclockwise."""
    return frame.rotation // 90


class _Converter:
    """Core's conversion of decoded frames, all like `first`, to [H, W, 3] float in 0..1."""

    def __init__(self, first: av.VideoFrame):
        self._eight_bit = first.format.name in EIGHT_BIT_FORMATS
        self._padding = None
        right, below = (-side % 32 for side in (first.width, first.height))
        # Core pads so: ffmpeg's conversion to floats is not deterministic at other widths. It cannot pad a tiny picture.
        if not self._eight_bit and right and (right > first.width or below > first.height):
            self._eight_bit = True
        elif not self._eight_bit and right:
            graph = av.filter.Graph()
            # A format's name is accepted too; av's type stub lacks it.
            name: Any = first.format.name
            source = graph.add_buffer(width=first.width, height=first.height, format=name, time_base=first.time_base)
            edges = f"left=0:right={right}:top=0:bottom={below}:mode=smear"
            steps = [
                graph.add("pad", f"{first.width + right}:{first.height + below}:0:0"),
                graph.add("fillborders", edges),
                graph.add("buffersink"),
            ]
            for before, after in zip([source, *steps], steps):
                before.link_to(after)
            graph.configure()
            self._padding = graph, source, steps[-1]

    def __call__(self, frame: av.VideoFrame) -> torch.Tensor:
        if self._padding:
            _, source, sink = self._padding
            source.push(frame)
            padded = sink.pull()
            assert isinstance(padded, av.VideoFrame)
            pixels = padded.to_ndarray(format="gbrpf32le")[: frame.height, : frame.width]
        else:
            pixels = frame.to_ndarray(format="rgb24" if self._eight_bit else "gbrpf32le")
        image = torch.from_numpy(np.ascontiguousarray(np.rot90(pixels, _quarter_turns(frame))))
        return image.float() / 255.0 if self._eight_bit else image


@contextmanager
def readable() -> Iterator[None]:
    """Turns every error of reading into one ValueError, except out of memory, which keeps the library's exception."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"The video cannot be read ({error}). Convert it to an mp4 with H.264 and load that.") from error


def cut_audio(audio: dict | None, seconds: Fraction) -> dict | None:
    """ComfyUI's AUDIO, or None, no longer than this."""
    if audio is None:
        return None
    samples = round(audio["sample_rate"] * seconds)
    return {**audio, "waveform": audio["waveform"][..., :samples]}
