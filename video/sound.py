"""The sound of a video: any layout and rate, each block at its own time."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch

from .filters import Chain
from .streams import LONGEST_PAUSE, time_of

NOTICED = "0.02"
"""Seconds from which a gap is filled with silence, and an overlap is cut. Shorter ones are the rounding of time stamps."""


def read_sound(frames: Iterable[av.AudioFrame], start: Fraction | None, seconds: Fraction) -> dict | None:
    """ComfyUI's AUDIO from `start` (None: the first block's time) on, no longer than `seconds`; None without any block.

    Silence stands where sound is missing. Rate and layout are the first block's; later blocks are converted to them.
    The dictionary also holds the layout's name, as "layout".
    """
    timeline: _Timeline | None = None
    latest = start
    for frame in frames:
        time = time_of(frame)
        if start is None:
            start = latest = time
        if time is not None and latest is not None:
            if time > latest + LONGEST_PAUSE:
                continue
            latest = time
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
        self._filters: Chain | None = None

    def add(self, frame: av.AudioFrame):
        kind = (frame.format.name, frame.layout.name, frame.sample_rate, frame.time_base)
        if kind != self._format:
            self._push(None)
            self._format, self._filters = kind, self._filters_for(frame)
        self._push(frame)

    def samples(self) -> torch.Tensor:
        """[1, channels, samples]."""
        self._push(None)
        return torch.from_numpy(np.ascontiguousarray(np.concatenate(self._parts).T))[None]

    def _filters_for(self, frame: av.AudioFrame) -> Chain:
        """They go on where the ones before ended."""
        source = {
            "sample_rate": frame.sample_rate,
            "sample_fmt": frame.format.name,
            "channel_layout": frame.layout.name,
            "time_base": frame.time_base or Fraction(1, frame.sample_rate),
        }
        at = {"async": 1, "min_hard_comp": NOTICED, "first_pts": self._begin + self._length, "osr": self.rate}
        # Packed: PyAV crashes where it gives eight planes or more to NumPy.
        result = {"sample_fmts": "flt", "channel_layouts": self.layout, "sample_rates": self.rate}
        graph = av.filter.Graph()
        steps = {"abuffer": source, "aresample": at, "aformat": result, "abuffersink": {}}
        return Chain(graph, [graph.add(name, **_texts(options)) for name, options in steps.items()])

    def _push(self, frame: av.AudioFrame | None):
        for block in self._filters.push(frame) if self._filters else ():
            self._parts.append(block.to_ndarray().reshape(block.samples, -1))
            self._length += block.samples


def _texts(options: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in options.items()}
