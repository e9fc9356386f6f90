"""Written videos in every format: colours that do not drift, channels in their places, names that file systems take."""

import errno
import json
import math
import os
import struct
import subprocess
import zlib
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from liveditor_isa.video.mp4 import write_mp4
from liveditor_isa.video.writing import formats
from liveditor_isa.video.writing.encode import write_video
from liveditor_isa.video.writing.formats import FORMATS, H264, encoder_for, format_of

RATE = Fraction(25)
SIZE = (48, 64)


def frames(count: int = 5) -> torch.Tensor:
    """Smooth colours that move."""
    down, across = torch.meshgrid(*(torch.arange(side) for side in SIZE), indexing="ij")
    times = torch.arange(count)[:, None, None]
    waves = (across / 9 + times, down / 7 + times / 2, (across + down) / 11 - times)
    return 0.5 + torch.stack([0.3 * wave.sin() for wave in waves], -1)


def pictures(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


# Colours

LUMA = (0.2126, 0.7152, 0.0722)


def as_stated(path) -> torch.Tensor:
    """[f, H, W, 3] in 0..1 of a file of 4:2:0, by BT.709's formulas in fp64 and without any rounding."""
    height, width = SIZE
    with av.open(str(path)) as container:
        raw = np.stack([frame.to_ndarray() for frame in container.decode(video=0)]).astype(float)
    luma = (raw[:, :height].reshape(-1, height, width) - 16) / 219
    blue, red = (
        raw[:, height:].reshape(-1, 2, height // 2, width // 2).repeat(2, 2).repeat(2, 3).swapaxes(0, 1) / 224 - 128 / 224
    )
    red, blue = luma + 2 * (1 - LUMA[0]) * red, luma + 2 * (1 - LUMA[2]) * blue
    green = (luma - LUMA[0] * red - LUMA[2] * blue) / LUMA[1]
    return torch.from_numpy(np.stack([red, green, blue], -1))


@pytest.mark.parametrize("kind", ["smooth", "dark", "random"])
def test_colours_do_not_drift_over_ten_generations(tmp_path, kind):
    """Without compression, which is not the writer's."""
    noise = torch.rand(5, *SIZE, 3, generator=torch.Generator().manual_seed(0))
    now = {"smooth": frames(), "dark": frames() * 0.2 + 0.02, "random": 0.2 + 0.6 * noise}[kind].double()
    for generation in range(10):
        path = write_mp4(tmp_path / f"{generation}.mp4", [now], RATE, crf=0)
        after = as_stated(path)
        drift = 255 * (after - now).mean((0, 1, 2))
        assert drift.abs().max() < 0.05, f"generation {generation}: {drift.tolist()}"
        now = after


# Sound


def tones(channels: int, layout: str | None = None, rate: int = 48_000) -> dict:
    """One second; each channel louder than the one before. Deep enough for the low-frequency channel."""
    loudness = 0.4 * (1 + torch.arange(channels)) / channels
    wave = torch.sin(torch.arange(rate) * 2 * math.pi * 60 / rate)
    audio = {"waveform": (loudness[:, None] * wave)[None], "sample_rate": rate}
    return audio | ({"layout": layout} if layout else {})


def heard(path) -> tuple[str, list[float]]:
    """Layout of a file's sound, and the loudness of each channel, both by the ffmpeg that wrote it."""
    with av.open(str(path)) as container:
        layout = container.streams.audio[0].layout
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-f", "f32le", "-c:a", "pcm_f32le", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    samples = np.frombuffer(raw, np.float32).reshape(-1, layout.nb_channels)
    return layout.name, (np.sqrt(2 * np.square(samples).mean(0))).tolist()


KEPT = {
    "mono": "mono", "stereo": "stereo", "3.0": "3.0", "quad": "quad", "5.0": "5.0", "5.1": "5.1", "5.1(side)": "5.1",
    "6.1(back)": "6.1(back)", "7.0": "7.0", "7.1": "7.1", "7.1(wide)": "7.1(wide)", "octagonal": "octagonal",
}  # fmt: skip
"""AAC does not tell side from back where there is only one of them."""


@pytest.mark.slow
@pytest.mark.parametrize("layout", KEPT)
def test_the_layout_is_kept_and_nothing_said(tmp_path, layout):
    channels, said = av.AudioLayout(layout).nb_channels, []
    audio = tones(channels, layout)
    found, loudness = heard(write_mp4(tmp_path / "v.mp4", [frames(25)], RATE, audio=audio, say=said.append))
    assert found == KEPT[layout] and not said
    assert loudness == pytest.approx([0.4 * (1 + each) / channels for each in range(channels)], rel=0.07)


@pytest.mark.parametrize("channels, layout", [(1, "mono"), (2, "stereo"), (4, "4.0"), (6, "5.1"), (8, "7.1")])
def test_without_a_name_the_layout_is_ffmpegs_default(tmp_path, channels, layout):
    assert heard(write_mp4(tmp_path / "v.mp4", [frames(25)], RATE, audio=tones(channels)))[0] == layout


@pytest.mark.slow
@pytest.mark.parametrize(
    "channels, layout, target",
    [
        (6, "3.1.2", "5.1"), (8, "cube", "7.1"), (12, "7.1.4", "7.1"), (16, "hexadecagonal", "7.1"), (24, "22.2", "7.1"),
        (2, "binaural", "stereo"), (9, None, "stereo"), (11, None, "stereo"), (1, "nonsense", "stereo"),
    ],
)  # fmt: skip
def test_what_aac_cannot_hold_is_mixed_and_said_once(tmp_path, channels, layout, target):
    said = []
    path = write_mp4(tmp_path / "v.mp4", [frames(25)], RATE, audio=tones(channels, layout), say=said.append)
    found, loudness = heard(path)
    assert found == target and max(loudness) > 0.1
    named = f" ({layout})" if layout else ""
    assert said == [f"The format has no place for {channels} channels of sound{named}: they are written as {target}."]
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 25


@pytest.mark.parametrize(
    "channels, layout, found",
    [(2, "7.1", "stereo"), (1, "stereo", "mono"), (5, "5 channels", "5.0"), (3, "3 channels (FL+FR+FC)", "3.0")],
)
def test_a_layout_of_other_channels_or_without_a_name_is_ffmpegs_default(tmp_path, channels, layout, found):
    """Nodes that mix sound down may leave the source's name."""
    said = []
    path = write_mp4(tmp_path / "v.mp4", [frames(25)], RATE, audio=tones(channels, layout), say=said.append)
    assert heard(path)[0] == found and not said


@pytest.mark.parametrize("rate", [5_512, 11_025, 96_000, 192_000])
def test_sound_of_any_rate_is_written(tmp_path, rate):
    audio = tones(2, rate=rate)
    for format in (H264, FORMATS["webm (VP9)"], FORMATS["mov (ProRes)"]):
        path = write_video(tmp_path / f"v{format.suffix}", [frames(25)], RATE, format, audio=audio)
        with av.open(str(path)) as container:
            decoded = [*container.decode(audio=0)]
        assert sum(frame.samples / frame.sample_rate for frame in decoded) == pytest.approx(1, abs=0.2)


# Names


def longest(folder: Path) -> int:
    return os.pathconf(folder, "PC_NAME_MAX")


def test_a_name_that_is_too_long_is_shortened_and_said(tmp_path):
    said, name = [], "あ" * 100 + ".mp4"
    assert len(name.encode()) > longest(tmp_path)
    path = write_mp4(tmp_path / name, [frames()], RATE, say=said.append)
    assert [*tmp_path.iterdir()] == [path] and len(pictures(path)) == 5
    assert path.suffix == ".mp4" and set(path.stem) == {"あ"} and len(path.name.encode()) <= 200
    assert said == [f"The name {name} is too long, or not allowed on this disk: the video is {path.name}."]
    # The next one finds the short name taken.
    again = write_mp4(tmp_path / name, [frames()], RATE, say=said.append)
    assert again != path and sorted(tmp_path.iterdir()) == sorted([path, again])


def test_a_name_as_long_as_the_disk_takes_is_kept_and_numbered_on_shorter(tmp_path):
    name = "n" * (longest(tmp_path) - 4) + ".mp4"
    assert write_mp4(tmp_path / name, [frames()], RATE).name == name
    second = write_mp4(tmp_path / name, [frames()], RATE)
    third = write_mp4(tmp_path / name, [frames()], RATE)
    assert len({name, second.name, third.name}) == 3 and len([*tmp_path.iterdir()]) == 3


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("error", [errno.EINVAL, errno.EILSEQ, errno.ENOENT, errno.ENAMETOOLONG])
def test_a_name_that_the_disk_refuses_is_replaced(tmp_path, monkeypatch, error, links):
    """A disk such as Windows' or a phone's."""
    really, opened = os.link, open

    def refuse(name):
        if any(char in str(name) for char in ':?"'):
            raise OSError(error, "no name")

    def link(source, target):
        refuse(target)
        if not links:
            raise OSError(errno.EPERM, "no links here")
        really(source, target)

    def opening(file, *mode, **options):
        refuse(file)
        return opened(file, *mode, **options)

    monkeypatch.setattr("os.link", link)
    monkeypatch.setattr("builtins.open", opening)
    said = []
    path = write_mp4(tmp_path / 'say: "why?".mp4', [frames()], RATE, say=said.append)
    monkeypatch.undo()
    assert path.name == "say_ _why_.mp4" and len(pictures(path)) == 5 and [*tmp_path.iterdir()] == [path]
    assert len(said) == 1 and path.name in said[0]


def test_a_taken_name_is_said(tmp_path):
    said = []
    for _ in range(2):
        path = write_mp4(tmp_path / "v.mp4", [frames()], RATE, say=said.append)
    assert said == ["The name v.mp4 is taken: the video is v_00001_.mp4."] and path.name == "v_00001_.mp4"


# Shape


@pytest.mark.parametrize("name", [name for name, format in FORMATS.items() if format.suffix not in ("", ".gif")])
def test_pixels_that_are_not_square_are_told_to_the_player(tmp_path, name):
    format = FORMATS[name]
    path = write_video(tmp_path / f"v{format.suffix}", [frames(2)], RATE, format, pixel_aspect=Fraction(32, 27))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == SIZE[::-1]
        # WebM stores the width as shown, in whole pixels.
        assert float(stream.sample_aspect_ratio) == pytest.approx(32 / 27, rel=0.01)


# Formats

WRITTEN = {
    "mp4 (H.264)": ("h264", "yuv420p", "aac"), "mp4 (HEVC)": ("hevc", "yuv420p", "aac"), "mp4 (AV1)": ("av1", "yuv420p", "aac"),
    "mp4 (AV1, 10 bit)": ("av1", "yuv420p10le", "aac"), "mov (ProRes)": ("prores", "yuv422p10le", "pcm_s24le"),
    "webm (VP9)": ("vp9", "yuv420p", "opus"),
}  # fmt: skip
TAGS = {"workflow": json.dumps({"a": 'Ünï "=;#\\\n'}, ensure_ascii=False), "prompt": json.dumps({"b": [1, None]})}


def test_each_format_is_tested():
    assert {*FORMATS} == {*WRITTEN, "gif", "png sequence"}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_format_holds_frames_rate_colours_sound_and_tags(tmp_path, name):
    codec, pixels, sound = WRITTEN[name]
    format, said = FORMATS[name], []
    made = frames(30)
    path = write_video(
        tmp_path / f"v{format.suffix}", made.split(7), Fraction(30000, 1001), format, 10, tones(6, "5.1"), TAGS, say=said.append
    )
    assert [*tmp_path.iterdir()] == [path] and not said and format_of(path).suffix == format.suffix
    with av.open(str(path), metadata_encoding="utf-8") as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert codec in video.codec_context.name or codec in video.codec_context.codec.canonical_name
        assert (video.codec_context.pix_fmt, audio.layout.name) == (pixels, "5.1")
        assert audio.codec_context.codec.canonical_name == sound
        assert float(video.average_rate) == pytest.approx(30000 / 1001, rel=1e-3)
        tags = {key.lower(): value for key, value in container.metadata.items()}
        assert {key: tags.get(key) for key in TAGS} == TAGS
        decoded = [*container.decode(video=0)]
        assert len(decoded) == 30
        assert {(f.colorspace, f.color_primaries, f.color_trc, f.color_range) for f in decoded} == {(1, 1, 1, 1)}
    off = 255 * (np.stack([frame.to_ndarray(format="gbrpf32le") for frame in decoded]) - made.numpy())
    # The detail of colours is halved; reading adds half a level.
    assert np.abs(off).mean() < 4 and np.abs(off.mean((0, 1, 2))).max() < 1


def test_hevc_is_tagged_as_apples_players_want_it(tmp_path):
    path = write_video(tmp_path / "v.mp4", [frames()], RATE, FORMATS["mp4 (HEVC)"])
    assert b"hvc1" in path.read_bytes() and b"hev1" not in path.read_bytes()


@pytest.mark.parametrize("rate, count", [(Fraction(25), 5), (Fraction(30000, 1001), 5), (Fraction(60), 5)])
def test_a_gif_repeats_for_ever_with_a_palette_for_each_frame(tmp_path, rate, count):
    made = frames()
    path = write_video(tmp_path / "v.gif", [made], rate, FORMATS["gif"], audio=tones(2), metadata=TAGS)
    content = path.read_bytes()
    assert content.startswith(b"GIF89a") and b"NETSCAPE2.0\x03\x01\x00\x00" in content
    found = pictures(path)
    if rate <= 50:
        assert len(found) == 5 and np.abs(found - 255.0 * made.numpy()).mean() < 8
    else:
        assert len(found) == 4


def test_odd_sizes_are_written_where_the_format_allows_it(tmp_path):
    made = frames()[:, :47, :63]
    for name in ("gif", "png sequence"):
        path = write_video(tmp_path / f"v{FORMATS[name].suffix}", [made], RATE, FORMATS[name])
        assert pictures(path / "00001.png" if path.is_dir() else path).shape[1:] == (47, 63, 3)
    with pytest.raises(ValueError, match=r"^ProRes needs an even width; got 63×47\."):
        write_video(tmp_path / "odd.mov", [made], RATE, FORMATS["mov (ProRes)"])
    with pytest.raises(ValueError, match=r"^VP9 needs even width and height; got 63×47\."):
        write_video(tmp_path / "odd.webm", [made], RATE, FORMATS["webm (VP9)"])


def texts(png: bytes) -> dict:
    """The iTXt chunks; all sums are checked."""
    at, found = 8, {}
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, content, total = png[at + 4 : at + 8], png[at + 8 : at + 8 + length], png[at + 8 + length : at + 12 + length]
        assert struct.pack(">I", zlib.crc32(kind + content)) == total
        if kind == b"iTXt":
            keyword, _, rest = content.partition(b"\0")
            found[keyword.decode()] = rest[4:].decode()
        at += 12 + length
    return found


def test_a_png_sequence_is_a_folder_of_exact_pictures(tmp_path):
    made, folder = (frames(12) * 255).round() / 255, tmp_path / "50 % of it"
    path = write_video(folder, made.split(5), RATE, FORMATS["png sequence"], audio=tones(2), metadata=TAGS)
    assert path == folder and [*tmp_path.iterdir()] == [path]
    files = sorted(path.iterdir())
    assert [file.name for file in files] == [f"{number:05}.png" for number in range(1, 13)]
    for file, frame in zip(files, made):
        assert np.array_equal(pictures(file)[0], (255 * frame).round().numpy())
    assert texts(files[0].read_bytes()) == TAGS and not texts(files[1].read_bytes())


@pytest.mark.parametrize("filled", [False, True, "file"])
def test_a_png_sequence_never_mixes_with_what_is_there(tmp_path, filled):
    (tmp_path / "v").write_text("kept") if filled == "file" else (tmp_path / "v").mkdir()
    if filled is True:
        (tmp_path / "v/00001.png").write_text("kept")
    path = write_video(tmp_path / "v", [frames(2)], RATE, FORMATS["png sequence"])
    assert len([*path.iterdir()]) == 2 and not [*tmp_path.glob(".*")]
    if filled:
        assert path.name == "v_00001_"
        assert (tmp_path / "v" if filled == "file" else tmp_path / "v/00001.png").read_text() == "kept"


@pytest.mark.parametrize("name", FORMATS)
def test_an_interrupted_video_leaves_nothing_in_any_format(tmp_path, name):
    def chunks():
        yield frames(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / f"v{FORMATS[name].suffix}", chunks(), RATE, FORMATS[name], audio=tones(8), metadata=TAGS)
    assert not [*tmp_path.iterdir()]


def test_what_this_ffmpeg_lacks_is_refused_by_name(tmp_path, monkeypatch):
    script = tmp_path / "ffmpeg"
    script.write_text("#!/bin/sh\necho ' V....D libx264 H.264'\necho ' V....D libaom-av1 AV1'\necho ' A....D aac AAC'\n")
    script.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(script))
    assert encoder_for(H264).name == "libx264" and encoder_for(FORMATS["mp4 (AV1)"]).name == "libaom-av1"
    for name, encoder in (("mp4 (HEVC)", "libx265"), ("webm (VP9)", "libvpx-vp9"), ("mov (ProRes)", "prores_ks")):
        with pytest.raises(RuntimeError) as error:
            write_video(tmp_path / "v", (pytest.fail("a frame was asked for") for _ in [1]), RATE, FORMATS[name])
        assert str(error.value) == (
            f"Format {name} needs ffmpeg's encoder {encoder}, which {script} lacks: choose another format, or set "
            "IMAGEIO_FFMPEG_EXE to an ffmpeg that has it."
        )
    assert [*tmp_path.iterdir()] == [script]


def test_the_formats_crf_scales_reach_from_end_to_end():
    for format in FORMATS.values():
        for encoder in format.encoders:
            if encoder.crf is not None:
                ends = [int(encoder.arguments(crf)[-1]) for crf in (0, formats.HIGHEST_CRF)]
                assert tuple(ends) == encoder.crf


@pytest.mark.parametrize(
    "name, format",
    [("a.MP4", "mp4 (H.264)"), ("a.mov", "mov (ProRes)"), ("a.webm", "webm (VP9)"), ("a.gif", "gif"), ("a", "png sequence")],
)
def test_a_files_ending_names_its_format(name, format):
    assert format_of(Path(name)) is FORMATS[format]


def test_an_ending_without_format_is_refused():
    with pytest.raises(
        ValueError, match=r"^No format ends in \.avi: take one of \.mp4, \.mov, \.webm, \.gif, or a name without"
    ):
        format_of(Path("a.avi"))
