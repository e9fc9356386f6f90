"""From the samples of a decoded frame to colours: exact levels in every pixel format, at every size, on every pass."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from liveditor_isa.video.filters import Chain
from liveditor_isa.video.pixels import FULL_RANGE, UPRIGHT, Pixels, Shown
from liveditor_isa.video.source import FileSource
from liveditor_isa.video.writing.encode import write_video
from liveditor_isa.video.writing.formats import H264
from recordings import SIZE

FORMATS_OF_SAMPLES = [
    "yuv420p", "yuv422p", "yuv444p", "yuv410p", "yuv420p10le", "yuv422p10le", "yuv444p12le", "yuv444p16le", "yuva420p", "nv12",
    "p010le", "yuyv422", "uyvy422", "yuvj420p", "yuvj444p", "gray", "gray10le", "gray16le", "ya8", "rgb24", "bgr0", "rgba",
    "gbrp", "gbrp10le", "gbrp16le", "rgb48be", "gbrpf32le", "x2rgb10le",
]  # fmt: skip
OF_FEW_LEVELS = ["rgb565le", "bgr555le"]


def converted(frame: av.VideoFrame) -> torch.Tensor:
    return Pixels()(Shown(frame, UPRIGHT, Fraction(1)))


def grey(level: float, name: str, full_range: bool) -> av.VideoFrame:
    """A frame of one grey, rounded by ffmpeg to what the format holds."""
    frame = av.VideoFrame.from_ndarray(np.full((32, 64), round(level * 65_535), "<u2"), format="gray16le")
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format="gray16le", time_base=Fraction(1, 25))
    scale = graph.add("scale", f"flags=accurate_rnd+full_chroma_int:sws_dither=none:out_range={'pc' if full_range else 'tv'}")
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    return Chain(graph, [source, scale, graph.add("format", name), graph.add("buffersink")]).push(frame)[0]


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("name", FORMATS_OF_SAMPLES + OF_FEW_LEVELS)
def test_black_grey_and_white_keep_their_levels(name, full_range):
    if name == "p010le" and full_range:
        pytest.skip("ffmpeg makes no grey of it")
    for level in (0, 1) if name in OF_FEW_LEVELS else (0, 0.25, 0.5, 0.75, 1):
        frame = grey(level, name, full_range)
        assert frame.format.name == name
        if "yuv" in name and not name.startswith("yuvj"):
            assert (frame.color_range == FULL_RANGE) is full_range
        off = (converted(frame) - level).abs().max() * 255
        # Making the frame rounds to steps of 255/219.
        assert off < 1.1, f"{level} is off by {off:.2f} levels"


@pytest.mark.parametrize("name", ["v.png", "v.bmp", "v.tiff", "v.gif"])
def test_a_palette_has_its_own_colours(tmp_path, name):
    from PIL import Image

    colours = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    picture = Image.fromarray(colours).quantize(64)
    picture.save(tmp_path / name)
    image = next(FileSource(tmp_path / name).images([0]))
    drawn = torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32))
    assert (image * 255 - drawn).abs().max() < 0.2


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 70), st.integers(2, 50), st.sampled_from(["yuv420p", "yuv444p10le", "yuvj420p", "rgb24", "gray"]))
def test_a_frame_of_any_size_gives_the_same_each_time(width, height, name):
    drawn = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(drawn, format="rgb24").reformat(format=name)
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    once = converted(frame)
    assert once.shape == (height, width, 3) and all(torch.equal(converted(frame), once) for _ in range(3))


def test_a_video_that_is_written_and_read_ten_times_keeps_its_colours(tmp_path):
    """The writer's share is less than 0.05 levels each time (test_writing.py); this is both, without compression."""
    waves = torch.linspace(0, 6, SIZE[0])[:, None, None] + torch.arange(3)
    now = (0.5 + 0.3 * (waves + torch.linspace(0, 4, SIZE[1])[:, None]).sin()).movedim(0, 1)[None].expand(4, -1, -1, -1)
    first = now
    for generation in range(10):
        path = tmp_path / f"{generation}.mp4"
        write_video(path, [now], Fraction(25), H264, 0)
        source = FileSource(path)
        now = torch.stack([*source.images(range(len([*source.stamps()])))])
        drift = 255 * (now - first).mean((0, 1, 2)) / (generation + 1)
        assert drift.abs().max() < 0.1, f"generation {generation}: {drift.tolist()} levels each"
