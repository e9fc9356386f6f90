"""What is shown about the work never fails it, and what cannot be written is refused before a model is loaded."""

import io
import logging
import os
import subprocess
import sys

import pytest
from liveditor_isa.checkpoint.included import path_of
from liveditor_isa.command import main
from liveditor_isa.command.output import lenient_output
from liveditor_isa.pipelines import edit as editing

QUICK = ["--frames", "5", "--size", "96x64", "--steps", "1"]


class Broken(io.StringIO):
    """A terminal that is gone."""

    encoding = "utf-8"

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding, errors="strict", write_through=True)


@pytest.fixture
def video(tmp_path, sample_video):
    (tmp_path / "日本.mp4").symlink_to(sample_video)
    return tmp_path / "日本.mp4"


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_terminal_that_cannot_show_the_name_fails_nothing(video, monkeypatch, encoding):
    monkeypatch.setattr(sys, "stdout", stream(encoding))
    monkeypatch.setattr(sys, "stderr", stream(encoding))
    assert main(["edit", str(video), "Make it night", *QUICK]) == 0
    assert (video.parent / "日本_edited.mp4").exists()
    for shown in (sys.stdout, sys.stderr):  # the progress bar carries the name
        assert b"\\u65e5\\u672c" in shown.buffer.getvalue()


@pytest.mark.parametrize("name", ["\udce6.mp4", "日本.mp4"])
def test_an_error_about_the_name_is_shown_too(monkeypatch, name):
    """Also of a name that is not UTF-8."""
    monkeypatch.setattr(sys, "stderr", stream("utf-8" if name[0] == "\udce6" else "ascii"))
    assert main(["edit", name, "Make it night"]) == 2
    assert b"liveditor edit: There is no file \\u" in sys.stderr.buffer.getvalue().replace(b"\\udce6", b"\\u")


@pytest.mark.parametrize("gone", [Broken, lambda: None])
def test_streams_that_are_gone_fail_nothing(tmp_path, monkeypatch, gone):
    monkeypatch.setattr(sys, "stdout", gone())
    monkeypatch.setattr(sys, "stderr", gone())
    assert main(["convert", path_of("diffusion_model"), str(tmp_path / "copy.safetensors")]) == 0
    assert (tmp_path / "copy.safetensors").exists()
    assert main(["convert", "missing.bin"]) == 2


def test_logging_and_plain_streams_pass_through(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream("ascii"))
    before = sys.stderr
    with lenient_output():
        handler = logging.StreamHandler(sys.stderr)
        handler.handle(logging.LogRecord("x", logging.WARNING, "", 0, "日", None, None))
        print("plain", file=sys.stderr, flush=True)
        sys.stderr.writelines(["a", "b"])
        assert sys.stderr.encoding == "ascii" and not sys.stderr.isatty()
    assert sys.stderr is before and before.buffer.getvalue() == b"\\u65e5\nplain\nab"


@pytest.mark.slow
def test_a_real_process_whose_stdout_is_full_ends_well(tmp_path):
    command = [sys.executable, "-m", "liveditor_isa", "convert", path_of("diffusion_model"), str(tmp_path / "copy.safetensors")]
    with open("/dev/full", "wb") as full:
        assert subprocess.run(command, stdout=full, cwd=tmp_path).returncode == 0
    assert (tmp_path / "copy.safetensors").exists()


@pytest.mark.parametrize(
    "name, told",
    [
        ("東京の夜景を歩く" * 9 + "A" * 15 + " [0123456789a].mp4", "takes 256 bytes of the 255 that"),
        ("a" * 250 + ".mp4", "takes 261 bytes of the 255 that"),
    ],
)
def test_a_name_that_is_too_long_is_refused_before_the_model_is_loaded(tmp_path, sample_video, monkeypatch, capsys, name, told):
    (tmp_path / name).symlink_to(sample_video)
    monkeypatch.setattr(editing, "load", lambda choice: pytest.fail("the model is loaded"))
    assert main(["edit", str(tmp_path / name), "Make it night"]) == 2
    error = capsys.readouterr().err
    assert told in error and "give the video a shorter name" in error
    assert os.listdir(tmp_path) == [name]


def test_a_video_or_reference_whose_name_is_too_long_is_not_there(tmp_path, sample_video, capsys):
    long = "a" * 300 + ".png"
    assert main(["edit", long, "p"]) == 2 and "There is no file aaa" in capsys.readouterr().err
    options = ["--reference", long, "--out", str(tmp_path / "x.mp4")]
    assert main(["edit", str(sample_video), "p", *options]) == 2 and "There is no file aaa" in capsys.readouterr().err


def test_a_temporary_folder_that_cannot_be_written_to_is_named_before(tmp_path, sample_video, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", "/proc")
    monkeypatch.setattr(editing, "load", lambda choice: pytest.fail("the model is loaded"))
    assert main(["edit", str(sample_video), "p", "--out", str(tmp_path / "x.mp4")]) == 2
    assert "The temporary folder /proc cannot be written to" in capsys.readouterr().err
