"""Sizes, crops and padding: what reaches the model has exactly the size asked for, and is known to lie where in the source."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from liveditor_isa.video.geometry import BUCKETS, closest_bucket, crop_box, fit_frames, latent_groups, size_within

sides = st.integers(1, 120)
steps = st.integers(1, 6).map(lambda n: 16 * n)
long_sides = st.integers(1, 10_000)


def ramps(width: int, height: int) -> torch.Tensor:
    """One frame whose red is the horizontal position of a pixel's centre as a share of the width, green the vertical one."""
    x = ((torch.arange(width) + 0.5) / width).expand(height, width)
    y = ((torch.arange(height) + 0.5) / height)[:, None].expand(height, width)
    return torch.stack([x, y, torch.zeros_like(x)], -1)[None]


@settings(max_examples=60, deadline=None)
@given(sides, sides, steps, steps, st.integers(1, 3), st.integers(0, 2**31))
def test_fitted_frames_have_the_size_asked_for_and_stay_in_range(width, height, to_width, to_height, count, seed):
    # Black and white noise: bicubic overshoots on it.
    frames = torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed)).round()
    fitted, _ = fit_frames(frames, to_width, to_height)
    assert fitted.shape == (count, to_height, to_width, 3) and fitted.dtype == torch.float32
    assert fitted.isfinite().all() and fitted.min() >= 0 and fitted.max() <= 1


@settings(deadline=None)
@given(sides, sides, steps, steps)
def test_crop_box_is_the_largest_centred_part_of_the_targets_shape(width, height, to_width, to_height):
    _, box = fit_frames(torch.zeros(1, height, width, 3), to_width, to_height)
    assert crop_box((width, height), to_width, to_height) == box
    assert box.left >= 0 and box.top >= 0
    assert box.left + box.width <= width + 1e-6 and box.top + box.height <= height + 1e-6
    # A source pixel may be many pixels of the model's, and half of one of those is lost to rounding.
    across, down = box.width / to_width, box.height / to_height
    assert box.left + box.width / 2 == pytest.approx(width / 2, abs=0.5 * across + 1e-6)
    assert box.top + box.height / 2 == pytest.approx(height / 2, abs=0.5 * down + 1e-6)
    assert box.width == pytest.approx(width) or box.height == pytest.approx(height)
    assert across / down == pytest.approx(1, abs=0.6 / min(to_width, to_height))


@settings(max_examples=60, deadline=None)
@given(st.integers(16, 200), st.integers(16, 200), steps, steps)
def test_fitted_pixels_lie_where_the_crop_box_says(width, height, to_width, to_height):
    fitted, box = fit_frames(ramps(width, height), to_width, to_height)
    x = (box.left + (torch.arange(to_width) + 0.5) * box.width / to_width) / width
    y = (box.top + (torch.arange(to_height) + 0.5) * box.height / to_height) / height
    # In source pixels, or the model's where those are larger. torch's bicubic bends a ramp by up to 0.1 of one; next to
    # the border, where there is nothing to interpolate with, by more.
    x_error = (fitted[0, :, :, 0] - x) * min(width, width / box.width * to_width)
    y_error = (fitted[0, :, :, 1] - y[:, None]) * min(height, height / box.height * to_height)
    inner_x = (x * width > 3 + box.width / to_width) & (x * width < width - 3 - box.width / to_width)
    inner_y = (y * height > 3 + box.height / to_height) & (y * height < height - 3 - box.height / to_height)
    assert (x_error[:, inner_x].abs() < 0.12).all()
    assert (y_error[inner_y].abs() < 0.12).all()


def test_a_frame_of_the_right_size_is_left_alone():
    frames = torch.rand(2, 32, 48, 3)
    fitted, box = fit_frames(frames, 48, 32)
    assert torch.equal(fitted, frames)
    assert (box.left, box.top, box.width, box.height) == (0, 0, 48, 32)


