"""A folder of frames is a clip as a file is: the same frames, at the rate that is said."""

import pytest
import torch
from evaluated import save
from liveditor_isa.video.clip import open_clip
from liveditor_isa.video.folder import source_of


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.randint(0, 256, (7, 16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_its_frames_are_read_exactly_and_in_order(frames, tmp_path):
    clip = open_clip(source_of(save(tmp_path / "clip", frames)), 0, 0)
    assert (clip.fps, clip.size, clip.frames, clip.audio, clip.notices) == (16, (24, 16), 7, None, ())
    chunks = [*clip.chunks(3)]
    assert [len(chunk) for chunk in chunks] == [3, 3, 1] and torch.equal((torch.cat(chunks) * 255).round().byte(), frames)


@pytest.mark.parametrize("fps", [12, 29.97])
def test_a_rate_that_is_said_is_the_folders_own_and_no_frame_is_left_out(frames, tmp_path, fps):
    clip = open_clip(source_of(save(tmp_path / "clip", frames), fps), 6, fps, start_frame=1, every_nth=2)
    assert float(clip.fps) == pytest.approx(fps / 2) and clip.indices == (1, 3, 5)


def test_pictures_of_other_sizes_are_fitted_into_the_firsts_and_it_is_said(frames, tmp_path):
    folder = save(tmp_path / "clip", frames[:2])
    save(tmp_path / "wide", torch.full((3, 16, 48, 3), 255, dtype=torch.uint8))
    (tmp_path / "wide/00002.png").rename(folder / "00002.png")
    clip = open_clip(source_of(folder), 0, 0)
    last = torch.cat([*clip.chunks()])[2]
    assert "size changes on the way" in clip.notices[0]
    assert not last[:4].any() and (last[4:12] > 0.99).all() and not last[12:].any()


def test_what_is_no_folder_of_frames_is_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("none", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no picture"):
        source_of(tmp_path / "empty")
    (tmp_path / "empty/00000.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="00000.png cannot be read"):
        source_of(tmp_path / "empty")
