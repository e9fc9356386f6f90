"""The formats that videos are written in: one table, and what of it an ffmpeg can encode."""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ...optional import needed

HIGHEST_CRF = 51
"""The end of H.264's scale of quality, in which all formats are asked for: 0 is best."""


@dataclass(frozen=True)
class Pixels:
    """A pixel format of ffmpeg. across, down: pixels of the frame that share a colour; bits a value has."""

    name: str
    across: int = 1
    down: int = 1
    bits: int = 8

    @property
    def is_rgb(self) -> bool:
        return self.name == "rgb24"


@dataclass(frozen=True)
class Encoder:
    """An encoder of ffmpeg with its options.

    crf: the best and the worst of its scale of quality, None if it has none.
    """

    name: str
    options: tuple[str, ...] = ()
    crf: tuple[int, int] | None = None

    def arguments(self, crf: int) -> list[str]:
        quality: list[str] = []
        if self.crf is not None:
            best, worst = self.crf
            quality = ["-crf", str(max(best, round(crf * worst / HIGHEST_CRF)))]
        return ["-c:v", self.name, *self.options, *quality]


@dataclass(frozen=True)
class SoundCodec:
    """layouts: those that come back from it as they were. rate: bits per second of a channel, None where it is lossless."""

    encoder: str
    layouts: tuple[str, ...] | None
    rate: int | None = None

    def arguments(self, channels: int) -> list[str]:
        rate = ["-b:a", str(self.rate * max(2, channels))] if self.rate else []
        return ["-c:a", self.encoder, *rate]


@dataclass(frozen=True)
class Format:
    """
    codec: its name in messages. suffix: of the file's name; empty where a folder of pictures is written.
    container: of ffmpeg, with its options. encoders: the first one that ffmpeg has is used. sound: None where there is none.
    filters: applied to the frames. plays: browsers play it. most_fps: more frames a second are left out.
    """

    name: str
    codec: str
    suffix: str
    container: tuple[str, ...]
    encoders: tuple[Encoder, ...]
    pixels: Pixels
    sound: SoundCodec | None
    filters: tuple[str, ...] = ()
    plays: bool = True
    most_fps: int | None = None

    @property
    def is_folder(self) -> bool:
        return not self.suffix

    @property
    def holds_tags(self) -> bool:
        return self.suffix != ".gif"


AAC = SoundCodec(
    "aac",
    ("mono", "stereo", "3.0", "3.0(back)", "4.0", "quad", "3.1", "5.0", "4.1", "5.1", "hexagonal", "6.1(back)", "7.0", "7.1")
    + ("7.1(wide)", "5.1.2(back)", "octagonal"),
    96_000,
)
# Opus has more, but 5.0 and 6.1 come back with channels exchanged.
OPUS = SoundCodec("libopus", ("mono", "stereo", "3.0", "quad", "5.1", "7.1"), 80_000)
PCM = SoundCodec("pcm_s24le", None)

YUV420 = Pixels("yuv420p", 2, 2)
YUV420_10 = Pixels("yuv420p10le", 2, 2, 10)
YUV422_10 = Pixels("yuv422p10le", 2, 1, 10)
RGB = Pixels("rgb24")

MP4 = ("-f", "mp4", "-movflags", "use_metadata_tags+faststart")
MOV = ("-f", "mov", "-movflags", "use_metadata_tags+faststart")
WEBM = ("-f", "webm")
GIF = ("-f", "gif", "-loop", "0")
PNG = ("-f", "image2")

# SVT-AV1 takes 0 for its default.
AV1 = (
    Encoder("libsvtav1", ("-preset", "6"), (1, 63)),
    Encoder("libaom-av1", ("-b:v", "0", "-cpu-used", "6", "-row-mt", "1"), (0, 63)),
)
PALETTE = (
    # A palette for each frame: one for all would need all frames in memory.
    "split[frames][colours]",
    "[colours]palettegen=stats_mode=single:reserve_transparent=0[palette]",
    "[frames][palette]paletteuse=new=1:dither=sierra2_4a",
)

H264 = Format("mp4 (H.264)", "H.264", ".mp4", MP4, (Encoder("libx264", ("-preset", "medium"), (0, 51)),), YUV420, AAC)
HEVC_OPTIONS = ("-preset", "medium", "-tag:v", "hvc1", "-x265-params", "log-level=error")
PRORES_OPTIONS = ("-profile:v", "3", "-vendor", "apl0")
VP9_OPTIONS = ("-b:v", "0", "-deadline", "good", "-cpu-used", "3", "-row-mt", "1")

FORMATS = {
    format.name: format
    for format in (
        H264,
        Format("mp4 (HEVC)", "HEVC", ".mp4", MP4, (Encoder("libx265", HEVC_OPTIONS, (0, 51)),), YUV420, AAC),
        Format("mp4 (AV1)", "AV1", ".mp4", MP4, AV1, YUV420, AAC),
        Format("mp4 (AV1, 10 bit)", "AV1", ".mp4", MP4, AV1, YUV420_10, AAC),
        Format("mov (ProRes)", "ProRes", ".mov", MOV, (Encoder("prores_ks", PRORES_OPTIONS),), YUV422_10, PCM, plays=False),
        Format("webm (VP9)", "VP9", ".webm", WEBM, (Encoder("libvpx-vp9", VP9_OPTIONS, (0, 63)),), YUV420, OPUS),
        # Browsers show pictures of less than 2/100 s for 10/100 s.
        Format("gif", "GIF", ".gif", GIF, (Encoder("gif"),), RGB, None, PALETTE, False, 50),
        Format("png sequence", "PNG", "", PNG, (Encoder("png"),), RGB, None, plays=False),
    )
}


def format_of(path: Path) -> Format:
    """The format for the ending of a file's name; for one without ending, a folder of PNG files.

    Raises ValueError for an ending that no format has.
    """
    suffix = path.suffix.lower()
    for format in FORMATS.values():
        if format.suffix == suffix:
            return format
    endings = ", ".join(dict.fromkeys(format.suffix for format in FORMATS.values() if format.suffix))
    raise ValueError(
        f"No format ends in {path.suffix}: take one of {endings}, or a name without ending for a folder of PNG files."
    )


def encoder_for(format: Format) -> Encoder:
    """Raises RuntimeError, which says what to do, where ffmpeg lacks what the format needs."""
    here = ffmpeg()
    present = _encoders(here)
    sound = format.sound.encoder if format.sound else None
    chosen = next((each for each in format.encoders if each.name in present), None)
    if not present:
        return format.encoders[0]
    if chosen is None or (sound and sound not in present):
        lacking = sound if chosen else " or ".join(each.name for each in format.encoders)
        raise RuntimeError(
            f"Format {format.name} needs ffmpeg's encoder {lacking}, which {here} lacks: choose another format, or set "
            "IMAGEIO_FFMPEG_EXE to an ffmpeg that has it."
        )
    return chosen


def ffmpeg() -> str:
    """Path of the ffmpeg to run. Raises RuntimeError when there is none."""
    return needed("imageio_ffmpeg", "imageio-ffmpeg").get_ffmpeg_exe()


@functools.lru_cache
def _encoders(executable: str) -> frozenset[str]:
    """Names of its encoders; none where it does not tell."""
    command = [executable, "-hide_banner", "-encoders"]
    try:
        told = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    lines = (line.split() for line in told.stdout.splitlines())
    return frozenset(words[1] for words in lines if len(words) > 1 and len(words[0]) == 6)
