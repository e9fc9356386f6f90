"""Writing an mp4 frame by frame: H.264 and AAC through the ffmpeg that imageio-ffmpeg brings, metadata that ComfyUI reads."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import torch

from ..optional import needed

PARTIAL = re.compile(r"\.liveditor-[0-9a-f]{32}\.partial\.mp4")
"""Names of unfinished files. Only this program uses them, so it may remove old ones."""

ABANDONED_SECONDS = 24 * 3600
"""Seconds without a new frame after which an unfinished file is taken for the remains of a killed run."""


def write_mp4(
    path: str | os.PathLike,
    chunks: Iterable[torch.Tensor],
    fps: Fraction,
    crf: int = 18,
    audio: dict | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Encode chunks of frames, [f, H, W, 3] in 0..1, as they come.

    audio: ComfyUI's AUDIO, {"waveform": [1, channels, samples], "sample_rate"}; cut it to the frames' duration before.
    metadata: container tags as JSON text; ComfyUI's page restores a graph from "workflow" and "prompt".

    Returns where it was written: `path`, or numbered on where a file has that name by then; none is ever replaced.
    The file appears under its name only when it is whole: on any failure or interruption nothing is left. What a killed
    process left in the folder goes when the next video is written there a day later.
    Raises ValueError for no frames or odd sizes, OSError when the disk is full or the folder read-only, RuntimeError for
    other failures of ffmpeg.
    """
    path = Path(path)
    partial = path.with_name(f".liveditor-{uuid.uuid4().hex}.partial.mp4")
    try:
        partial.touch(exist_ok=False)
    except OSError as error:
        raise _cannot_write(path.parent, error) from None
    try:
        _remove_abandoned(path.parent, partial.stat().st_mtime)
        with tempfile.TemporaryDirectory(prefix="liveditor-") as folder:
            _encode(partial, iter(chunks), fps, crf, audio, metadata or {}, Path(folder))
        return _published(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_abandoned(folder: Path, now: float):
    """now: the time by the disk's clock, which may be another computer's."""
    for partial in folder.glob(".liveditor-*.partial.mp4"):
        try:
            if PARTIAL.fullmatch(partial.name) and now - partial.stat().st_mtime > ABANDONED_SECONDS:
                partial.unlink()
        except OSError:
            pass  # removed meanwhile, or owned by another user


def _published(partial: Path, path: Path) -> Path:
    """Give a complete file its name. Linking fails if another process has taken the name; renaming would replace its file."""
    while True:
        try:
            os.link(partial, path)
            return path
        except FileExistsError:
            path = _numbered_on(path)
        except OSError:  # exFAT and some network drives have no links
            try:
                open(path, "xb").close()
                os.replace(partial, path)
                return path
            except FileExistsError:
                path = _numbered_on(path)


def _numbered_on(path: Path) -> Path:
    """name_00001_.mp4, as ComfyUI numbers files, becomes name_00002_.mp4."""
    match = re.fullmatch(r"(.*?)(?:_(\d+)_)?", path.stem, re.DOTALL)
    assert match, "any name matches"
    stem, number = match.groups()
    return path.with_name(f"{stem}_{int(number or 0) + 1:05}_{path.suffix}")


def _encode(partial: Path, chunks, fps: Fraction, crf: int, audio, metadata, folder: Path):
    first = next(chunks, None)
    if first is None or len(first) == 0:
        raise ValueError("There is no frame to write: the video would be empty.")
    height, width = first.shape[1:3]
    if width % 2 or height % 2:
        raise ValueError(f"H.264 needs even width and height; got {width}×{height}. Choose a size in multiples of 16.")
    command = _command(partial, width, height, fps, crf, audio, metadata, folder)
    # stderr goes to a file: a full pipe that is not read would block ffmpeg.
    with open(folder / "stderr", "w+", encoding="utf-8", errors="replace") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr)
        try:
            for chunk in itertools.chain([first], chunks):
                raw = (chunk * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy().tobytes()
                if not _written(process.stdin, raw):
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


def _ffmpeg() -> str:
    """Path of the ffmpeg to run. Raises RuntimeError when there is none."""
    return needed("imageio_ffmpeg", "imageio-ffmpeg").get_ffmpeg_exe()


def _command(partial, width, height, fps, crf, audio, metadata, folder) -> list[str]:
    tags = folder / "tags"
    # Bytes: in text mode Windows writes \r\n, at which ffmpeg cuts off values of several lines.
    tags.write_bytes((";FFMETADATA1\n" + "".join(f"{_escaped(k)}={_escaped(v)}\n" for k, v in metadata.items())).encode())
    inputs = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0", "-i", str(tags)]
    sound = []
    if audio is not None and audio["waveform"].shape[-1] > 0:
        waveform = audio["waveform"][0].float().cpu()
        (folder / "audio").write_bytes(waveform.T.contiguous().numpy().tobytes())
        layout = ["-f", "f32le", "-ar", str(audio["sample_rate"]), "-ac", str(len(waveform))]
        inputs += [*layout, "-i", str(folder / "audio")]
        sound = ["-map", "2:a", "-c:a", "aac", "-b:a", "192k"]
    # Without these, ffmpeg converts with BT.601, players assume BT.709, and colours shift. Newer releases read the tags from
    # the frames (setparams), older ones from the options.
    convert = "scale=out_color_matrix=bt709:out_range=tv,setparams=color_primaries=bt709:color_trc=bt709"
    colour = ["-vf", convert, "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    video = ["-map", "0:v", "-c:v", "libx264", "-preset", "medium", "-crf", str(crf), "-pix_fmt", "yuv420p", *colour]
    container = ["-map_metadata", "1", "-movflags", "use_metadata_tags+faststart", "-f", "mp4"]
    quiet = [_ffmpeg(), "-y", "-hide_banner", "-loglevel", "error"]
    return [*quiet, *inputs, *video, *sound, *container, str(partial)]


def _escaped(text: str) -> str:
    """ffmpeg's metadata format: a backslash before each of its special characters, and before what begins a section."""
    text = text.replace("\0", "").encode(errors="replace").decode()
    return "".join("\\" + char if char in "=;#\\\n[" else char for char in text)


def _failure(partial: Path, stderr: str) -> Exception:
    if "No space left" in stderr or shutil.disk_usage(partial.parent).free < 2**20:
        return _cannot_write(partial.parent, OSError(errno.ENOSPC, ""))
    lines = [line for line in stderr.splitlines() if line.strip()]
    return RuntimeError(f"ffmpeg could not write {partial.parent}: {lines[-1] if lines else 'it ended without a message'}.")


def _cannot_write(folder: Path, error: OSError) -> OSError:
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(folder).free / 2**20
        sentence = f"The disk is full: {free:.0f} MB are free in {folder}. Make room and run again"
    else:
        sentence = (
            f"Nothing can be written to {folder} ({error.strerror}). Make it a folder that may be written to, and run again"
        )
    return OSError(error.errno, sentence, str(folder))
