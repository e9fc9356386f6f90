"""Recordings as people have them, which earlier editions read wrongly: docs/evidence/videos.md lists them."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from liveditor_isa.video.clip import open_clip
from liveditor_isa.video.composite import put_back
from liveditor_isa.video.geometry import crop_box, fit_frames
from liveditor_isa.video.region import Region, SourceFrames
from liveditor_isa.video.source import FileSource
from recordings import X264, ffmpeg

CORNERS = (
    "color=red:s=64x48:d=0.2:r=25,drawbox=32:0:32:24:lime:fill,drawbox=0:24:32:24:blue:fill,drawbox=32:24:32:24:white:fill"
)
TURNS = {
    "mirrored": ["-display_hflip"],
    "upside down": ["-display_vflip"],
    "turned and mirrored": ["-display_rotation", "90", "-display_hflip"],
    "turned and upside down": ["-display_rotation", "270", "-display_vflip"],
    "turned": ["-display_rotation", "90"],
}


def read(path, *arguments):
    clip = open_clip(FileSource(path), *(arguments or (0, 0)))
    return clip, torch.cat([*clip.chunks()])


def lavfi(path, *sources, options=()):
    ffmpeg(*(part for source in sources for part in ("-f", "lavfi", "-i", source)), *options, path)
    return path


def corners(image: torch.Tensor) -> list[str]:
    names = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 1): "white"}
    return [names[tuple(image[y, x].round().int().tolist())] for y, x in ((8, 8), (8, -8), (-8, 8), (-8, -8))]


def test_eight_channels_of_sound_are_read(tmp_path):
    tones = "aevalsrc=" + "|".join(f"0.5*sin({200 * (n + 1)}*2*PI*t)" for n in range(8)) + ":c=7.1:d=1"
    path = lavfi(tmp_path / "v.mp4", "testsrc2=s=64x48:r=25:d=1", tones, options=(*X264, "-c:a", "aac"))
    sound = read(path)[0].audio
    assert sound["layout"] == "7.1" and sound["waveform"].shape == (1, 8, 44_100)
    for channel in (0, 1, 7):
        loudest = int(torch.fft.rfft(sound["waveform"][0, channel]).abs().argmax())
        assert loudest == pytest.approx(200 * (channel + 1), abs=2)


def test_sound_that_is_not_used_is_not_read(tmp_path, monkeypatch):
    path = lavfi(tmp_path / "v.mp4", "testsrc2=s=64x48:r=25:d=1", "sine=d=1", options=(*X264, "-c:a", "aac"))
    monkeypatch.setattr(FileSource, "sound", lambda *_: pytest.fail("it was read"))
    assert open_clip(FileSource(path), 0, 0, sound=False).audio is None


def flash_and_click(path, seconds: float, moment: float, begins: float = 0):
    flash = f"color=gray:s=64x48:r=25:d={seconds},drawbox=c=white:t=fill:enable='between(t,{moment - 0.001},{moment + 0.02})'"
    click = f"aevalsrc='if(between(t,{moment},{moment + 0.01}),0.9,0)':s=48000:d={seconds}"
    return lavfi(path, flash, click, options=(*X264, "-g", 25, "-bf", 0, "-c:a", "aac", "-output_ts_offset", begins))


def moments(path, *arguments) -> tuple[float, float]:
    clip, images = read(path, *arguments)
    click = int(clip.audio["waveform"][0, 0].abs().argmax()) / clip.audio["sample_rate"]
    return float(int(images.mean((1, 2, 3)).argmax()) / clip.fps), click


@pytest.mark.parametrize("name", ["v.ts", "v.mkv", "v.mp4"])
def test_picture_and_sound_are_together_after_a_gap_in_both(tmp_path, name):
    parts = flash_and_click(tmp_path / "a.ts", 2, 9), flash_and_click(tmp_path / "b.ts", 2, 1.2, begins=3)
    (tmp_path / "v.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    if name != "v.ts":
        ffmpeg("-copyts", "-i", tmp_path / "v.ts", "-c", "copy", tmp_path / name)
    flash, click = moments(tmp_path / name)
    assert flash == pytest.approx(click, abs=0.06) and click == pytest.approx(4.2, abs=0.05)


@pytest.mark.parametrize("begins", [60, 3600])
def test_a_recording_whose_clock_is_set_back_goes_on(tmp_path, begins):
    """As where two recordings were joined, each with a clock of its own."""
    parts = flash_and_click(tmp_path / "a.ts", 2, 9, begins=begins), flash_and_click(tmp_path / "b.ts", 2, 1.2)
    (tmp_path / "v.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    flash, click = moments(tmp_path / "v.ts")
    assert flash == pytest.approx(3.2, abs=0.1) and click == pytest.approx(flash, abs=0.1)
    assert read(tmp_path / "v.ts")[0].frames == pytest.approx(100, abs=1)


def test_a_clock_that_wraps_loses_no_frame(tmp_path):
    lavfi(tmp_path / "v.mp4", "testsrc2=s=64x48:r=25:d=4", "sine=d=4", options=(*X264, "-g", 25, "-c:a", "aac"))
    ffmpeg("-i", tmp_path / "v.mp4", "-c", "copy", "-output_ts_offset", 95440, tmp_path / "v.ts")
    clip, images = read(tmp_path / "v.ts")
    assert clip.frames == 100 and torch.equal(images, read(tmp_path / "v.mp4")[1])
    assert clip.audio["waveform"].shape[-1] == pytest.approx(4 * 44_100, abs=1024)


@pytest.mark.parametrize("turn", TURNS)
def test_any_orientation_is_what_ffmpeg_shows(tmp_path, turn):
    lavfi(tmp_path / "plain.mp4", CORNERS, options=("-crf", 1, *X264))
    ffmpeg(*TURNS[turn], "-i", tmp_path / "plain.mp4", "-c", "copy", tmp_path / "v.mp4")
    clip, images = read(tmp_path / "v.mp4")
    raw = ffmpeg("-i", tmp_path / "v.mp4", "-frames:v", 1, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1")
    shown = torch.from_numpy(np.frombuffer(raw, np.uint8).copy()).view(*clip.size[::-1], 3) / 255
    assert corners(images[0]) == corners(shown)


@pytest.mark.parametrize("orientation, expected", [(2, "mirrored"), (4, "upside down"), (6, None)])
def test_a_picture_with_exif_orientation(tmp_path, orientation, expected):
    from PIL import Image

    picture = Image.new("RGB", (64, 48), "red")
    picture.paste("lime", (32, 0, 64, 24))
    picture.paste("blue", (0, 24, 32, 48))
    picture.paste("white", (32, 24, 64, 48))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "v.jpg", exif=exif, quality=95)
    _, images = read(tmp_path / "v.jpg")
    upright = ["red", "green", "blue", "white"]
    order = {"mirrored": [1, 0, 3, 2], "upside down": [2, 3, 0, 1], None: [2, 0, 3, 1]}[expected]
    assert corners(images[0]) == [upright[place] for place in order]


def test_an_animated_webp_is_refused_with_a_cure(tmp_path):
    from PIL import Image

    pictures = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue", "green")]
    pictures[0].save(tmp_path / "v.webp", save_all=True, append_images=pictures[1:], duration=100)
    with pytest.raises(ValueError, match=r"^An animated picture .* cannot be read: convert it to mp4 or GIF\.$"):
        read(tmp_path / "v.webp")


@pytest.mark.parametrize("name, count", [("v.gif", 3), ("v.png", 3), ("v.avif", 1)])
def test_other_pictures_are_read(tmp_path, name, count):
    from PIL import Image

    pictures = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue", "white")][:count]
    pictures[0].save(
        tmp_path / name, save_all=count > 1, append_images=pictures[1:], **({"duration": 100} if count > 1 else {})
    )
    _, images = read(tmp_path / name)
    assert len(images) == count and corners(images[0])[0] == "red"


@pytest.mark.parametrize("default", [0, 1])
def test_the_default_sound_track_is_taken_and_said(tmp_path, default):
    sources = ("testsrc2=s=64x48:r=25:d=1", "sine=440:d=1", "anullsrc=r=44100:cl=mono:d=1")
    maps = (
        "-map",
        0,
        "-map",
        1,
        "-map",
        2,
        "-t",
        1,
        f"-disposition:a:{default}",
        "default",
        f"-disposition:a:{1 - default}",
        0,
    )
    clip, _ = read(lavfi(tmp_path / "v.mp4", *sources, options=(*X264, "-c:a", "aac", *maps)))
    assert (clip.audio["waveform"].abs().max() > 0.05) == (default == 0)
    assert clip.notices == (f"The video has 2 sound tracks: track {default + 1} is used.",)


def test_a_cover_picture_is_not_the_video(tmp_path):
    cover = lavfi(tmp_path / "cover.jpg", "color=red:s=320x320", options=("-frames:v", 1))
    maps = ("-map", "1:v", "-map", "0:v", "-c:v:0", "copy", "-c:v:1", "libx264", "-pix_fmt", "yuv420p")
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=s=64x48:r=25:d=2",
        "-i",
        cover,
        *maps,
        "-disposition:v:0",
        "attached_pic",
        tmp_path / "v.mkv",
    )
    clip, _ = read(tmp_path / "v.mkv")
    assert clip.size == (64, 48) and clip.frames >= 48


def test_sound_that_changes_its_layout_and_rate_on_the_way(tmp_path):
    for name, *options in (("a.ts", "-ac", 2, "-ar", 48_000), ("b.ts", "-ac", 6, "-ar", 44_100, "-output_ts_offset", 2)):
        lavfi(tmp_path / name, "testsrc2=s=64x48:r=25:d=2", "sine=440:d=2", options=(*X264, "-c:a", "ac3", *options))
    (tmp_path / "v.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    clip, _ = read(tmp_path / "v.ts")
    sound = clip.audio["waveform"]
    assert clip.audio["layout"] == "stereo" and sound.shape[1] == 2
    for part in (sound[0, 0, 20_000:60_000], sound[0, 0, 120_000:160_000]):
        assert int(torch.fft.rfft(part).abs().argmax()) * 48_000 / 40_000 == pytest.approx(440, abs=3)


def test_pixels_that_are_not_square(tmp_path):
    """A circle stays one for the model, and the result put back has the source's pixels."""
    circle = "geq=lum='if(lt(hypot(X-427,Y-240),150),235,16)':cb=128:cr=128"
    source = f"color=black:s=854x480:r=25:d=0.2,{circle},scale=720:480,setsar=32/27"
    clip, images = read(lavfi(tmp_path / "v.mp4", source, options=X264))
    assert (
        clip.size == (720, 480)
        and clip.pixel_aspect == Fraction(32, 27)
        and clip.shown_size[0] == pytest.approx(853.3, abs=0.1)
    )
    fitted, crop = fit_frames(images[:1], 480, 272, clip.pixel_aspect)
    seen = fitted[0].mean(-1) > 0.5
    wide, high = (int(seen.any(axis).sum()) for axis in (0, 1))
    assert abs(wide - high) <= 2
    assert crop == crop_box(clip.size, 480, 272, clip.pixel_aspect)
    (back,) = put_back([(fitted[0], images[0])], Region(clip.size, crop), crop)
    assert back.shape == (480, 720, 3) and ((back - images[0]).abs() > 0.5).float().mean() < 0.01


