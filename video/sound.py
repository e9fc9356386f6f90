"""The sound of a video: any layout and rate, each block at its own time."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch

from .streams import time_of

NOTICED = "0.02"
"""Seconds from which a gap is filled with silence, and an overlap is cut. Shorter ones are the rounding of time stamps."""


def read_sound(frames: Iterable[av.AudioFrame], start: Fraction | None, seconds: Fraction) -> dict | None:
    """ComfyUI's AUDIO from `start` (None: the first block's time) on, no longer than `seconds`; None without any block.

    Silence stands where sound is missing. Rate and layout are the first block's; later blocks are converted to them.
    The dictionary also holds the layout's name, as "layout".
    """
    timeline: _Timeline | None = None
    for frame in frames:
        time = time_of(frame)
        if start is None:
            start = time
        if start is not None and time is not None and time >= start + seconds:
            break
        if frame.samples:
            timeline = timeline or _Timeline(frame, start)
            timeline.add(frame)
    if timeline is None:
        return None
    sound = {"waveform": timeline.samples(), "sample_rate": timeline.rate, "layout": timeline.layout}
    return cut_audio(sound, seconds)


def cut_audio(audio: dict | None, seconds: Fraction) -> dict | None:
    """ComfyUI's AUDIO, or None, no longer than this."""
    if audio is None:
        return None
    samples = round(audio["sample_rate"] * seconds)
    return {**audio, "waveform": audio["waveform"][..., :samples]}


class _Timeline:
    """Collects blocks at a constant rate and layout through ffmpeg's `aresample`, which fills gaps and cuts overlaps."""

    def __init__(self, first: av.AudioFrame, start: Fraction | None):
        self.rate, self.layout = first.sample_rate, first.layout.name
        self._begin = round((start or Fraction(0)) * self.rate)
        self._parts: list[np.ndarray] = []
        self._length = 0
        self._format: tuple | None = None
        self._graph: av.filter.Graph | None = None

    def add(self, frame: av.AudioFrame):
        kind = (frame.format.name, frame.layout.name, frame.sample_rate, frame.time_base)
        if kind != self._format:
            self._pull(end=True)
            self._format, self._graph = kind, self._graph_for(frame)
        assert self._graph is not None
        self._graph.push(frame)
        self._pull()

    def samples(self) -> torch.Tensor:
        """[1, channels, samples]."""
        self._pull(end=True)
        return torch.from_numpy(np.ascontiguousarray(np.concatenate(self._parts).T))[None]

    def _graph_for(self, frame: av.AudioFrame) -> av.filter.Graph:
        """It goes on where the one before ended."""
        graph = av.filter.Graph()
        layout = frame.layout.name
        source = {"sample_rate": frame.sample_rate, "sample_fmt": frame.format.name, "channel_layout": layout}
        at = {"async": 1, "min_hard_comp": NOTICED, "first_pts": self._begin + self._length, "osr": self.rate}
        # Packed: PyAV crashes where it gives eight planes or more to NumPy.
        result = {"sample_fmts": "flt", "channel_layouts": self.layout, "sample_rates": self.rate}
        chain: list[Any] = [
            graph.add("abuffer", **_texts(source), time_base=str(frame.time_base or Fraction(1, frame.sample_rate))),
            graph.add("aresample", **_texts(at)),
            graph.add("aformat", **_texts(result)),
            graph.add("abuffersink"),
        ]
        for before, after in zip(chain, chain[1:]):
            before.link_to(after)
        graph.configure()
        return graph

    def _pull(self, end: bool = False):
        if self._graph is None:
            return
        if end:
            self._graph.push(None)
        while True:
            try:
                block = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(block, av.AudioFrame)
            self._parts.append(block.to_ndarray().reshape(block.samples, -1))
            self._length += block.samples


def _texts(options: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in options.items()}
