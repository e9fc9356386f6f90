"""Clips that look filmed: the same whenever they are asked for, from whatever a folder holds."""

import numpy as np
import pytest
import torch
from liveditor_isa.data.procedural.footage import FootageStream, Library, read_library
from PIL import Image

NOISE = torch.Generator().manual_seed(0)


def library(films: int = 1) -> Library:
    scenes = [torch.randint(256, (3, *size), generator=NOISE, dtype=torch.uint8) for size in ((60, 90), (20, 200))]
    things = [torch.randint(256, (4, *size), generator=NOISE, dtype=torch.uint8) for size in ((31, 17), (8, 40))]
    return Library(scenes, things, [torch.randint(256, (9, 3, 40, 50), generator=NOISE, dtype=torch.uint8)] * films)


def test_batches_are_repeated_and_differ():
    stream = FootageStream(3, 4, 5, 32, "cpu", library())
    batches = [stream[index] for index in range(24)]
    for batch in batches:
        assert batch.shape == (4, 3, 5, 32, 32) and 0 <= batch.min() and batch.max() <= 1
        assert batch.isfinite().all()
    assert torch.equal(FootageStream(3, 4, 5, 32, "cpu", stream.library)[7], batches[7])
    assert not torch.equal(batches[7], batches[8])
    assert not torch.equal(FootageStream(4, 4, 5, 32, "cpu", stream.library)[7], batches[7])


def test_a_film_that_is_too_short_or_small_is_not_shown():
    short = library()._replace(
        films=[torch.zeros(4, 3, 40, 50, dtype=torch.uint8), torch.zeros(9, 3, 16, 50, dtype=torch.uint8)]
    )
    with_, without = (FootageStream(0, 2, 5, 32, "cpu", made) for made in (short, short._replace(films=[])))
    assert torch.equal(with_[0], without[0])


def test_what_moves_moves():
    clips = torch.cat([FootageStream(0, 4, 9, 32, "cpu", library(0))[index] for index in range(8)])
    moved = clips.diff(dim=2).abs().mean((1, 2, 3, 4)) > 1e-3
    assert moved.float().mean() > 0.7


def test_a_folder_is_read(tmp_path):
    picture = np.full((20, 30, 3), 200, np.uint8)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    Image.fromarray(np.dstack([picture, picture[..., :1]])).save(tmp_path / "thing.png")
    (tmp_path / "film").mkdir()
    for number in range(3):
        Image.fromarray(picture).save(tmp_path / f"film/{number}.png")
    read, installed = read_library(tmp_path), read_library(None)
    assert len(read.scenes) == len(installed.scenes) + 1
    assert [thing.shape for thing in read.things] == [(4, 20, 30)]
    assert [film.shape for film in read.films] == [(3, 3, 20, 30)]


def test_a_folder_that_cannot_be_read_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="no folder of pictures"):
        read_library(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    with pytest.raises(ValueError, match="notes.txt is no picture"):
        read_library(tmp_path)


@pytest.mark.parametrize("sizes", [[], [(8, 8), (8, 9)]], ids=["no frame", "unlike frames"])
def test_a_folder_that_is_no_film_is_one_sentence(tmp_path, sizes):
    (tmp_path / "film").mkdir()
    for number, size in enumerate(sizes):
        Image.new("RGB", size).save(tmp_path / f"film/{number}.png")
    with pytest.raises(ValueError, match="film is no film"):
        read_library(tmp_path)
