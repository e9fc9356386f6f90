"""Videos of many kinds, made by ffmpeg: containers, codecs, pixel formats, colours, rates, rotations, sizes and sound."""

from __future__ import annotations

import math
import random
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

FRAMES = 12

# Codec: its options, the containers and the pixel formats that hold it.
PICTURES = {
    "h264": (["-c:v", "libx264", "-crf", "8"], "mp4 mkv mov ts flv", "yuv420p yuv422p yuv444p yuv420p10le yuvj420p"),
    "hevc": (["-c:v", "libx265", "-x265-params", "log-level=0:crf=8"], "mp4 mkv ts", "yuv420p yuv420p10le yuv422p10le"),
    "vp8": (["-c:v", "libvpx", "-b:v", "2M", "-cpu-used", "8"], "webm mkv", "yuv420p"),
    "vp9": (["-c:v", "libvpx-vp9", "-b:v", "2M", "-cpu-used", "8"], "webm mkv mp4", "yuv420p yuva420p yuv444p yuv420p10le"),
    "av1": (["-c:v", "libsvtav1", "-preset", "10", "-crf", "15"], "mp4 mkv webm", "yuv420p yuv420p10le"),
    "mpeg2": (["-c:v", "mpeg2video", "-q:v", "2"], "mpg ts mkv", "yuv420p yuv422p"),
    "mpeg4": (["-c:v", "mpeg4", "-q:v", "2"], "avi mp4 mkv", "yuv420p"),
    "prores": (["-c:v", "prores_ks"], "mov mkv", "yuv422p10le yuva444p10le"),
    "ffv1": (["-c:v", "ffv1"], "mkv avi", "gray yuv420p bgr0 yuv444p16le gbrp10le"),
    "mjpeg": (["-c:v", "mjpeg", "-q:v", "2"], "avi mov mkv", "yuvj420p yuvj444p"),
    "png": (["-c:v", "png"], "mov mkv", "rgb24 rgba rgb48be gray"),
    "wmv": (["-c:v", "wmv2", "-q:v", "2"], "asf", "yuv420p"),
    "huffyuv": (["-c:v", "huffyuv"], "avi mkv", "yuv422p rgb24"),
    "gif": ([], "gif", "pal8"),
    "apng": (["-f", "apng", "-plays", "0"], "apng", "rgb24 rgba"),
}  # fmt: skip

# Sound codec: its options, containers, sample rates and layouts.
SOUNDS = {
    "aac": ("mp4 mov mkv ts flv", "44100 48000 22050", "mono stereo 5.1 7.1"),
    "ac3": ("mp4 mkv ts mpg avi", "48000 44100", "mono stereo quad 5.1(side)"),
    "mp2": ("mpg avi mkv ts", "48000 44100", "mono stereo"),
    "libmp3lame": ("mp4 mkv avi", "44100 16000", "mono stereo"),
    "libopus": ("webm mkv mp4", "48000", "mono stereo 5.1 7.1"),
    "libvorbis": ("webm mkv", "44100", "mono stereo 5.1"),
    "flac": ("mkv mp4", "96000 44100", "mono stereo 2.1 5.1 7.1"),
    "pcm_s16le": ("mov mkv avi", "8000 48000", "mono stereo quad 6.1 7.1 hexadecagonal"),
    "wmav2": ("asf", "44100", "mono stereo"),
}

COLOURS = {
    "untagged": [],
    "bt709": ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"],
    "bt601": ["-colorspace", "smpte170m", "-color_primaries", "smpte170m", "-color_trc", "smpte170m"],
    "bt2020": ["-colorspace", "bt2020nc", "-color_primaries", "bt2020", "-color_trc", "bt2020-10"],
    "pq": ["-colorspace", "bt2020nc", "-color_primaries", "bt2020", "-color_trc", "smpte2084"],
    "hlg": ["-colorspace", "bt2020nc", "-color_primaries", "bt2020", "-color_trc", "arib-std-b67"],
}
WIDE = ("bt2020", "pq", "hlg")
CARRY_COLOURS = {"h264", "hevc", "vp9", "av1", "prores"}
TEN_BITS = {"h264": "yuv420p10le", "hevc": "yuv420p10le", "vp9": "yuv420p10le", "av1": "yuv420p10le", "prores": "yuv422p10le"}

RATES = ("25", "30000/1001", "24000/1001", "50", "15", "varying")
TURNS = {
    "upright": ([], lambda frames: frames),
    "90": (["-display_rotation", "90"], lambda frames: np.rot90(frames, 1, (1, 2))),
    "180": (["-display_rotation", "180"], lambda frames: np.rot90(frames, 2, (1, 2))),
    "270": (["-display_rotation", "270"], lambda frames: np.rot90(frames, 3, (1, 2))),
    "mirrored": (["-display_hflip"], lambda frames: frames[:, :, ::-1]),
    "upside down": (["-display_vflip"], lambda frames: frames[:, ::-1]),
    "turned and mirrored": (
        ["-display_rotation", "90", "-display_hflip"],
        lambda frames: np.rot90(frames, 1, (1, 2))[:, :, ::-1],
    ),
}
"""ffmpeg's options, and what players then do with frames [F, H, W, 3]."""

CARRY_TURNS = {"mp4", "mov"}
SIZES = ((64, 48), (322, 182), (98, 70), (1280, 720))


