"""The mp4 as others read it: frames, rate, colours, sound and metadata; and that a failed one leaves nothing behind."""

import errno
import json
import math
import random
import subprocess
import sys
import textwrap
import weakref
from fractions import Fraction

import av
import imageio_ffmpeg
import psutil
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from comfy_api.latest import InputImpl
from hypothesis import given, settings
from hypothesis import strategies as st
from liveditor_isa.comfyui.video_source import open_video
from liveditor_isa.video.mp4 import write_mp4


def grey(*numbers: int, width: int = 32, height: int = 16) -> torch.Tensor:
    """Frames that survive encoding with their number, 0 to 59."""
    return ((8 + 4 * torch.tensor(numbers)) / 255).view(-1, 1, 1, 1).expand(-1, height, width, 3)


def numbers(path) -> list[int]:
    with av.open(str(path)) as container:
        return [round((f.to_ndarray(format="rgb24").mean() - 8) / 4) for f in container.decode(video=0)]


def noise(count: int, size: int = 64) -> torch.Tensor:
    return torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(count))


def encoders() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if "ffmpeg" in p.name()]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_every_frame_is_written_once_and_in_order_however_chunked(tmp_path_factory, sizes):
    path = tmp_path_factory.mktemp("mp4") / "v.mp4"
    every = grey(*range(sum(sizes)))
    assert write_mp4(path, every.split(sizes), Fraction(25)) == path
    assert numbers(path) == list(range(sum(sizes)))
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize(
    "rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(16), Fraction(25, 2), Fraction(1250, 83)], ids=str
)
def test_stream_is_what_every_player_takes_at_the_exact_rate(tmp_path, rate):
    write_mp4(tmp_path / "v.mp4", [noise(5)[:, :50, :38]], rate)
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert "mp4" in container.format.name and not container.streams.audio
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (38, 50)
        assert stream.average_rate == rate and stream.frames == 5
        assert stream.duration * stream.time_base == 5 / rate
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        # 1 is BT.709 in all three, and limited range.
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)


def test_playback_can_start_before_the_file_is_loaded(tmp_path):
    write_mp4(tmp_path / "v.mp4", [noise(2)], Fraction(25))
    data = (tmp_path / "v.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


COLOURS = {
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128), "white": (255, 255, 255),
    "black": (0, 0, 0), "skin": (224, 172, 105), "teal": (26, 153, 178),
}  # fmt: skip


