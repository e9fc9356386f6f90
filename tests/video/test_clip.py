"""Reading the part of a video that is edited: which frames, at which rate, with how much sound, from real files."""

import io
import math
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch
from comfy_api.latest import InputImpl, Types
from hypothesis import assume, given
from hypothesis import strategies as st
from liveditor_isa.comfyui.video_source import open_video
from liveditor_isa.video.clip import open_clip
from liveditor_isa.video.mp4 import write_mp4
from liveditor_isa.video.source import FileSource

RATES = [Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(25, 2)]


def read_frames(video, length, fps):
    """A clip with all its frames at once."""
    clip = open_video(video, length, fps)
    images = torch.cat([*clip.chunks(7)])
    assert len(images) == clip.frames and images.shape[2:0:-1] == clip.size
    return SimpleNamespace(images=images, fps=clip.fps, audio=clip.audio)


def numbered(count: int, width: int = 64, height: int = 48) -> torch.Tensor:
    """Grey frames that survive encoding with their number; at most 60."""
    return ((8 + 4 * torch.arange(count)) / 255).view(-1, 1, 1, 1).expand(-1, height, width, 3)


def numbers(images: torch.Tensor) -> list[int]:
    return ((images.mean((1, 2, 3)) * 255 - 8) / 4).round().int().tolist()


def tone(seconds: float, channels: int = 2, rate: int = 16_000) -> dict:
    wave = 0.3 * torch.sin(torch.arange(round(seconds * rate)) * 2 * math.pi * 200 / rate)
    return {"waveform": wave.expand(1, channels, -1), "sample_rate": rate}