def test_interlaced_frames_have_no_combs(tmp_path):
    bar = "[0][1]overlay=x='n*12':y=0,interlace=lowpass=0,setparams=field_mode=tff"
    options = ("-filter_complex", bar, "-x264-params", "tff=1", "-flags", "+ilme+ildct", "-crf", 8, *X264, "-t", 0.4)
    sources = "color=gray:s=360x288:r=50:d=0.4", "color=white:s=60x288:r=50:d=0.4"
    clip, images = read(lavfi(tmp_path / "v.mp4", *sources, options=options))
    assert clip.frames == 10 and clip.notices == ("The video is interlaced: its frames are deinterlaced.",)
    combs = (images[:, 1:-1] - (images[:, :-2] + images[:, 2:]) / 2).abs().mean()
    plain = torch.stack([*FileSource(tmp_path / "v.mp4").images(range(10))])
    assert combs < 0.2 * (plain[:, 1:-1] - (plain[:, :-2] + plain[:, 2:]) / 2).abs().mean()


HDR = "color=0xE6A082:s=192x128:r=25:d=0.2,drawbox=0:0:64:128:white:fill,drawbox=128:0:64:64:0x204080:fill,format=gbrpf32le"


@pytest.mark.slow
@pytest.mark.parametrize("name, transfer", [("HLG", "arib-std-b67"), ("PQ", "smpte2084")])
def test_hdr_looks_like_the_scene(tmp_path, name, transfer):
    known = "setparams=color_primaries=bt709:color_trc=bt709:colorspace=gbr"
    graded = f"{HDR},{known},scale=out_primaries=bt2020:out_transfer={transfer}:out_color_matrix=bt2020nc,format=yuv420p10le"
    tags = f"log-level=0:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    clip, images = read(lavfi(tmp_path / "v.mp4", graded, options=("-c:v", "libx265", "-x265-params", tags, "-crf", 6)))
    assert clip.notices == (f"The video's colours are {name}: they are converted to BT.709, standard dynamic range.",)
    for (y, x), colour in {(64, 32): (255, 255, 255), (64, 96): (230, 160, 130), (32, 160): (32, 64, 128)}.items():
        torch.testing.assert_close(images[0, y, x] * 255, torch.tensor(colour).float(), atol=8, rtol=0)