def test_shrinking_averages_instead_of_skipping_pixels():
    noise = torch.rand(1, 256, 256, 3, generator=torch.Generator().manual_seed(0))
    fitted, _ = fit_frames(noise, 32, 32)
    assert fitted.std() < noise.std() / 4


def test_every_frame_of_a_long_video_is_fitted_by_itself():
    frames = torch.rand(37, 20, 30, 3)
    fitted, _ = fit_frames(frames, 32, 16)
    for index in (0, 15, 16, 31, 32, 36):
        torch.testing.assert_close(fitted[index], fit_frames(frames[index : index + 1], 32, 16)[0][0])


@pytest.mark.parametrize("width, height", [(64, 50), (50, 64), (0, 64), (64, -16), (8, 8)])
def test_sizes_the_model_cannot_take_are_refused_by_number(width, height):
    with pytest.raises(ValueError, match=rf"^width and height must be multiples of 16; got {width}×{height}\.$"):
        fit_frames(torch.zeros(1, 64, 64, 3), width, height)


@pytest.mark.parametrize("bucket", BUCKETS, ids="{0[0]}x{0[1]}".format)
def test_a_bucket_is_closest_to_itself_at_any_scale(bucket):
    assert closest_bucket(*bucket) == bucket
    assert closest_bucket(bucket[0] * 7, bucket[1] * 7) == bucket


@pytest.mark.parametrize(
    "size, bucket",
    [
        ((1920, 1080), (960, 544)),
        ((1080, 1920), (544, 960)),
        ((640, 480), (960, 544)),
        ((1000, 800), (720, 720)),
        ((3840, 1600), (960, 480)),
        ((10_000, 1), (960, 480)),
        ((1, 10_000), (480, 960)),
        ((1, 1), (720, 720)),
    ],
)
def test_closest_bucket_of_common_and_extreme_sizes(size, bucket):
    assert closest_bucket(*size) == bucket


@given(long_sides, long_sides)
def test_closest_bucket_needs_the_least_change_of_shape_and_treats_tall_like_wide(width, height):
    def change(bucket):
        ratio = Fraction(bucket[0] * height, bucket[1] * width)
        return max(ratio, 1 / ratio)

    bucket = closest_bucket(width, height)
    assert change(bucket) == min(map(change, BUCKETS))
    assert closest_bucket(height, width) == bucket[::-1]


@given(long_sides, long_sides, st.integers(16, 2000))
def test_size_within_is_a_multiple_of_16_and_never_above_the_longest(width, height, longest):
    size = size_within(width, height, longest)
    for side, fitted in zip((width, height), size):
        assert fitted % 16 == 0 and 16 <= fitted <= longest
        # Never enlarged, but for the step that a size must be.
        assert fitted <= math.ceil(side / 16) * 16


@given(st.integers(100, 10_000), st.floats(0.5, 2), st.integers(20, 100).map(lambda n: 16 * n))
def test_size_within_keeps_the_shape(width, ratio, longest):
    height = round(width * ratio)
    fitted = size_within(width, height, longest)
    scale = min(1, longest / max(width, height))
    assert fitted == pytest.approx((width * scale, height * scale), abs=8 + 1e-6)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=20))
def test_groups_hold_what_becomes_one_latent_frame_and_repeat_the_last_frame(lengths):
    count = sum(lengths)
    frames = torch.arange(count).view(-1, 1, 1, 1).expand(-1, 2, 3, 3)
    groups = [*latent_groups(frames.split(lengths))]
    assert [len(group) for group in groups] == [1] + [4] * -(-(count - 1) // 4)
    padded = torch.cat(groups)
    assert torch.equal(padded[:count], frames)
    assert (padded[count:] == count - 1).all()


def test_groups_come_as_soon_as_they_are_full():
    taken = []
    chunks = (taken.append(n) or torch.zeros(3, 1) for n in range(5))
    groups = latent_groups(chunks)
    assert [len(next(groups)) for _ in range(2)] == [1, 4] and taken == [0, 1]
