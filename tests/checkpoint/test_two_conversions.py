"""Two writers of one file: each has an unfinished file of its own, and what gets the name is whole."""

import os
import shutil
import threading
import time

import pytest
import torch
from liveditor_isa.checkpoint.convert import ABANDONED_SECONDS, convert_checkpoint
from liveditor_isa.checkpoint.keys import expected_shapes
from make_tiny_model import random_like
from safetensors.torch import load_file

WEIGHTS = random_like(expected_shapes(16, 32, 8, 1), seed=1)


@pytest.fixture
def source(tmp_path):
    torch.save(WEIGHTS, tmp_path / "liveditor.bin")
    return tmp_path / "liveditor.bin"


@pytest.fixture
def target(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out/model.safetensors"


def is_whole(path) -> bool:
    written = load_file(path)
    return written.keys() == WEIGHTS.keys() and all(torch.equal(written[name], WEIGHTS[name]) for name in written)


def outcome(convert) -> str:
    try:
        convert()
    except FileExistsError as error:
        return str(error)
    except BaseException as error:
        return repr(error)
    return "done"


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_that_begin_at_once_do_not_destroy_each_others_file(source, target, monkeypatch, overwrite):
    """The second begins when the first has found that nobody is at work, and has not opened its own file yet."""
    writing, go_on, outcomes = threading.Event(), threading.Event(), {}

    def hold(done, total):
        writing.set()
        assert go_on.wait(60)

    def other():
        outcomes["other"] = outcome(lambda: convert_checkpoint(source, target, progress=hold, overwrite=overwrite))
        writing.set()

    usage, thread = shutil.disk_usage, threading.Thread(target=other)

    def at_the_last_moment(folder):
        monkeypatch.setattr(shutil, "disk_usage", usage)
        thread.start()
        assert writing.wait(60)
        return usage(folder)

    monkeypatch.setattr(shutil, "disk_usage", at_the_last_moment)
    outcomes["first"] = outcome(lambda: convert_checkpoint(source, target, overwrite=overwrite))
    go_on.set()
    thread.join()
    assert os.listdir(target.parent) == [target.name] and is_whole(target), outcomes
    assert outcomes["first"] == "done"
    assert outcomes["other"] == "done" if overwrite else "The destination exists already" in outcomes["other"], outcomes


def test_one_that_finds_another_at_work_leaves_its_file_alone(source, target):
    others = []

    def progress(done, total):
        if not others:
            others.append(outcome(lambda: convert_checkpoint(source, target)))

    convert_checkpoint(source, target, progress=progress)
    assert "Another conversion writes this file" in others[0]
    assert os.listdir(target.parent) == [target.name] and is_whole(target)


def test_remains_of_this_destination_go_and_nothing_else_does(source, target):
    """Earlier versions gave all unfinished files one name."""
    remains = [".model.safetensors.partial", ".model.safetensors.0123abcd.partial"]
    others = [".model.safetensors.notes.partial", ".other.safetensors.0123abcd.partial", "model.safetensors.partial"]
    for name in remains + others:
        (target.parent / name).touch()
        os.utime(target.parent / name, (time.time() - 2 * ABANDONED_SECONDS,) * 2)
    convert_checkpoint(source, target)
    assert sorted(os.listdir(target.parent)) == sorted([*others, target.name])


def test_a_file_that_appears_while_it_is_converted_is_not_replaced(source, target):
    with pytest.raises(FileExistsError, match="The destination exists already"):
        convert_checkpoint(source, target, progress=lambda *_: target.write_bytes(b"precious"))
    assert target.read_bytes() == b"precious" and os.listdir(target.parent) == [target.name]


def test_where_there_are_no_links_a_conversion_is_renamed(source, target, monkeypatch):
    def no_links(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", no_links)
    convert_checkpoint(source, target)
    assert os.listdir(target.parent) == [target.name] and is_whole(target)
    with pytest.raises(FileExistsError):
        convert_checkpoint(source, target)


def test_writers_of_training_files_do_not_share_an_unfinished_one(tmp_path):
    """Two runs in one folder, and two files of one stem."""
    from liveditor_isa.training.run import replace_file

    def slowly(partial):
        partial.write_text("first")
        replace_file(tmp_path / "a.json", lambda other: other.write_text("other"))
        replace_file(tmp_path / "a.pt", lambda other: other.write_text("second"))
        partial.write_text(partial.read_text() + ", to its end")

    replace_file(tmp_path / "a.pt", slowly)
    assert (tmp_path / "a.pt").read_text() == "first, to its end" and (tmp_path / "a.json").read_text() == "other"

    def fail(partial):
        partial.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "a.pt", fail)
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.pt"] and (tmp_path / "a.pt").read_text() == "first, to its end"


def test_another_programs_unfinished_video_is_not_removed(tmp_path):
    from liveditor_isa.video.mp4 import ABANDONED_SECONDS, write_mp4

    ours, theirs = tmp_path / f".liveditor-{'0' * 32}.partial.mp4", tmp_path / ".holiday.partial.mp4"
    for file in (ours, theirs):
        file.touch()
        os.utime(file, (time.time() - ABANDONED_SECONDS - 60,) * 2)
    write_mp4(tmp_path / "v.mp4", [torch.zeros(1, 16, 16, 3)], 25)
    assert theirs.exists() and not ours.exists()
