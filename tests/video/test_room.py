"""What would keep a finished video from being written is found out before."""

import errno
import os
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
from liveditor_isa.errors import sentence
from liveditor_isa.video import room
from liveditor_isa.video.room import check_output

Usage = namedtuple("Usage", "total used free")


def refused(*arguments, **more) -> OSError:
    with pytest.raises(OSError) as error:
        check_output(*arguments, **more)
    assert sentence(error.value).count("\n") == 0 and sentence(error.value).endswith(".")
    return error.value


@pytest.mark.parametrize("name", ["a.mp4", "日本.mp4", "a" * 251 + ".mp4", "東" * 83 + "ab.mp4", " x .mp4", "a\nb.mp4"])
def test_a_name_that_can_be_written_is_taken_and_nothing_stays(tmp_path, name):
    check_output(tmp_path / name)
    assert not list(tmp_path.iterdir())
    (tmp_path / name).write_bytes(b"")  # it says the truth


@pytest.mark.parametrize("name", ["a" * 252 + ".mp4", "東" * 84 + ".mp4"])
def test_a_name_that_is_too_long_is_refused(tmp_path, name):
    error = refused(tmp_path / name)
    assert error.errno == errno.ENAMETOOLONG and "takes 256 bytes of the 255 that" in error.strerror
    assert str(tmp_path) in error.strerror and "give the video a shorter name" in error.strerror and len(error.strerror) < 300
    with pytest.raises(OSError, match="too long"):
        (tmp_path / name).write_bytes(b"")


def test_the_number_that_a_taken_name_gets_counts(tmp_path):
    path = tmp_path / ("a" * 246 + ".mp4")
    check_output(path)
    path.write_bytes(b"there")
    assert "takes 257 bytes, with the number" in refused(path).strerror
    assert path.read_bytes() == b"there"


def test_a_folder_may_allow_less(tmp_path, monkeypatch):
    """An encrypted folder: 143 bytes."""
    monkeypatch.setattr(os, "pathconf", lambda folder, name: 143 if name == "PC_NAME_MAX" else 4096)
    check_output(tmp_path / ("a" * 139 + ".mp4"))
    assert "of the 143 that" in refused(tmp_path / ("a" * 140 + ".mp4")).strerror


def test_a_path_has_a_length_too(tmp_path):
    folder = tmp_path
    os.chdir(tmp_path)  # deeper than one call may name
    try:
        while len(str(folder)) < 4096 - 60:
            part = "d" * min(200, 4096 - 58 - len(str(folder)))
            folder = folder / part
            folder.mkdir()
    finally:
        os.chdir("/")
    error = refused(folder / "a.mp4")
    assert error.errno == errno.ENAMETOOLONG and error.strerror.startswith("The path of a.mp4 takes")
    shutil.rmtree(tmp_path / ("d" * 200))


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EILSEQ])
def test_characters_that_the_folder_refuses_are_said(tmp_path, monkeypatch, code):
    """exFAT takes no colon, a network drive no bytes that are not UTF-8."""
    write = Path.write_bytes

    def picky(path, data):
        if ":" in path.name:
            raise OSError(code, os.strerror(code), str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", picky)
    error = refused(tmp_path / "at 12:30.mp4")
    assert error.errno == errno.EINVAL and f"{tmp_path} takes no file called at 12:30.mp4" in error.strerror
    check_output(tmp_path / "at 12.30.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("full", ["output", "temporary"])
def test_a_full_folder_is_named(tmp_path, monkeypatch, full):
    folders = {name: tmp_path / name for name in ("output", "temporary")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folders["temporary"]))
    usage = {str(folders[name]): Usage(2**40, 0, 2**20 if name == full else 2**30) for name in folders}
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: usage[str(folder)])
    error = refused(folders["output"] / "a.mp4")
    assert error.errno == errno.ENOSPC and f"{folders[full]} is full: 1 MB are free, about 8 MB are needed" in error.strerror
    assert ("TMPDIR" in error.strerror) == (full == "temporary")
    usage[str(folders[full])] = Usage(2**40, 0, 2**30)
    check_output(folders["output"] / "a.mp4", 2**29, 2**29)
    assert "about 2056 MB" in refused(folders["output"] / "a.mp4", **{
        "picture_bytes" if full == "output" else "temporary_bytes": 2**31
    }).strerror  # fmt: skip
    usage[str(folders[full])] = Usage(0, 0, 0)  # a drive that tells nothing
    check_output(folders["output"] / "a.mp4")


def test_folders_that_cannot_be_written_to_are_named(tmp_path, monkeypatch):
    assert refused("/proc/a.mp4").strerror.startswith("The folder /proc cannot be written to (")
    assert "There is no folder" in refused(tmp_path / "missing/a.mp4").strerror
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    assert refused(tmp_path / "a.mp4").strerror.startswith("The temporary folder /proc cannot be written to (")

    def none():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert "There is no temporary folder" in refused(tmp_path / "a.mp4").strerror
