"""A few of the damaged videos that `make fuzz-videos` has a real server edit, and a few of the kinds of `make sweep`."""

import random

import fuzz_videos
import video_kinds
from video_server import edit


def test_the_server_survives_damaged_videos(server):
    result = fuzz_videos.fuzz(server, 24, seed=5)
    assert result["wrong"] == {} and result["edited"] > 0 < result["refused"]


def test_the_server_edits_kinds_of_the_sweep(server, tmp_path):
    choose, done = random.Random(11), 0
    while done < 4:
        kind = video_kinds.any_kind(choose)
        try:
            path = video_kinds.make(kind, tmp_path)
        except RuntimeError:
            continue
        assert edit(server, path) is None, kind
        done += 1


def test_what_is_no_sentence_is_told():
    assert fuzz_videos.is_sentence("The video cannot be read (End of file). Convert it.")
    assert not fuzz_videos.is_sentence("'NoneType' object has no attribute 'width'.")
    assert not fuzz_videos.is_sentence("index out of range")
