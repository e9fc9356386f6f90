"""What changes in the middle of a video: its orientation, size and shape, a stream that pauses, times that are of no use."""

from fractions import Fraction

import av
import pytest
import torch
from liveditor_isa.video.clip import open_clip
from liveditor_isa.video.geometry import letterboxed
from liveditor_isa.video.sound import read_sound
from liveditor_isa.video.source import FileSource
from recordings import X264, ffmpeg

CIRCLE = "if(lt(hypot((X-W/2)*{aspect},Y-H/2),H*0.3),235,16)"
RED_LEFT = "color=black:s=64x48:r=25:d=0.2,drawbox=0:0:32:48:red:fill"


def read(path):
    clip = open_clip(FileSource(path), 0, 0)
    return clip, torch.cat([*clip.chunks()])


def joined(path, *parts):
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def h264(path, filters: str, *options):
    ffmpeg("-f", "lavfi", "-i", filters, *X264, "-bf", 0, "-qp", 0, *options, path)
    return path


def turned(path, by: str):
    """A stream that is turned by a message before its first frame, and nowhere else."""
    plain = h264(path.with_suffix(".plain.h264"), RED_LEFT)
    ffmpeg("-i", plain, "-c", "copy", "-bsf:v", f"h264_metadata=display_orientation=insert:{by}", path)
    return path


def test_a_message_that_turns_the_picture_holds_until_the_next(tmp_path):
    once = turned(tmp_path / "once.h264", "rotate=90")
    with av.open(str(once)) as container:
        assert [frame.rotation != 0 for frame in container.decode(video=0)] == [True] + [False] * 4
    clip, images = read(once)
    assert clip.size == (48, 64) and clip.notices == ()
    assert all((image - images[0]).abs().max() < 0.1 for image in images)
    _, mirrored = read(turned(tmp_path / "mirrored.h264", "flip=horizontal"))
    assert (mirrored[:, :, -16:, 0] > 0.9).all() and (mirrored[:, :, :16, 0] < 0.1).all()


def test_a_picture_that_is_turned_on_the_way_is_fitted_into_the_first(tmp_path):
    parts = h264(tmp_path / "a.h264", RED_LEFT), turned(tmp_path / "b.h264", "rotate=90")
    clip, images = read(joined(tmp_path / "v.h264", *parts))
    assert clip.size == (64, 48) and len(images) == 10 and "size or shape changes" in clip.notices[0]
    # 36 of 64 columns hold the turned picture: one half of its height is red.
    assert images[9][:, :12].max() < 0.05 and images[9][:, -12:].max() < 0.05
    red = images[9][..., 0] > 0.5
    assert red[:, 20:44].any(0).all() and float(red.float().mean()) == pytest.approx(36 / 64 / 2, abs=0.03)


def roundness(image: torch.Tensor) -> float:
    """Of a circle, in the picture's own pixels."""
    bright = image[..., 1] > 0.5
    return int((bright.sum(0) > 2).sum()) / int((bright.sum(1) > 2).sum())


@pytest.mark.parametrize("seconds", [0.4, 6])  # what probing reads is more than the first, and less than the second
@pytest.mark.parametrize(
    "first, second", [((180, 144, "16/15"), (180, 144, "64/45")), ((320, 180, "1"), (180, 144, "64/45")), ((180, 144, "64/45"), (320, 180, "1"))]
)  # fmt: skip
def test_the_shape_of_pixels_is_the_firsts_and_others_are_fitted(tmp_path, seconds, first, second):
    parts = []
    for name, (width, height, aspect), length in (("a.ts", first, seconds), ("b.ts", second, 0.4)):
        circle = CIRCLE.format(aspect=float(Fraction(aspect)))
        source = f"color=black:s={width}x{height}:r=25:d=0.04,geq=lum='{circle}':cb=128:cr=128,loop=-1:1,trim=duration={length}"
        parts.append(h264(tmp_path / name, f"{source},setsar={aspect}", "-g", 10))
    clip, images = read(joined(tmp_path / "v.ts", *parts))
    assert clip.size == first[:2] and clip.pixel_aspect == Fraction(first[2])
    for image in (images[0], images[-1]):
        assert roundness(image) * float(clip.pixel_aspect) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("size", [(64, 48), (320, 240), (1280, 960), (96, 96)])
