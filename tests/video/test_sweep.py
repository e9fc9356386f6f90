"""A few of the many kinds of video that `make sweep` reads and compares with ffmpeg's own reading."""

import pytest
import sweep_videos


@pytest.mark.slow
def test_a_sample_of_all_kinds_is_read_as_ffmpeg_reads_it():
    result = sweep_videos.sweep(20, seed=7)
    assert result["combinations"] == 20 and result["different"] == {}