@pytest.mark.parametrize("size, matrix", [("1280x720", "bt709"), ("320x240", "smpte170m")])
def test_without_tags_hd_is_bt_709_and_less_is_bt_601(tmp_path, size, matrix):
    source = f"color=0xE6A082:s={size}:r=25:d=0.1,format=gbrp,scale=out_color_matrix={matrix},format=yuv420p"
    _, images = read(lavfi(tmp_path / "v.mkv", source, options=("-c:v", "ffv1")))
    torch.testing.assert_close(images[0, 50, 50] * 255, torch.tensor([230.0, 160, 130]), atol=4, rtol=0)


def squares(path, rate=50, count=40):
    """A white square that moves 2 pixels a frame."""
    grey, white = (
        f"color={colour}:s={size}:r={rate}:d={count / rate}" for colour, size in (("0x404040", "128x96"), ("white", "24x24"))
    )
    return lavfi(path, grey, white, options=("-filter_complex", "[0][1]overlay=x='n*2':y=36", "-crf", 4, *X264))


@pytest.mark.parametrize("arguments", [(0, 25), (0, 0), (0, 16), (10, 25), (0, 25, 4), (0, 50, 3, 2), (7, 30, 2, 3)])
def test_the_mask_of_a_source_frame_follows_it(tmp_path, arguments):
    path = squares(tmp_path / "v.mp4")
    masks = (read(path)[1].mean(-1) > 0.6).float()
    clip, images = read(path, *arguments)
    region = Region(clip.size, crop_box(clip.size, 128, 96), masks, frames=SourceFrames(clip.indices, clip.source_frames))
    assert region.notices() == []
    for index, image in enumerate(images):
        assert torch.equal(region.weights(index)[0] > 0.5, image.mean(-1) > 0.6)