@dataclass(frozen=True)
class Kind:
    codec: str
    container: str
    pixels: str
    colours: str
    rate: str
    turn: str
    size: tuple[int, int]
    sound: str | None
    sample_rate: int
    layout: str

    @property
    def is_yuv(self) -> bool:
        return "yuv" in self.pixels

    def __str__(self):
        sound = f"{self.sound} {self.sample_rate} Hz {self.layout}" if self.sound else "silent"
        size = "{}×{}".format(*self.size)
        return f"{self.codec} {self.pixels} in {self.container}, {self.colours}, {self.rate} fps, {self.turn}, {size}, {sound}"


def any_kind(choose: random.Random) -> Kind:
    codec = choose.choice([*PICTURES])
    _, containers, formats = PICTURES[codec]
    container, pixels = choose.choice(containers.split()), choose.choice(formats.split())
    colours = choose.choice([*COLOURS]) if codec in CARRY_COLOURS else "untagged"
    if colours in WIDE:
        pixels = TEN_BITS[codec]
    rate = choose.choice([rate for rate in RATES if container in ("mp4", "mkv", "mov", "webm") or rate != "varying"])
    if codec in ("mpeg2",) and rate == "15":
        rate = "25"
    turn = choose.choice([*TURNS]) if container in CARRY_TURNS else "upright"
    size = choose.choice(SIZES if codec not in ("gif", "apng", "png", "ffv1", "huffyuv") else SIZES[:3])
    sounds = [name for name, (within, _, _) in SOUNDS.items() if container in within.split()]
    sound = choose.choice([*sounds, None])
    _, rates, layouts = SOUNDS.get(sound, ("", "0", ""))
    return Kind(
        codec,
        container,
        pixels,
        colours,
        rate,
        turn,
        size,
        sound,
        int(choose.choice(rates.split())),
        choose.choice(layouts.split() or [""]),
    )


def ffmpeg(*arguments, stdin: bytes | None = None) -> subprocess.CompletedProcess:
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-hide_banner", "-loglevel", "error", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True)


def drawn(width: int, height: int) -> bytes:
    """RGBA frames without edges, at which ways to interpolate colour differ; each frame has another brightness."""
    import torch

    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    frames = []
    for index in range(FRAMES):
        phase = index / FRAMES
        red, green, blue = 0.5 + 0.3 * (3 * x + phase).sin(), 0.5 + 0.3 * (2 * y + 4 * phase).cos(), 0.4 + 0.3 * (x - y)
        frames.append(torch.stack([red, green, blue, torch.ones_like(x)], -1))
    return (torch.stack(frames) * 255).round().byte().numpy().tobytes()


def make(kind: Kind, folder: Path) -> Path:
    """Raises RuntimeError with ffmpeg's words where it cannot make the kind."""
    options, path = PICTURES[kind.codec][0], folder / f"made.{kind.container}"
    width, height = kind.size
    rate = "25" if kind.rate == "varying" else kind.rate
    raw = ["-f", "rawvideo", "-pix_fmt", "rgba", "-s", f"{width}x{height}", "-r", rate, "-i", "pipe:0"]
    sound, codec = [], []
    if kind.sound:
        from av.audio.layout import AudioLayout

        channels = AudioLayout(kind.layout).nb_channels
        tones = "|".join(f"0.4*sin({2 * math.pi * (200 + 90 * channel)}*t)" for channel in range(channels))
        seconds = float(FRAMES / Fraction(rate))
        sound = ["-f", "lavfi", "-i", f"aevalsrc={tones}:c={kind.layout}:s={kind.sample_rate}:d={seconds}"]
        codec = ["-c:a", kind.sound, "-strict", "-2"]
        if kind.sound == "libopus" and channels > 2:
            codec += ["-mapping_family", "1"]
    colours = COLOURS[kind.colours]
    matrix = colours[1] if colours else ("bt709" if kind.size == (1280, 720) else "smpte170m")
    filters = [f"scale=out_color_matrix={matrix}"] if kind.is_yuv else []
    if kind.colours in WIDE:
        # Colours that BT.709 holds: beyond its edges ways to clip differ by much.
        known = "setparams=color_primaries=bt709:color_trc=bt709:colorspace=gbr"
        filters = [known, f"scale=out_primaries={colours[3]}:out_transfer={colours[5]}:out_color_matrix={colours[1]}"]
    elif kind.colours != "untagged":
        # Newer releases read the tags from the frames, older ones from the options.
        filters.append(f"setparams=color_primaries={colours[3]}:color_trc={colours[5]}:colorspace={colours[1]}")
    if kind.rate == "varying":
        filters.append("select='not(eq(mod(n,5),2))'")
    if filters:
        filters = ["-vf", ",".join(filters)]
    pixels = [] if kind.pixels == "pal8" else ["-pix_fmt", kind.pixels]
    result = ffmpeg(
        *raw, *sound, *filters, *options, *pixels, *colours, "-fps_mode", "vfr", *codec, path, stdin=drawn(width, height)
    )
    if result.returncode == 0 and (turn := TURNS[kind.turn][0]):
        result = ffmpeg(*turn, "-i", path, "-c", "copy", "-strict", "-2", folder / f"turned.{kind.container}")
        path = folder / f"turned.{kind.container}"
    if result.returncode:
        raise RuntimeError(result.stderr.decode().strip().splitlines()[0])
    return path
