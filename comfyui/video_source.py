"""ComfyUI's VIDEO objects as sources of a clip, read frame by frame; core reads all frames at once."""

from __future__ import annotations

import io
from fractions import Fraction

from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import InputImpl

from ..video.clip import Clip, open_clip
from ..video.readable import readable
from ..video.sound import cut_audio
from ..video.source import FileSource, FramesSource, Source
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


class ImagesSource(FramesSource):
    """A VIDEO whose images are in memory."""

    def __init__(self, video):
        with readable():
            components = video.get_components()
        super().__init__(components.images, whole(components.frame_rate))
        self._audio = components.audio

    def sound(self, start: Fraction | None, seconds: Fraction) -> dict | None:
        if self._audio is None:
            return None
        skipped = round((start or 0) * self._audio["sample_rate"])
        return cut_audio({**self._audio, "waveform": self._audio["waveform"][..., skipped:]}, seconds)
