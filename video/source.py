"""The frames of a video file in order, in as many passes as needed."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from fractions import Fraction
from typing import NamedTuple, Protocol

import av
import torch

from .geometry import letterboxed
from .pixels import UPRIGHT, Pixels, Shown, deinterlaced, is_interlaced, orientation, other_colours, picture_orientation
from .readable import readable
from .sound import read_sound
from .streams import decode, picture_stream, pixel_aspect_of, rate_of, sound_streams, time_of


class Stamp(NamedTuple):
    """A frame's time in seconds, or None for a frame without; and its width and height as shown."""

    time: Fraction | None
    size: tuple[int, int]


class Source(Protocol):
    """What a clip is read from."""

    rate: Fraction
    """Frames per second, as the video states."""

    def stamps(self) -> Iterator[Stamp]:
        """Of every frame; converts none."""

    def images(self, indices: Iterable[int]) -> Iterator[torch.Tensor]:
        """[H, W, 3] in 0..1 of the frames at these indices, which grow."""

    def sound(self, start: Fraction | None, seconds: Fraction) -> dict | None:
        """ComfyUI's AUDIO from `start` on, which is the first frame's time; silence where there is no sound."""

    def pixel_aspect(self) -> Fraction:
        """Width of a pixel as shown, by its height; known once `stamps` has given a frame."""

    def notices(self) -> tuple[str, ...]:
        """Sentences on what is converted or left out; known once `stamps` has given the frames that are read."""


class FramesSource:
    """Frames in memory, [F, H, W, 3] in 0..1. They have no sound."""

    def __init__(self, images: torch.Tensor, rate: Fraction):
        self.rate = rate
        self._images = images

    def stamps(self) -> Iterator[Stamp]:
        height, width = self._images.shape[1:3]
        for index in range(len(self._images)):
            yield Stamp(index / self.rate, (width, height))

    def images(self, indices: Iterable[int]) -> Iterator[torch.Tensor]:
        return (self._images[index, ..., :3] for index in indices)

    def sound(self, start: Fraction | None, seconds: Fraction) -> dict | None:
        return None

    def pixel_aspect(self) -> Fraction:
        return Fraction(1)

    def notices(self) -> tuple[str, ...]:
        return ()


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
        self._interlaced, self._aspect = False, Fraction(1)
        self._notices: dict[str, str] = {}
        with readable(), self._opened() as container:
            stream = picture_stream(container)
            self.rate = rate_of(stream)
            self._picture = container.format.name == "image2" or container.format.name.endswith("_pipe")
            self._tell_of_streams(container)

    @property
    def path(self) -> str:
        """Of the file; "" for content in memory."""
        return self._path

    @property
    def start(self) -> float:
        """Seconds of the file before the part that counts."""
        return self._start

    def stamps(self) -> Iterator[Stamp]:
        """Of every frame; converts none."""
        first: Shown | None = None
        for shown in self._frames():
            if first is None:
                first, self._aspect = shown, shown.pixel_aspect
            elif shown.shape != first.shape:
                size = "{}×{}".format(*first.size)
                self._notices["size"] = (
                    f"The video's size or shape changes on the way: all frames are fitted into the first's, {size}."
                )
            if is_interlaced(shown.frame):
                self._interlaced = True
                self._notices["fields"] = "The video is interlaced: its frames are deinterlaced."
            if colours := other_colours(shown.frame):
                self._notices["colours"] = (
                    f"The video's colours are {colours}: they are converted to BT.709, standard dynamic range."
                )
            yield Stamp(time_of(shown.frame), shown.size)
        if first is None and self._picture:
            raise ValueError("An animated picture of this format (WebP, say) cannot be read: convert it to mp4 or GIF.")

    def images(self, indices: Iterable[int]) -> Iterator[torch.Tensor]:
        """[H, W, 3] in 0..1 of the frames at these indices, which grow. Converts only these."""
        indices = iter(indices)
        wanted = next(indices, None)
        convert, first, index = Pixels(), None, -1
        for index, shown in enumerate(deinterlaced(self._frames()) if self._interlaced else self._frames()):
            first = first or shown
            if index == wanted:
                with readable():
                    image = convert(shown)
                    if shown.shape != first.shape:
                        image = letterboxed(image, first.size, shown.pixel_aspect / first.pixel_aspect)
                yield image
                wanted = next(indices, None)
            if wanted is None:
                return
        if wanted is not None:
            raise ValueError(f"The video now ends after {index + 1} frames. {CHANGED}")

    def sound(self, start: Fraction | None, seconds: Fraction) -> dict | None:
        """ComfyUI's AUDIO from `start` on, which is the first frame's time; silence where there is no sound."""
        with readable(), self._opened() as container:
            streams = sound_streams(container)
            if not streams:
                return None
            if self._start > 0:
                container.seek(int(self._start * av.time_base))
            return read_sound(decode(container, streams[0]), start, seconds)

    def pixel_aspect(self) -> Fraction:
        """Width of a pixel as shown, by its height; known once `stamps` has given a frame."""
        return self._aspect

    def notices(self) -> tuple[str, ...]:
        """Sentences on what is converted or left out; known once `stamps` has given the frames that are read."""
        return tuple(self._notices.values())

    def _tell_of_streams(self, container):
        if len(streams := sound_streams(container)) > 1:
            track = container.streams.audio.index(streams[0]) + 1
            language = f" ({streams[0].language})" if streams[0].language not in (None, "und") else ""
            self._notices["tracks"] = f"The video has {len(streams)} sound tracks: track {track}{language} is used."

    def _frames(self) -> Iterator[Shown]:
        if self._stamp() != self._version:
            raise ValueError(f"The video's file is another than before. {CHANGED}")
        with closing(self._decoded()) as frames:
            for shown, counts in frames:
                self._each_frame()
                if counts:
                    yield shown

    def _decoded(self) -> Generator[tuple[Shown, bool], None, None]:
        """Each decoded frame, and whether it was asked for: frames on which the first such frame depends come before it."""
        matrix = UPRIGHT
        with readable(), self._opened() as container:
            stream = picture_stream(container)
            aspect = pixel_aspect_of(stream)
            if self._picture:
                matrix = picture_orientation(self._path if self._bytes is None else io.BytesIO(self._bytes))
            start, end = (int(seconds / stream.time_base) for seconds in (self._start, self._start + self._duration))
            if start:
                container.seek(start, stream=stream)
            for frame in decode(container, stream):
                if self._duration and frame.pts is not None and frame.pts >= end:
                    return
                # In H.264 and HEVC the frame that turns the picture may be the only one that says so.
                matrix = (None if self._picture else orientation(frame)) or matrix
                # Times may be below zero, and count where nothing is trimmed.
                yield Shown(frame, matrix, aspect()), not start or frame.pts is None or frame.pts >= start

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
