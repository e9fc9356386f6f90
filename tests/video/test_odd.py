"""Videos as cameras, phones and other programs make them: real files by ffmpeg, read as core reads them, in time with their sound."""

import io
from fractions import Fraction

import av
import pytest
import torch
from comfy_api.latest import InputImpl
from hypothesis import given, settings
from hypothesis import strategies as st
from liveditor_isa.comfyui.video_source import open_video
from recordings import SIZE, X264, ffmpeg, made, moving, shown


def all_frames(video, length: int = 0, fps: float = 0) -> tuple:
    clip = open_video(video, length, fps)
    images = torch.cat([*clip.chunks(3)])
    assert images.shape == (clip.frames, *clip.size[::-1], 3) and images.dtype == torch.float32
    return clip, images


def like_core(images, video) -> bool:
    """Whether these are the frames that core gives; its conversion is less exact. The next frame differs by 8 levels on average."""
    expected = video.get_components().images[..., :3]
    return images.shape == expected.shape and bool(((images - expected).abs().mean((1, 2, 3)) < 3 / 255).all())


HDR = ("-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc")
KINDS = {
    "h264 with B-frames": ("v.mp4", *X264, "-bf", "3"),
    "h264 with 10 bits": ("v.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p10le"),
    "hevc with 10 bits and HDR": ("v.mp4", "-c:v", "libx265", "-x265-params", "log-level=0", "-pix_fmt", "yuv420p10le", *HDR),
    "full range": ("v.mp4", "-c:v", "libx264", "-pix_fmt", "yuvj420p"),
    "prores with alpha": ("v.mov", "-c:v", "prores_ks", "-pix_fmt", "yuva444p10le"),
    "vp9 with alpha": ("v.webm", "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "-cpu-used", "8"),
    "png with alpha": ("v.mov", "-c:v", "png", "-pix_fmt", "rgba"),
    "grey": ("v.mkv", "-c:v", "ffv1", "-pix_fmt", "gray"),
    "gif": ("v.gif",),
    "motion jpeg": ("v.avi", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p"),
    "old camera": ("v.mpg", "-c:v", "mpeg2video"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_what_ffmpeg_shows(tmp_path, kind):
    name, *options = KINDS[kind]
    video = made(tmp_path / name, *options)
    _, images = all_frames(video)
    assert len(images) == 8 and like_core(images, video)
    assert (images - shown(tmp_path / name)).abs().max() < 1.1 / 255
    # It shows what was drawn, also under transparency.
    assert images[:, 2:5, 2:5, 0].min() > 0.5 > images[:, 2:5, 2:5, 1:].max() or kind == "grey" or "HDR" in kind


@settings(max_examples=8, deadline=None)
@given(st.integers(2, 70), st.integers(2, 50), st.integers(1, 5))
def test_any_size_and_number_of_frames(width, height, count):
    options = ("-c:v", "ffv1", "-pix_fmt", "yuv444p", "-f", "matroska")
    raw = ["-f", "rawvideo", "-pix_fmt", "rgba", "-s", f"{width}x{height}", "-r", "25", "-i", "pipe:0"]
    video = InputImpl.VideoFromFile(io.BytesIO(ffmpeg(*raw, *options, "pipe:1", stdin=moving(count, width, height))))
    clip, images = all_frames(video)
    assert clip.size == (width, height) and clip.frames == count
    drawn = torch.frombuffer(bytearray(moving(count, width, height)), dtype=torch.uint8).view(count, height, width, 4)
    assert (images - drawn[..., :3] / 255).abs().max() < 2.5 / 255


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_a_rotated_recording_is_upright_as_players_show_it(tmp_path, angle):
    made(tmp_path / "plain.mp4", *X264)
    ffmpeg("-display_rotation", angle, "-i", tmp_path / "plain.mp4", "-c", "copy", tmp_path / "turned.mp4")
    video = InputImpl.VideoFromFile(str(tmp_path / "turned.mp4"))
    clip, images = all_frames(video)
    assert clip.size == (SIZE if angle == 180 else SIZE[::-1])
    assert like_core(images, video)
    players = ffmpeg("-i", tmp_path / "turned.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1")
    players = torch.frombuffer(bytearray(players), dtype=torch.uint8).view(8, *clip.size[::-1], 3) / 255
    assert (images - players).abs().mean() < 0.01 < (images.flip(1, 2) - players).abs().mean()


def flash_and_click(path, moment: float, *options, audio=("-c:a", "aac"), rate=25):
    """A grey video with a white frame at `moment` seconds and a click in its sound then."""
    flash = f"color=gray:s=64x48:r={rate}:d=2,drawbox=c=white:t=fill:enable='between(t,{moment - 0.001},{moment + 0.02})'"
    click = f"aevalsrc='if(between(t,{moment},{moment + 0.01}),0.9,0)':s=16000:d=2"
    ffmpeg("-f", "lavfi", "-i", flash, "-f", "lavfi", "-i", click, *X264, *audio, *options, path)
    return InputImpl.VideoFromFile(str(path))


def flash_and_click_seconds(video, length=0, fps=0) -> tuple[float, float]:
    clip, images = all_frames(video, length, fps)
    sound = clip.audio["waveform"][0, 0].abs()
    return int(images.mean((1, 2, 3)).argmax()) / clip.fps, int(sound.argmax()) / clip.audio["sample_rate"]


# Frames left out now and then: 17 of 50 in the first second, all later ones.
DROPPED = "select='gt(n,24)+eq(mod(n,3),0)'"


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
@pytest.mark.parametrize("fps", [0, 16])
def test_motion_and_sound_stay_together_at_a_varying_rate(tmp_path, name, fps):
    video = flash_and_click(tmp_path / name, 1.2, "-vf", DROPPED, "-fps_mode", "vfr")
    # By its number the white frame would be early: the average rate knows nothing of when frames are missing.
    with av.open(str(tmp_path / name)) as container:
        stream = container.streams.video[0]
        white = [frame.to_ndarray(format="gray").mean() for frame in container.decode(stream)]
        assert abs(white.index(max(white)) / float(stream.average_rate) - 1.2) > 0.15 or name == "v.mkv"
    flash, click = flash_and_click_seconds(video, fps=fps)
    assert float(flash) == pytest.approx(1.2, abs=0.04) and click == pytest.approx(1.2, abs=0.02)
    clip = open_video(video, 0, fps)
    assert float(clip.frames / clip.fps) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("kept, even", [("not(mod(n,40))", True), ("not(mod(n,40))*(gt(n,999)+not(mod(n,120)))", False)])
def test_a_file_whose_rate_is_only_its_clock_is_read_at_its_own(tmp_path, kept, even):
    """As browsers record: 1000 frames a second by their word."""
    video = flash_and_click(tmp_path / "v.mkv", 1.2, "-vf", f"select='{kept}'", "-fps_mode", "vfr", rate=1000)
    assert video.get_frame_rate() == 1000
    flash, click = flash_and_click_seconds(video)
    assert float(flash) == pytest.approx(1.2, abs=0.04) and click == pytest.approx(1.2, abs=0.02)
    clip = open_video(video, 0, 0)
    assert clip.fps == 25 if even else clip.fps < 25
    assert open_video(video, 10, 0).frames == 10


def test_the_limit_counts_frames_at_the_even_rate(tmp_path):
    video = flash_and_click(tmp_path / "v.mp4", 1.2, "-vf", DROPPED, "-fps_mode", "vfr")
    for length in (1, 7, 30):
        clip = open_video(video, length, 25)
        assert clip.frames == length and clip.audio["waveform"].shape[-1] == length * 640


@pytest.mark.parametrize(
    "name, options",
    [
        ("v.ts", ("-output_ts_offset", "3")),
        ("v.mkv", ("-output_ts_offset", "3")),
        ("v.mp4", ("-output_ts_offset", "3")),
    ],
)
def test_a_late_start_moves_neither_picture_nor_sound(tmp_path, name, options):
    video = flash_and_click(tmp_path / name, 0.8, *options)
    flash, click = flash_and_click_seconds(video, 40)
    assert float(flash) == pytest.approx(0.8, abs=0.001) and click == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("name", ["v.mkv", "v.mp4", "v.ts"])
@pytest.mark.parametrize("late", ["sound", "picture"])
def test_one_stream_may_start_later_than_the_other(tmp_path, name, late):
    flash_and_click(tmp_path / "whole.mkv", 1.2, audio=("-c:a", "aac"))
    whole = tmp_path / "whole.mkv"
    # The later stream begins 0.4 seconds after the other, with what belongs there.
    cut = ["-ss", "0.4", "-i", whole]
    first, second = ([*cut, "-i", whole] if late == "picture" else ["-i", whole, *cut]), ["-map", "0:v", "-map", "1:a"]
    ffmpeg(*first, *second, "-fps_mode", "passthrough", "-copyts", *X264, "-c:a", "aac", tmp_path / name)
    flash, click = flash_and_click_seconds(InputImpl.VideoFromFile(str(tmp_path / name)))
    assert click == pytest.approx(float(flash), abs=0.045)


@pytest.mark.parametrize("seconds, kept", [(0.5, 0.5), (2, 2), (5, 2)])
def test_sound_may_be_shorter_or_longer_than_the_picture(tmp_path, seconds, kept):
    sound = f"sine=frequency=300:sample_rate=16000:duration={seconds}"
    clip, _ = all_frames(made(tmp_path / "v.mkv", *X264, "-c:a", "pcm_s16le", count=50, sound=sound))
    assert clip.frames == 50 and clip.audio["waveform"].shape[-1] == round(kept * 16_000)


def test_one_frame(tmp_path):
    clip, images = all_frames(made(tmp_path / "v.mp4", *X264, count=1))
    assert clip.frames == 1 and clip.fps == 25


def test_a_stream_without_timestamps(tmp_path):
    made(tmp_path / "v.mp4", *X264)
    ffmpeg("-i", tmp_path / "v.mp4", "-c", "copy", "-f", "h264", tmp_path / "v.h264")
    clip, images = all_frames(InputImpl.VideoFromFile(str(tmp_path / "v.h264")))
    assert clip.frames == 8 and clip.fps == 25
    assert like_core(images, InputImpl.VideoFromFile(str(tmp_path / "v.mp4")))


def test_a_damaged_part_is_left_out_as_core_does(tmp_path):
    path = tmp_path / "v.ts"
    made(path, *X264, "-g", "10", count=40)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    video = InputImpl.VideoFromFile(str(path))
    clip = open_video(video, 0, 0)
    kept = torch.cat([*clip.chunks()])
    assert 20 < clip.frames <= 41
    assert kept.isfinite().all()


@pytest.mark.parametrize("size, bar", [((128, 96), None), ((96, 48), "above"), ((48, 48), "left")])
def test_frames_of_another_size_are_brought_to_the_firsts(tmp_path, size, bar):
    for name, of in (("a.ts", SIZE), ("b.ts", size)):
        made(tmp_path / name, *X264, size=of)
    (tmp_path / "both.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    clip, images = all_frames(InputImpl.VideoFromFile(str(tmp_path / "both.ts")))
    assert clip.frames == 16 and clip.size == SIZE
    assert clip.notices == ("The video's size or shape changes on the way: all frames are fitted into the first's, 64×48.",)
    before, after = images[7], images[15]
    if bar is None:
        # The first frame of either is the same drawing.
        assert (images[0] - images[8]).abs().mean() < 0.03
    dark = {"above": after[:6], "left": after[:, :6], None: torch.zeros(1)}[bar]
    assert dark.max() < 0.05 and after.mean() > 0.5 * before.mean()


# Reading it again


def test_two_passes_may_be_under_way_at_once(tmp_path):
    made(tmp_path / "v.mp4", *X264)
    for file in (str(tmp_path / "v.mp4"), io.BytesIO((tmp_path / "v.mp4").read_bytes())):
        clip = open_video(InputImpl.VideoFromFile(file), 0, 0)
        for one, other in zip(clip.chunks(2), clip.chunks(2), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("what", ["replaced", "deleted"])
def test_a_file_that_changed_during_the_run_is_said(tmp_path, what):
    clip = open_video(made(tmp_path / "v.mp4", *X264), 0, 0)
    (tmp_path / "v.mp4").unlink()
    if what == "replaced":
        made(tmp_path / "v.mp4", *X264, count=7)
    with pytest.raises(ValueError, match="changed, moved or deleted during the run: put it back and run again"):
        next(clip.chunks())


def test_a_trimmed_file_is_cores_too(tmp_path):
    video = made(
        tmp_path / "v.mp4", *X264, "-bf", "3", "-g", "12", "-c:a", "aac", count=40, sound="sine=frequency=300:duration=2"
    )
    for start, duration in ((0.3, 0.7), (0.52, 0), (-0.5, 0)):
        trimmed = InputImpl.VideoFromFile(str(tmp_path / "v.mp4"), start_time=start, duration=duration)
        clip, images = all_frames(trimmed)
        core = trimmed.get_components()
        assert like_core(images, trimmed)
        heard, whole = clip.audio["waveform"], core.audio["waveform"]
        seconds = min(float(clip.frames / clip.fps), whole.shape[-1] / 44_100)
        assert heard.shape[-1] / 44_100 == pytest.approx(seconds, abs=0.05)
    assert open_video(video, 0, 0).fps == Fraction(25)