@pytest.mark.parametrize("colour", COLOURS.values(), ids=COLOURS)
def test_colours_come_back(tmp_path, colour):
    path = str(tmp_path / "v.mp4")
    write_mp4(path, [torch.tensor(colour).expand(2, 32, 32, 3) / 255], Fraction(25))
    with av.open(path) as container:
        frame = next(container.decode(video=0)).reformat(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG")
    pixels = torch.from_numpy(frame.to_ndarray()).float()
    assert (pixels - torch.tensor(colour)).abs().max() <= 3
    # ComfyUI's own reader goes by the tags.
    (again,) = open_video(InputImpl.VideoFromFile(path), 0, 0).chunks()
    assert (again * 255 - torch.tensor(colour)).abs().max() <= 3


def test_values_outside_the_range_saturate_and_half_precision_is_taken(tmp_path):
    frames = torch.cat([torch.full((1, 32, 32, 3), -3.0), torch.full((1, 32, 32, 3), 4.0)]).bfloat16()
    write_mp4(tmp_path / "v.mp4", [frames], Fraction(25))
    with av.open(str(tmp_path / "v.mp4")) as container:
        dark, bright = (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
    assert dark.max() <= 3 and bright.min() >= 252


def test_a_lower_crf_keeps_more(tmp_path):
    sizes = []
    for crf in (0, 18, 51):
        sizes.append(write_mp4(tmp_path / "v.mp4", [noise(3)], Fraction(25), crf).stat().st_size)
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("channels, layout", [(1, "mono"), (2, "stereo"), (6, "5.1")])
@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_sound_is_aac_with_every_channel_in_place(tmp_path, channels, layout, rate):
    seconds = 2
    # Deep enough for the low-frequency channel.
    wave = torch.sin(torch.arange(seconds * rate) * 2 * math.pi * 60 / rate)
    loudness = 0.1 * (1 + torch.arange(channels))
    audio = {"waveform": (loudness[:, None] * wave)[None], "sample_rate": rate}
    write_mp4(tmp_path / "v.mp4", [grey(*range(50))], Fraction(25), audio=audio)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.layout.name, stream.sample_rate) == ("aac", layout, rate)
        assert float(stream.duration * stream.time_base) == pytest.approx(seconds, abs=1024 / rate)
        heard = torch.cat([torch.from_numpy(frame.to_ndarray()) for frame in container.decode(audio=0)], dim=1)
    assert heard.shape[1] == pytest.approx(seconds * rate, abs=1024)
    assert heard.square().mean(1).mul(2).sqrt().tolist() == pytest.approx(loudness.tolist(), rel=0.05)
    assert numbers(tmp_path / "v.mp4") == list(range(50))


def test_sound_starts_with_the_picture(tmp_path):
    click = torch.zeros(1, 2, 44_100)
    click[..., 22_050:22_060] = 0.9
    write_mp4(tmp_path / "v.mp4", [grey(*range(25))], Fraction(25), audio={"waveform": click, "sample_rate": 44_100})
    heard = InputImpl.VideoFromFile(str(tmp_path / "v.mp4")).get_components().audio["waveform"][0, 0]
    assert heard.abs().argmax() == pytest.approx(22_055, abs=50)


@pytest.mark.parametrize("audio", [None, {"waveform": torch.zeros(1, 2, 0), "sample_rate": 44_100}], ids=["none", "empty"])
def test_without_sound_there_is_no_sound_stream(tmp_path, audio):
    write_mp4(tmp_path / "v.mp4", [grey(1, 2)], Fraction(25), audio=audio)
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert len(container.streams) == 1


def test_metadata_of_any_size_and_character_comes_back_byte_for_byte(tmp_path):
    tricky = "=;#\\\n\t\"'[STREAM]{}%$&|<> é ß 漢字 العربية 😀 \u2028"
    letters = random.Random(0).choices(tricky, k=250_000)
    graph = {"nodes": [{"text": "".join(letters)}, {"path": "C:\\models\\new\\"}], tricky: None}
    tags = {
        "workflow": json.dumps(graph, ensure_ascii=False, indent=1),
        "prompt": json.dumps(graph),
        "A key = of; its #own\\": '"x"',
        "empty": json.dumps(""),
    }
    assert len(tags["workflow"].encode()) > 300_000
    write_mp4(tmp_path / "v.mp4", [grey(1, 2)], Fraction(25), metadata=tags)
    with av.open(str(tmp_path / "v.mp4"), metadata_encoding="utf-8") as container:
        assert {name: container.metadata.get(name) for name in tags} == tags
    assert json.loads(InputImpl.VideoFromFile(str(tmp_path / "v.mp4")).get_components().metadata["prompt"]) == graph


@settings(max_examples=12, deadline=None)
@given(st.recursive(st.text(max_size=30) | st.integers() | st.none(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_any_json_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("mp4") / "v.mp4"
    write_mp4(path, [grey(1)], Fraction(25), metadata={"workflow": json.dumps(value, indent=2), "prompt": json.dumps(value)})
    with av.open(str(path)) as container:
        assert container.metadata["workflow"] == json.dumps(value, indent=2)
        assert container.metadata["prompt"] == json.dumps(value)


@pytest.mark.parametrize("width, height", [(33, 16), (32, 17), (31, 15)])
def test_odd_sizes_are_refused_by_number(tmp_path, width, height):
    with pytest.raises(ValueError, match=rf"^H\.264 needs even width and height; got {width}×{height}\."):
        write_mp4(tmp_path / "v.mp4", [grey(1, width=width, height=height)], Fraction(25))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("chunks", [[], [torch.zeros(0, 16, 16, 3)]], ids=["no chunk", "an empty chunk"])
def test_no_frame_is_refused(tmp_path, chunks):
    with pytest.raises(ValueError, match=r"^There is no frame to write: the video would be empty\.$"):
        write_mp4(tmp_path / "v.mp4", chunks, Fraction(25))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("existing", [None, b"the last good one"], ids=["new", "existing"])
@pytest.mark.parametrize("after", [0, 1, 5])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, InterruptProcessingException])
def test_an_interrupted_video_leaves_neither_file_nor_process(tmp_path, monkeypatch, error, after, existing):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    path = tmp_path / "out" / "v.mp4"
    path.parent.mkdir()
    if existing:
        path.write_bytes(existing)
    running = []

    def chunks():
        for _ in range(after):
            yield noise(4)
            running.append(len(encoders()))
        raise error("stop")

    with pytest.raises(error, match="^stop$"):
        write_mp4(path, chunks(), Fraction(25), audio={"waveform": torch.zeros(1, 2, 8000), "sample_rate": 8000})
    # Else the last line would prove nothing.
    assert running == [1] * after
    assert [*path.parent.iterdir()] == ([path] if existing else [])
    assert not existing or path.read_bytes() == existing
    assert not [*scratch.iterdir()] and not encoders()


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("name, next_name", [("v.mp4", "v_00001_.mp4"), ("v_00009_.mp4", "v_00010_.mp4")])
def test_a_video_of_that_name_is_kept_and_no_process_left(tmp_path, monkeypatch, links, name, next_name):
    if not links:
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    (tmp_path / name).write_bytes(b"old")
    assert write_mp4(tmp_path / name, [grey(1, 2, 3)], Fraction(25)) == tmp_path / next_name
    assert numbers(tmp_path / next_name) == [1, 2, 3] and (tmp_path / name).read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / name, tmp_path / next_name]) and not encoders()


