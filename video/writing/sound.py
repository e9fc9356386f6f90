"""The sound of a written video: its channels as they were, or mixed where a format cannot hold them."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from .formats import SoundCodec, ffmpeg

DEFAULT_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""ffmpeg's own, by number of channels."""

SAME = {"5.1(side)": "5.1", "5.0(side)": "5.0", "quad(side)": "quad", "6.0": "hexagonal", "6.1": "6.1(back)"}
"""Layouts whose channels go one to one into others, which the codecs know."""

CHANNELS = {"stereo": 2, "5.1": 6, "7.1": 8}
"""Layouts to mix to, which all codecs have."""

UNNAMED = re.compile(r"\d+ channels(?: \((.+)\))?")
"""How ffmpeg describes a layout that has no name, with its channels where it knows them."""

PROBED_SECONDS = 0.1


class Sound(NamedTuple):
    """Arguments of ffmpeg, before and after the inputs."""

    input: list[str]
    output: list[str]


def sound_arguments(audio: dict, codec: SoundCodec, folder: Path, say: Callable[[str], object]) -> Sound:
    """Writes the samples into `folder`.

    audio: ComfyUI's AUDIO with at least one sample; its key "layout" may name the channels as ffmpeg does.
    Where the codec cannot hold the layout, it is mixed to 7.1, 5.1 or stereo, and `say` is told.
    """
    waveform = audio["waveform"][0].float().cpu()
    channels = len(waveform)
    layout = _layout(audio.get("layout"), channels)
    file = folder / "audio"
    for source, target in _attempts(layout, channels, codec):
        samples = _in_two(waveform) if source == "two" else waveform
        named = ["-channel_layout", source] if source and source != "two" else ["-ac", str(len(samples))]
        read = ["-f", "f32le", "-ar", str(audio["sample_rate"]), *named, "-i", str(file)]
        # Louder than 1 would be cut off.
        mixing = ["-af", f"aresample=rematrix_maxval=1.0,aformat=channel_layouts={target}"] if target else []
        sound = Sound(read, [*mixing, *codec.arguments(CHANNELS.get(target or "", len(samples)))])
        plain = source in ("mono", "stereo") and target is None
        if plain or source == "two" or _works(sound, samples, audio["sample_rate"], file):
            break
    if target not in (None, SAME.get(layout or "")) or source == "two":
        called = f" ({layout})" if layout else ""
        say(f"The format has no place for {channels} channels of sound{called}: they are written as {target or 'stereo'}.")
    file.write_bytes(_bytes(samples))
    return sound


def _layout(name: str | None, channels: int) -> str | None:
    """As ffmpeg's options take it; ffmpeg's default for a number of channels where it has no name, or another number's."""
    if name and (described := UNNAMED.fullmatch(name)):
        name = described[1]
    if not name:
        return DEFAULT_LAYOUTS.get(channels)
    known = _known_layouts(ffmpeg())
    name = next((each for each, places in known.items() if places == name), name)
    places = known.get(name, name)
    fits = places.count("+") + 1 == channels or (name not in known and "+" not in name)
    return name if fits else DEFAULT_LAYOUTS.get(channels)


@functools.lru_cache
def _known_layouts(executable: str) -> dict[str, str]:
    """The layouts that this ffmpeg names, and their channels, such as FL+FR."""
    command = [executable, "-hide_banner", "-layouts"]
    told = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace").stdout
    rows = (line.split() for line in told.partition("Standard channel layouts:")[2].splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}


def _attempts(layout: str | None, channels: int, codec: SoundCodec) -> list[tuple[str | None, str | None]]:
    """Layouts to read and to write, the best first; the last always works. None: not named, and as it is read."""
    attempts: list[tuple[str | None, str | None]] = []
    if codec.layouts is None or layout in codec.layouts:
        attempts.append((layout, None))
    if SAME.get(layout or "") in (codec.layouts or ()):
        attempts.append((layout, SAME[layout or ""]))
    if channels > 2:
        attempts.append((layout, "7.1" if channels > CHANNELS["5.1"] else "5.1"))
    return [*attempts, (layout, "stereo"), ("two", None)]


def _works(sound: Sound, samples: torch.Tensor, rate: int, file: Path) -> bool:
    """Whether this ffmpeg can encode silence so."""
    file.write_bytes(_bytes(torch.zeros(len(samples), round(PROBED_SECONDS * rate) + 1)))
    command = [ffmpeg(), "-hide_banner", "-loglevel", "error", *sound.input, *sound.output, "-f", "null", "-"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def _in_two(waveform: torch.Tensor) -> torch.Tensor:
    """[channels, samples] of no known places -> [2, samples]: every second one on a side, as loud as they are on average."""
    if len(waveform) < 2:
        return waveform.expand(2, -1)
    return torch.stack([waveform[0::2].mean(0), waveform[1::2].mean(0)])


def _bytes(waveform: torch.Tensor) -> bytes:
    return waveform.T.contiguous().numpy().astype("<f4").tobytes()
