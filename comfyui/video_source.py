"""ComfyUI's VIDEO objects as sources of a clip, read frame by frame; core reads all frames at once."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import InputImpl

from ..video.clip import Clip, open_clip
from ..video.readable import readable
from ..video.sound import cut_audio
from ..video.source import FileSource, Source, Stamp
from ..video.streams import whole


def open_video(video, max_frames: int, fps: float, start_frame: int = 0, every_nth: int = 1) -> Clip:
    """`open_clip` of a VIDEO of any kind; reading it can be interrupted on ComfyUI's page."""
    return open_clip(source_of(video), max_frames, fps, start_frame, every_nth)


def source_of(video) -> Source:
    """For a VIDEO of any kind; a VIDEO that is not core's file object is read at once, and its frames are kept."""
    if type(video) is not InputImpl.VideoFromFile:
        return ImagesSource(video)
    file = video.get_stream_source()
    with readable():
        start, duration = video.get_active_trim_window()
    file = file.getvalue() if isinstance(file, io.BytesIO) else file
    return FileSource(file, start, duration, each_frame=throw_exception_if_processing_interrupted)


class ImagesSource:
    """A VIDEO whose images are in memory."""

    def __init__(self, video):
        with readable():
            components = video.get_components()
        self.rate = whole(components.frame_rate)
        self._images, self._audio = components.images, components.audio

    def stamps(self) -> Iterator[Stamp]:
        height, width = self._images.shape[1:3]
        for index in range(len(self._images)):
            yield Stamp(index / self.rate, (width, height))

    def images(self, indices: Iterable[int]) -> Iterator[torch.Tensor]:
        return (self._images[index, ..., :3] for index in indices)

    def sound(self, start: Fraction | None, seconds: Fraction) -> dict | None:
        if self._audio is None:
            return None
        skipped = round((start or 0) * self._audio["sample_rate"])
        return cut_audio({**self._audio, "waveform": self._audio["waveform"][..., skipped:]}, seconds)

    def pixel_aspect(self) -> Fraction:
        return Fraction(1)

    def notices(self) -> tuple[str, ...]:
        return ()