def test_fitting_keeps_colours(size):
    colour = torch.tensor([0.75, 0.25, 0.1])
    fitted = letterboxed(colour.expand(120, 160, 3), size)
    assert fitted.shape == (*size[::-1], 3)
    middle = fitted[size[1] // 2, size[0] // 2]
    torch.testing.assert_close(middle, colour, atol=1e-3, rtol=0)
    inside = fitted[fitted.sum(-1) > 0]
    torch.testing.assert_close(inside, colour.expand_as(inside), atol=1e-3, rtol=0)
    assert len(inside) / (size[0] * size[1]) == pytest.approx(1 if size != (96, 96) else 3 / 4, abs=0.01)


@pytest.mark.parametrize("paused", ["sound", "picture"])
def test_picture_and_sound_are_together_after_one_of_them_paused(tmp_path, paused):
    """For longer than what counts as a jump of a transport stream's clock; ffmpeg's own command puts them apart."""
    flash = "color=gray:s=64x48:r=10:d=25,drawbox=c=white:t=fill:enable='between(t,21.999,22.05)'"
    click = "aevalsrc='if(between(t,22,22.02),0.9,0)':s=48000:d=25"
    missing = {"sound": ("-af", "aselect='not(between(t,4,18))'"), "picture": ("-vf", "select='not(between(t,4,18))'")}[paused]
    inputs = ("-f", "lavfi", "-i", flash, "-f", "lavfi", "-i", click)
    ffmpeg(*inputs, *missing, "-fps_mode", "passthrough", *X264, "-g", 10, "-bf", 0, "-c:a", "mp2", tmp_path / "v.ts")
    clip, images = read(tmp_path / "v.ts")
    sound = clip.audio["waveform"][0, 0].abs()
    assert float(int(images.mean((1, 2, 3)).argmax()) / clip.fps) == pytest.approx(22, abs=0.11)
    assert int(sound.argmax()) / clip.audio["sample_rate"] == pytest.approx(22, abs=0.05)


def varying(path, spoil=lambda index, packet: None):
    """1 s at 25 fps, then 3 s at 5 fps, with a white frame at 3 s and a click in the sound then. spoil: changes a packet's time."""
    flash = "color=gray:s=64x48:r=25:d=4,drawbox=c=white:t=fill:enable='between(t,2.999,3.05)',select='lt(t,1)+not(mod(n,5))'"
    click = "aevalsrc='if(between(t,3,3.01),0.9,0)':s=16000:d=4"
    made = path.with_suffix(".made.mkv")
    inputs = ("-f", "lavfi", "-i", flash, "-f", "lavfi", "-i", click)
    ffmpeg(*inputs, *X264, "-bf", 0, "-fps_mode", "vfr", "-c:a", "pcm_s16le", made)
    with av.open(str(made)) as read_from, av.open(str(path), "w") as written:
        streams = {stream.index: written.add_stream_from_template(stream) for stream in read_from.streams}
        index = 0
        for packet in read_from.demux():
            if packet.dts is not None:
                if packet.stream.type == "video":
                    spoil(index, packet)
                    index += 1
                packet.stream = streams[packet.stream_index]
                written.mux(packet)
    return path


class Repeats:
    """Gives some packets the time of the one before."""

    def __init__(self, *which):
        self.which, self.before = which, None

    def __call__(self, index, packet):
        if index in self.which:
            packet.pts = packet.dts = self.before
        self.before = packet.pts


@pytest.mark.parametrize("repeated", [(), (10,), (3, 30), (28, 29)])
def test_a_few_repeated_times_do_not_undo_the_others(tmp_path, repeated):
    clip, images = read(varying(tmp_path / "v.mkv", Repeats(*repeated)))
    assert float(clip.frames / clip.fps) == pytest.approx(4, abs=0.3)
    assert float(int(images.mean((1, 2, 3)).argmax()) / clip.fps) == pytest.approx(3, abs=0.11)
    assert int(clip.audio["waveform"][0, 0].abs().argmax()) / 16_000 == pytest.approx(3, abs=0.02)


def test_where_most_times_are_repeated_frames_are_even(tmp_path):
    clip, _ = read(varying(tmp_path / "v.mkv", Repeats(*range(2, 40))))
    assert clip.frames == 40


class Leaps:
    """Puts some packets' times ahead, as in a damaged file."""

    def __init__(self, *which):
        self.which = which

    def __call__(self, index, packet):
        if index in self.which:
            packet.pts = packet.pts + int(50_000 / packet.time_base)


@pytest.mark.parametrize("ahead", [(5,), (3, 20, 30), (39,)])
def test_times_far_ahead_do_not_fill_hours(tmp_path, ahead):
    clip, images = read(varying(tmp_path / "v.mkv", Leaps(*ahead)))
    # Where it is the last frame's, nothing tells it from a time of use but its size, and the frames are even.
    assert float(clip.frames / clip.fps) == pytest.approx(4 if ahead != (39,) else 1.6, abs=0.3)
    assert clip.audio["waveform"].shape[-1] <= 16_000 * (float(clip.frames / clip.fps) + 0.01)


@pytest.mark.parametrize("period, seconds", [(30, 150), (1000, 5)])
def test_a_rate_of_a_frame_in_hours_does_not_fill_them(tmp_path, period, seconds):
    """A slide show is one, a damaged header is not."""
    path = tmp_path / "v.avi"
    ffmpeg("-f", "lavfi", "-i", f"color=red:64x48:rate=1/{period}", "-frames:v", 5, "-c:v", "mjpeg", path)
    clip = open_clip(FileSource(path), 0, 4)
    assert clip.frames == 4 * seconds and clip.source_frames == 5


def test_sound_far_ahead_does_not_fill_hours():
    def block(second):
        frame = av.AudioFrame(format="flt", layout="mono", samples=1000)
        frame.sample_rate, frame.pts, frame.time_base = 1000, second * 1000, Fraction(1, 1000)
        return frame

    sound = read_sound([block(0), block(50_000), block(1)], Fraction(0), Fraction(100_000))
    assert sound["waveform"].shape[-1] == 2000


def test_colours_that_ffmpeg_does_not_convert_are_named(tmp_path):
    path = h264(tmp_path / "v.mp4", RED_LEFT, "-bsf:v", "h264_metadata=matrix_coefficients=8")
    with pytest.raises(ValueError, match=r"its colours are in YCgCo, which ffmpeg does not convert\)\. If a player shows it"):
        read(path)


@pytest.mark.parametrize("size", ["16x4", "4x16", "16x6", "6x2"])
def test_tiny_interlaced_frames_are_read(tmp_path, size):
    source = f"testsrc2=s={size}:r=25:d=0.2,setfield=tff"
    ffmpeg("-f", "lavfi", "-i", source, "-c:v", "ffv1", "-pix_fmt", "yuv420p", "-field_order", "tt", tmp_path / "v.mkv")
    assert len(read(tmp_path / "v.mkv")[1]) == 5