@pytest.mark.parametrize(
    "script, message",
    [
        # At once, so that writing to it fails; with more to say than a pipe holds; after taking every frame.
        ("echo '[hevc @ 0x5] no encoder.' >&2; echo nothing was written >&2; exit 1", "no encoder"),
        ("i=0; while [ $i -lt 9000 ]; do echo a line to fill pipes >&2; i=$((i+1)); done; exit 1", "a line to fill pipes"),
        ("cat > /dev/null; echo late >&2; exit 1", "late"),
        ("cat > /dev/null; kill -9 $$", "it ended without a message"),
    ],
)
def test_a_failing_ffmpeg_speaks_for_itself(tmp_path, monkeypatch, script, message):
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text(f"#!/bin/sh\n{script}\n")
    ffmpeg.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(ffmpeg))
    path = tmp_path / "v.mp4"
    path.write_bytes(b"the last good one")
    with pytest.raises(RuntimeError, match=rf"^ffmpeg could not write {tmp_path}: {message}\.$"):
        write_mp4(path, (noise(4) for _ in range(50)), Fraction(25))
    assert path.read_bytes() == b"the last good one"
    assert {*tmp_path.iterdir()} == {path, ffmpeg}


FULL_DISK = """
    import json, os, sys
    from fractions import Fraction
    import torch
    from liveditor_isa.video.mp4 import write_mp4

    folder, existing = sys.argv[1], os.path.join(sys.argv[1], "old.mp4")
    small = [torch.zeros(2, 32, 32, 3)]
    write_mp4(existing, small, Fraction(25))
    before, free = open(existing, "rb").read(), os.statvfs(folder).f_bavail
    results = []
    for name in ("new.mp4", "old.mp4"):
        for chunks, metadata in (
            ((torch.rand(4, 128, 128, 3) for _ in range(50)), {}),  # full while frames come
            (small, {"workflow": "x" * 400_000}),  # full when the index is written
        ):
            try:
                write_mp4(os.path.join(folder, name), chunks, Fraction(25), metadata=metadata)
                results.append("no error")
            except OSError as error:
                left = os.listdir(folder) == ["old.mp4"] and open(existing, "rb").read() == before
                results.append([error.errno, error.strerror, error.filename, left and os.statvfs(folder).f_bavail == free])
    write_mp4(existing, small, Fraction(25))
    print(json.dumps(results))
"""


@pytest.mark.slow
def test_a_full_disk_is_said_in_a_sentence_and_leaves_no_half_file(tmp_path):
    disk, script = tmp_path / "disk", tmp_path / "script.py"
    disk.mkdir()
    script.write_text(textwrap.dedent(FULL_DISK))
    mount = f"mount -t tmpfs -o size=200k tmpfs {disk}"
    try:
        allowed = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("a small disk needs Linux's unshare")
    if allowed.returncode != 0:
        pytest.skip(f"not allowed to mount a small disk: {allowed.stderr.strip()}")
    run = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$0" "$@"', sys.executable, str(script), str(disk)]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert len(results) == 4
    for number, sentence, place, clean in results:
        assert number == errno.ENOSPC and clean
        assert sentence == f"The disk is full: 0 MB are free in {disk}. Make room and run again" and place == str(disk)


def test_memory_does_not_grow_with_the_length(tmp_path):
    born, most = [], 0

    def chunks():
        nonlocal most
        for _ in range(400):
            chunk = torch.rand(1, 64, 64, 3)
            born.append(weakref.ref(chunk))
            yield chunk
            del chunk
            most = max(most, sum(ref() is not None for ref in born))

    write_mp4(tmp_path / "v.mp4", chunks(), Fraction(25))
    assert len(born) == 400 and most <= 3