def encode(path, frames, codec="libx264", pix_fmt="yuv420p", rate=25, times=None):
    """A file of any kind that av can write; times: of each frame, counted in frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray((image * 255).round().byte().numpy(), format="rgb24")
            frame.pts, frame.time_base = times[index] if times else index, 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return InputImpl.VideoFromFile(str(path))


@pytest.fixture(scope="module")
def talkie(tmp_path_factory) -> str:
    """50 numbered frames at 25 per second with stereo sound."""
    path = tmp_path_factory.mktemp("clip") / "talkie.mp4"
    write_mp4(path, [numbered(50)], Fraction(25), audio=tone(2))
    return str(path)


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """How many frames each pass over a file decoded."""
    counts = []
    original = FileSource._frames

    def frames(self):
        counts.append(0)
        for frame in original(self):
            counts[-1] += 1
            yield frame

    monkeypatch.setattr(FileSource, "_frames", frames)
    return counts


def in_memory(images, rate=25, audio=None):
    return InputImpl.VideoFromComponents(Types.VideoComponents(images=images, frame_rate=Fraction(rate), audio=audio))


@pytest.mark.parametrize("length, kept", [(0, 50), (1, 1), (13, 13), (49, 49), (50, 50), (51, 50), (100_000, 50)])
@pytest.mark.parametrize("source", ["file", "bytes", "components"])
def test_length_limits_frames_and_sound(talkie, source, length, kept):
    video = InputImpl.VideoFromFile(talkie)
    if source == "bytes":
        with open(talkie, "rb") as file:
            video = InputImpl.VideoFromFile(io.BytesIO(file.read()))
    elif source == "components":
        video = InputImpl.VideoFromComponents(video.get_components())
    clip = read_frames(video, length, 0)
    assert numbers(clip.images) == list(range(kept))
    assert clip.images.shape == (kept, 48, 64, 3) and clip.images.min() >= 0 and clip.images.max() <= 1
    assert clip.fps == 25
    assert clip.audio["sample_rate"] == 16_000 and clip.audio["waveform"].shape == (1, 2, kept * 640)


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("length", [0, 7])
def test_the_frame_rate_stays_exact(tmp_path, rate, length):
    write_mp4(tmp_path / "v.mp4", [numbered(12)], rate)
    clip = read_frames(InputImpl.VideoFromFile(str(tmp_path / "v.mp4")), length, 0)
    assert isinstance(clip.fps, Fraction) and clip.fps == rate
    assert len(clip.images) == (length or 12)
    assert clip.audio is None


@pytest.mark.parametrize(
    "fps, length, expected",
    [
        (12.5, 0, list(range(0, 50, 2))),
        (5, 4, [0, 5, 10, 15]),
        (50, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
        (100, 5, [0, 0, 0, 1, 1]),
        (16, 9, [0, 2, 3, 5, 6, 8, 9, 11, 12]),
        (25, 0, list(range(50))),
        (1, 0, [0, 25]),
    ],
)
def test_another_rate_takes_the_nearest_frame_in_time(talkie, fps, length, expected):
    clip = read_frames(InputImpl.VideoFromFile(talkie), length, fps)
    assert numbers(clip.images) == expected
    assert clip.fps == Fraction(fps).limit_denominator(1000)
    assert clip.audio["waveform"].shape[-1] == round(16_000 * len(expected) / fps)


def test_24_to_16_fps_skips_evenly():
    clip = read_frames(in_memory(numbered(24), 24), 0, 16)
    assert numbers(clip.images) == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19, 21, 22]


@given(st.integers(1, 60), st.fractions(1, 120, max_denominator=1001), st.integers(1, 120_000), st.integers(0, 80))
def test_resampling_is_even_and_exact_in_count(count, rate, thousandths, length):
    fps = thousandths / 1000
    wanted = Fraction(fps).limit_denominator(1000)
    assume(abs(fps / rate - 1) > 1e-3)
    clip = read_frames(in_memory(numbered(count, 2, 2), rate), length, fps)
    total = max(1, round(count * wanted / rate))
    assert len(clip.images) == (min(length, total) if length else total)
    step = rate / wanted
    picked = numbers(clip.images)
    for index, number in enumerate(picked):
        assert abs(number - min(index * step, count - 1)) <= Fraction(1, 2)
    inner = [number for number in picked if number < count - 1]
    assert {b - a for a, b in zip(inner, inner[1:])} <= {math.floor(step), math.ceil(step)}
    assert clip.fps == wanted


@pytest.mark.slow
@pytest.mark.parametrize("length, fps, most", [(10, 0, 13), (1, 0, 4), (4, 5, 23), (20, 50, 13), (30, 240, 7)])
def test_of_a_long_file_no_more_than_needed_is_decoded(tmp_path, decoded, length, fps, most):
    write_mp4(tmp_path / "long.mp4", [numbered(60)] * 5, Fraction(25), audio=tone(12))
    clip = read_frames(InputImpl.VideoFromFile(str(tmp_path / "long.mp4")), length, fps)
    assert len(clip.images) == length
    assert len(decoded) == 2 and max(decoded) <= most


def test_a_real_video_with_surround_sound(sample_video, decoded):
    clip = read_frames(InputImpl.VideoFromFile(str(sample_video)), 5, 0)
    assert clip.images.shape == (5, 720, 1280, 3) and clip.fps == 25
    assert clip.audio["waveform"].shape == (1, 6, clip.audio["sample_rate"] // 5)
    assert max(decoded) <= 8


def test_sound_is_cut_from_its_end(tmp_path):
    click = torch.zeros(1, 1, 32_000)
    click[..., 8000:8010] = 0.9
    write_mp4(tmp_path / "v.mp4", [numbered(50)], Fraction(25), audio={"waveform": click, "sample_rate": 16_000})
    heard = read_frames(InputImpl.VideoFromFile(str(tmp_path / "v.mp4")), 30, 0).audio["waveform"][0, 0]
    assert len(heard) == 19_200
    assert heard.abs().argmax() == pytest.approx(8005, abs=40)


def test_sound_shorter_than_the_picture_is_kept_whole():
    audio = tone(0.5)
    clip = read_frames(in_memory(numbered(25), 25, audio), 20, 0)
    assert torch.equal(clip.audio["waveform"], audio["waveform"])


def test_the_sources_sound_is_not_changed_in_place():
    audio = tone(2)
    video = in_memory(numbered(50), 25, audio)
    assert read_frames(video, 10, 0).audio["waveform"].shape[-1] == 6400
    assert audio["waveform"].shape[-1] == 32_000


@pytest.mark.parametrize("width, height", [(161, 91), (322, 182), (64, 31)])
def test_odd_sizes_are_read_whole(tmp_path, width, height):
    video = encode(tmp_path / "odd.mkv", numbered(5, width, height), "ffv1", "bgr0")
    clip = read_frames(video, 3, 0)
    assert clip.images.shape == (3, height, width, 3) and numbers(clip.images) == [0, 1, 2]
    torch.testing.assert_close(clip.images, numbered(3, width, height), atol=0.5 / 255, rtol=0)


@pytest.mark.parametrize(
    "name, codec, pix_fmt",
    [
        ("v.ts", "libx264", "yuv420p"),
        ("v.mkv", "libx264", "yuv444p"),
        ("v.webm", "libvpx", "yuv420p"),
        ("v.avi", "mjpeg", "yuvj420p"),
    ],
)
def test_other_containers(tmp_path, name, codec, pix_fmt):
    clip = read_frames(encode(tmp_path / name, numbered(50), codec, pix_fmt), 20, 0)
    assert numbers(clip.images) == list(range(20)) and clip.fps == 25


@pytest.mark.parametrize("length", [1, 20, 49])
def test_timestamps_may_start_late(tmp_path, length):
    # As those of broadcast recordings do.
    video = encode(tmp_path / "v.ts", numbered(50), times=range(40, 90))
    assert numbers(read_frames(video, length, 0).images) == list(range(length))


def test_a_late_start_is_no_reason_to_decode_everything(tmp_path, decoded):
    video = encode(tmp_path / "v.ts", numbered(60), times=range(40, 100))
    assert numbers(read_frames(video, 5, 0).images) == [0, 1, 2, 3, 4]
    assert max(decoded) <= 20


def test_uneven_timestamps_give_even_frames_that_keep_their_time(tmp_path):
    # Slow for four seconds, then at 25 per second.
    times = [*range(0, 100, 5), *range(100, 130)]
    video = encode(tmp_path / "v.mp4", numbered(50), times=times)
    clip = read_frames(video, 0, 0)
    assert clip.fps == video.get_frame_rate()
    for index, number in enumerate(numbers(clip.images)):
        now = index / clip.fps * 25
        assert abs(times[number] - now) == min(abs(time - now) for time in times)
    assert float(len(clip.images) / clip.fps) == pytest.approx(130 / 25, abs=0.15)


def test_a_file_trimmed_by_another_node_stays_trimmed(talkie):
    trimmed = InputImpl.VideoFromFile(talkie).as_trimmed(0.4, 0.8)
    assert numbers(read_frames(trimmed, 0, 0).images) == list(range(10, 30))
    assert numbers(read_frames(trimmed, 5, 0).images) == list(range(10, 15))
    assert numbers(read_frames(trimmed, 100, 0).images) == list(range(10, 30))


def test_transparency_is_dropped(tmp_path):
    path = str(tmp_path / "alpha.mkv")
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "bgra"
        pixels = torch.tensor([255, 0, 0, 100], dtype=torch.uint8).expand(16, 32, 4).numpy()
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        container.mux(stream.encode(None))
    clip = read_frames(InputImpl.VideoFromFile(path), 0, 0)
    assert clip.images.shape == (1, 16, 32, 3)
    torch.testing.assert_close(clip.images[0, 0, 0], torch.tensor([1.0, 0, 0]), atol=0.01, rtol=0)
    assert read_frames(in_memory(torch.rand(2, 16, 32, 4)), 0, 0).images.shape == (2, 16, 32, 3)


def sound_only(path, picture=False):
    """picture: with a video stream that holds nothing."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        if picture:
            empty = container.add_stream("ffv1", rate=25)
            empty.width, empty.height, empty.pix_fmt = 16, 16, "bgr0"
        frame = av.AudioFrame.from_ndarray(torch.zeros(1, 8000, dtype=torch.int16).numpy(), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    return InputImpl.VideoFromFile(str(path))


@pytest.mark.parametrize("length, fps", [(0, 0), (5, 0), (5, 16)])
@pytest.mark.parametrize("kind", ["components", "file", "trimmed past its end"])
def test_a_video_without_frames_is_refused(talkie, tmp_path, kind, length, fps):
    video = {
        "components": lambda: in_memory(torch.zeros(0, 8, 8, 3)),
        "file": lambda: sound_only(tmp_path / "none.mkv", picture=True),
        "trimmed past its end": lambda: InputImpl.VideoFromFile(talkie, start_time=30),
    }[kind]()
    with pytest.raises(ValueError, match=r"^The video holds no frame\. Pick another file, or check where it is trimmed\.$"):
        read_frames(video, length, fps)


UNREADABLE = {
    "empty": (lambda video: b"", "it is damaged, or no video: /.*bad.mp4"),
    "garbage": (lambda video: b"no video at all " * 100, "it is damaged, or no video: /.*bad.mp4"),
    # Its index, at the end, is missing.
    "truncated": (lambda video: video[: len(video) * 3 // 4], "its end is missing|it is damaged, or no video"),
}


@pytest.mark.parametrize("length", [0, 5])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_is_no_video_is_refused_in_one_line(tmp_path, kind, length):
    encode(tmp_path / "whole.mp4", numbered(10))
    path = tmp_path / "bad.mp4"
    spoil, why = UNREADABLE[kind]
    path.write_bytes(spoil((tmp_path / "whole.mp4").read_bytes()))
    message = rf"^The video cannot be read \(.*({why}).*\)\. If a player shows it, convert it to an mp4 [^\n]*\.$"
    with pytest.raises(ValueError, match=message) as info:
        read_frames(InputImpl.VideoFromFile(str(path)), length, 0)
    assert isinstance(info.value.__cause__, av.error.FFmpegError)


@pytest.mark.parametrize("length", [0, 5])
def test_a_missing_file_and_a_file_of_sound_only_are_refused(tmp_path, length):
    missing = InputImpl.VideoFromFile(str(tmp_path / "missing.mp4"))
    for video, why in ((sound_only(tmp_path / "sound.mka"), "No video stream found"), (missing, "No such file")):
        with pytest.raises(ValueError, match=rf"^The video cannot be read \(.*{why}"):
            read_frames(video, length, 0)


def test_a_file_needs_no_video_object(talkie, tmp_path, monkeypatch):
    # ffmpeg would take the beginning of such a name for a protocol.
    (tmp_path / "talk:1.mp4").write_bytes(Path(talkie).read_bytes())
    monkeypatch.chdir(tmp_path)
    for file in (talkie, Path(talkie), "talk:1.mp4", Path(talkie).read_bytes()):
        clip = open_clip(FileSource(file, start=0.4, duration=0.8), 0, 0)
        assert numbers(torch.cat([*clip.chunks()])) == list(range(10, 30))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_reading_ends_where_it_is_told_to(talkie, stop):
    """Also before the first frame that counts, which is the eleventh; and what was raised comes out as it was."""
    seen = []

    def each_frame():
        seen.append(1)
        if len(seen) == 3:
            raise stop("enough")

    with pytest.raises(stop, match="^enough$"):
        open_clip(FileSource(talkie, start=0.4, duration=0.04, each_frame=each_frame), 0, 0)
    assert len(seen) == 3


def test_reading_is_interrupted_as_comfyui_asks(talkie):
    import comfy.model_management

    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        open_video(InputImpl.VideoFromFile(talkie), 0, 0)
