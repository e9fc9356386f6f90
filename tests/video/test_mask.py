"""Masks from files."""

from fractions import Fraction

import numpy as np
import torch
from liveditor_isa.video.mask import read_mask
from liveditor_isa.video.mp4 import write_mp4
from PIL import Image


def test_a_picture_keeps_its_greys(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "mask.png")
    found = read_mask(tmp_path / "mask.png", 3)
    expected = np.where(grey <= 4, 0, np.where(grey >= 251, 255, grey))
    assert found.dtype == torch.uint8 and np.array_equal(found[0], expected) and len(found) == 1


def test_black_and_white_of_a_video_stay_so_and_it_is_read_no_further_than_needed(tmp_path):
    frames = torch.zeros(6, 48, 64, 3)
    for index in range(6):
        frames[index, 16:32, 8 * index : 8 * index + 16] = 1
    video = write_mp4(tmp_path / "mask.mp4", [frames], Fraction(10))
    found = read_mask(video, 4)
    assert found.shape == (4, 48, 64)
    far = torch.nn.functional.max_pool2d(frames[:4, None, ..., 0], 9, 1, 4)[:, 0] == 0
    assert (found[far] == 0).all() and (found[:, 20:28][frames[:4, 20:28, :, 0].bool()] > 200).all()