def test_masks_of_the_edits_frames_are_taken_one_by_one_and_too_few_are_said(tmp_path):
    clip, images = read(squares(tmp_path / "v.mp4"), 0, 25)
    frames, crop = SourceFrames(clip.indices, clip.source_frames), crop_box(clip.size, 128, 96)
    masks = (images.mean(-1) > 0.6).float()
    region = Region(clip.size, crop, masks, frames=frames)
    assert all(torch.equal(region.weights(index)[0], masks[index]) for index in range(clip.frames)) and not region.notices()
    few = Region(clip.size, crop, masks[:7], frames=frames)
    assert few.notices() == [
        "There are 7 masks for 20 frames of the edit, which go up to frame 39 of the source: the last one is used for the rest."
    ]


@pytest.mark.parametrize(
    "length, fps, start, every, expected",
    [
        (5, 0, 10, 1, [10, 11, 12, 13, 14]),
        (5, 0, 0, 3, [0, 3, 6, 9, 12]),
        (4, 25, 5, 1, [10, 12, 14, 16]),
        (3, 25, 2, 2, [4, 8, 12]),
    ],
)
def test_a_start_and_every_nth_frame(tmp_path, length, fps, start, every, expected):
    click = "aevalsrc='if(between(t,0.3,0.31),0.9,0)':s=48000:d=0.8"
    path = tmp_path / "v.mp4"
    squares(tmp_path / "silent.mp4")
    ffmpeg("-i", tmp_path / "silent.mp4", "-f", "lavfi", "-i", click, "-c:v", "copy", "-c:a", "aac", path)
    clip, _ = read(path, length, fps, start, every)
    assert list(clip.indices) == expected and clip.fps == Fraction(fps or 50) / every
    begins = start / (fps or 50)
    if begins < 0.3 < begins + clip.frames / clip.fps:
        at = int(clip.audio["waveform"][0, 0].abs().argmax()) / 48_000
        assert at == pytest.approx(0.305 - begins, abs=0.02)


def test_a_start_past_the_end_is_said(tmp_path):
    path = squares(tmp_path / "v.mp4")
    with pytest.raises(ValueError, match=r"^start_frame 50 is past the end: the video has 40 frames at 50 fps\.$"):
        read(path, 0, 0, 50)
