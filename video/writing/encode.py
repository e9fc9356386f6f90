"""Writing a video frame by frame through the ffmpeg that imageio-ffmpeg brings."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import torch

from .colours import encoded_frames
from .formats import Encoder, Format, encoder_for, ffmpeg
from .names import cannot_write, published, unfinished
from .png import FIRST_PICTURE, add_texts
from .sound import Sound, sound_arguments

logger = logging.getLogger(__name__)


def write_video(
    path: str | os.PathLike,
    chunks: Iterable[torch.Tensor],
    fps: Fraction,
    format: Format,
    crf: int = 18,
    audio: dict | None = None,
    metadata: dict[str, str] | None = None,
    pixel_aspect: Fraction = Fraction(1),
    say: Callable[[str], object] = logger.warning,
) -> Path:
    """Encode chunks of frames, [f, H, W, 3] in 0..1, as they come.

    path: its ending should be the format's. crf: quality on H.264's scale, 0 to 51; lower is better and larger.
    audio: ComfyUI's AUDIO, {"waveform": [1, channels, samples], "sample_rate"}; cut it to the frames' duration before. A key
    "layout" names its channels as ffmpeg does.
    metadata: container tags as JSON text; ComfyUI's page restores a graph from "workflow" and "prompt".
    pixel_aspect: width of a pixel as shown, by its height. say: takes a sentence on what is not as asked.

    Returns where it was written: `path`, or a name like it where that is taken, too long or refused; no file is ever replaced.
    The file appears under its name only when it is whole: on any failure or interruption nothing is left. What a killed
    process left in the folder goes when the next video is written there a day later.
    Raises ValueError for no frames or odd sizes, OSError when the disk is full or the folder read-only, RuntimeError for
    other failures of ffmpeg.
    """
    path = Path(path)
    encoder = encoder_for(format)
    with unfinished(path, format.suffix) as partial:
        with tempfile.TemporaryDirectory(prefix="liveditor-") as folder:
            work = Path(folder)
            sound = None
            if audio is not None and format.sound and audio["waveform"].shape[-1] > 0:
                sound = sound_arguments(audio, format.sound, work, say)
            inputs = _tags(work, metadata or {}) + (sound.input if sound else [])
            filters = _filters(format, fps, pixel_aspect)
            output = [*_output(format, encoder, crf, filters, sound), *_target(partial)]
            _encode(partial, iter(chunks), fps, format, inputs, output, work)
        if format.is_folder:
            add_texts(partial / FIRST_PICTURE, metadata or {})
        return published(partial, path, say)


def _encode(
    partial: Path,
    chunks: Iterator[torch.Tensor],
    fps: Fraction,
    format: Format,
    inputs: list[str],
    output: list[str],
    work: Path,
):
    first = next(chunks, None)
    if first is None or len(first) == 0:
        raise ValueError("There is no frame to write: the video would be empty.")
    height, width = first.shape[1:3]
    pixels = format.pixels
    if width % pixels.across or height % pixels.down:
        even = "even width and height" if pixels.down == 2 else "an even width"
        raise ValueError(f"{format.codec} needs {even}; got {width}×{height}. Choose a size in multiples of 16.")
    frames = ["-f", "rawvideo", "-pix_fmt", pixels.name, "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0"]
    command = [ffmpeg(), "-y", "-hide_banner", "-loglevel", "error", *frames, *inputs, *output]
    # stderr goes to a file: a full pipe that is not read would block ffmpeg.
    with open(work / "stderr", "w+", encoding="utf-8", errors="replace") as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=partial if format.is_folder else None,
            env={**os.environ, "SVT_LOG": "1"},  # errors only
        )
        try:
            for chunk in itertools.chain([first], chunks):
                if not all(_written(process.stdin, raw) for raw in encoded_frames(chunk, pixels)):
                    break
                os.utime(partial)  # ffmpeg buffers, so the file's own time may be old
            if not _written(process.stdin, None) or process.wait() != 0:
                process.wait()
                stderr.seek(0)
                raise _failure(partial, stderr.read())
        finally:
            process.kill()
            process.wait()


def _written(pipe, raw: bytes | None) -> bool:
    """Write, or close for None. False when ffmpeg has ended (EPIPE, on Windows EINVAL); its stderr has the reason."""
    try:
        pipe.close() if raw is None else pipe.write(raw)
    except OSError:
        return False
    return True


def _tags(folder: Path, metadata: dict[str, str]) -> list[str]:
    """Arguments for an input that holds the tags."""
    tags = folder / "tags"
    # Bytes: in text mode Windows writes \r\n, at which ffmpeg cuts off values of several lines.
    tags.write_bytes((";FFMETADATA1\n" + "".join(f"{_escaped(k)}={_escaped(v)}\n" for k, v in metadata.items())).encode())
    return ["-i", str(tags)]


def _filters(format: Format, fps: Fraction, pixel_aspect: Fraction) -> list[str]:
    aspect = pixel_aspect.limit_denominator(1000)
    filters = [f"setsar={aspect.numerator}/{aspect.denominator}"] if aspect != 1 else []
    if not format.pixels.is_rgb:
        filters.append("setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709")
    if format.most_fps and fps > format.most_fps:
        filters.append(f"fps={format.most_fps}")
    return filters


def _output(format: Format, encoder: Encoder, crf: int, filters: list[str], sound: Sound | None) -> list[str]:
    chain = ",".join(filters)
    if format.filters:
        palette = ";".join(format.filters)
        chain = f"{chain},{palette}" if chain else palette
    video = ["-map", "0:v", *(["-vf", chain] if chain else []), *encoder.arguments(crf)]
    if format.pixels.is_rgb:
        colours = []
    else:
        # Newer releases read these from the frames (setparams), older ones from the options.
        colours = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
        colours += ["-pix_fmt", format.pixels.name]
    heard = ["-map", "2:a", *sound.output] if sound else []
    tags = ["-map_metadata", "1"] if format.holds_tags and not format.is_folder else ["-map_metadata", "-1"]
    return [*video, *colours, *heard, *tags, *format.container]


def _target(partial: Path) -> list[str]:
    # A relative name: % in the folder's would be taken for a number.
    return ["%05d.png"] if partial.is_dir() else [str(partial)]


def _escaped(text: str) -> str:
    """ffmpeg's metadata format: a backslash before each of its special characters, and before what begins a section."""
    text = text.replace("\0", "").encode(errors="replace").decode()
    return "".join("\\" + char if char in "=;#\\\n[" else char for char in text)


def _failure(partial: Path, stderr: str) -> Exception:
    if "No space left" in stderr or shutil.disk_usage(partial.parent).free < 2**20:
        return cannot_write(partial.parent, OSError(errno.ENOSPC, ""))
    # The first line tells the cause, the others its consequences. A part of ffmpeg stands before it in brackets.
    lines = [line for line in (re.sub(r"^(\[[^]]*\]\s*)+", "", line).rstrip(" .") for line in stderr.splitlines()) if line]
    return RuntimeError(f"ffmpeg could not write {partial.parent}: {lines[0] if lines else 'it ended without a message'}.")
