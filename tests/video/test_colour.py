"""Colours of an edit held to its source's: a known error goes, what was changed on purpose stays, nothing jumps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from liveditor_isa.video.colour import REMEMBERED, Drift, Surroundings, match_colours
from liveditor_isa.video.geometry import CropBox
from liveditor_isa.video.region import Region

gains = st.floats(0.8, 1.25)
offsets = st.floats(-0.1, 0.1)
seeds = st.integers(0, 2**31)


def cells(seed: int, count: int = 400, spread: float = 0.2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + spread * torch.randn(count, 3, generator=generator)


def corrected(edit: torch.Tensor, correction) -> torch.Tensor:
    return edit * correction.gain + correction.offset


@settings(max_examples=40, deadline=None)
@given(gains, gains, offsets, st.floats(0, 0.3), seeds)
def test_surroundings_undo_a_gain_and_an_offset_among_outliers(red, blue, offset, share, seed):
    source = cells(seed)
    edit = (source - offset) / torch.tensor([red, 1, blue])
    edit += 0.004 * torch.randn(edit.shape, generator=torch.Generator().manual_seed(seed + 1))
    edit[: round(share * len(edit))] = torch.tensor([0.9, 0.1, 0.1])
    match = Surroundings()
    for _ in range(4):
        found = match(edit, source)
    kept = round(share * len(edit))
    assert (corrected(edit, found) - source)[kept:].mean(0).abs().max() < 2 / 255
    assert (found.gain - torch.tensor([red, 1, blue])).abs().max() < 0.03


def test_what_a_frame_does_not_tell_stays_as_it_was():
    match, source = Surroundings(), cells(0)
    nothing = match(source[:0], source[:0])
    assert torch.equal(nothing.gain, torch.ones(3)) and torch.equal(nothing.offset, torch.zeros(3))
    for _ in range(6):
        known = match(source / 1.2, source)
    assert torch.equal(match(source[:0], source[:0]).gain, known.gain)
    # Even but for noise: the offset can be told, the gain cannot.
    even = match(0.5 + cells(1, spread=0.002) * 0, torch.full((400, 3), 0.62))
    assert (even.gain - known.gain).abs().max() < 1e-3
    assert corrected(torch.full((1, 3), 0.5), even) == pytest.approx(0.62, abs=1e-3)


@settings(max_examples=10, deadline=None)
@given(st.one_of(gains, st.just(-1.0), st.just(0.0)), offsets, seeds)
def test_a_recolouring_that_lasts_is_no_drift(gain, offset, seed):
    match = Drift()
    for frame in range(4 * REMEMBERED):
        # The scene's own light and contrast change.
        source = (0.3 + 0.01 * frame) + (0.5 + 0.005 * frame) * (cells(seed + frame) - 0.5)
        found = match(source * gain + offset, source)
        assert (found.gain - 1).abs().max() < 0.02 and found.offset.abs().max() < 0.01
        assert frame >= REMEMBERED or (torch.equal(found.gain, torch.ones(3)) and not found.offset.any())


@settings(max_examples=10, deadline=None)
@given(st.floats(-0.001, 0.001), st.floats(-0.001, 0.001), seeds)
def test_drift_is_held_to_what_a_few_frames_bring(gain, offset, seed):
    """After 200 frames, of which uncorrected drift would keep everything."""
    match, source, corrections = Drift(), cells(seed), []
    recoloured = source * torch.tensor([1.2, 0.9, 0.5]) + 0.1
    for frame in range(200):
        edit = recoloured * (1 + gain * frame) + offset * frame
        corrections.append(match(edit, source))
    off = (corrected(edit, corrections[-1]) - recoloured).mean(0).abs().max()
    spread = (corrected(edit, corrections[-1]).std(0) / recoloured.std(0) - 1).abs().max()
    assert off < 2 * REMEMBERED * (abs(gain) + abs(offset)) + 1e-4 and spread < 2 * REMEMBERED * abs(gain) + 1e-4
    steps = torch.stack([correction.gain for correction in corrections]).diff(dim=0).abs().max()
    assert steps < 3 * abs(gain) + 1e-5, "no frame jumps"


def test_flicker_is_not_followed():
    match, found = Drift(), []
    for frame in range(4 * REMEMBERED):
        source = cells(0)
        found.append(match(source * (1.04 if frame % 2 else 0.96), source).gain)
    assert torch.stack(found).diff(dim=0).abs().max() < 0.01


def test_a_fade_to_black_is_no_drift():
    match = Drift()
    for frame in range(80):
        source = cells(0) * max(0.0, 1 - frame / 60)
        found = match(source * 1.3, source)
    assert torch.allclose(found.gain, torch.ones(3), atol=0.02)
    assert corrected(torch.zeros(1, 3), found).abs().max() < 2 / 255


def clip(width: int, height: int, frames: int) -> torch.Tensor:
    """Smooth frames that move, [F, H, W, 3]."""
    x, y = torch.meshgrid(torch.linspace(0, 6, width), torch.linspace(0, 4, height), indexing="xy")
    time = torch.arange(frames).view(-1, 1, 1) / 5
    return torch.stack([0.5 + 0.3 * torch.sin(x + k * y + time) for k in (0.5, 1, 2)], -1)


def test_the_surroundings_of_a_mask_set_the_colours_inside():
    source, crop = clip(160, 120, 4), CropBox(20, 0, 120, 120)
    shift = torch.tensor([1.1, 0.95, 1.0]), torch.tensor([-0.03, 0.04, 0.02])
    edit = source[:, :, 20:140] * shift[0] + shift[1]
    mask = torch.zeros(1, 120, 160)
    mask[:, 30:90, 50:110] = 1
    edit[:, 30:90, 30:90] = 0.3 * shift[0] + shift[1]
    edit[:, :4] = 0.9
    pairs = list(match_colours(zip(edit, source), Region((160, 120), crop, mask, feather=3), crop))
    assert all(original is source[index] or torch.equal(original, source[index]) for index, (_, original) in enumerate(pairs))
    last = pairs[-1][0]
    assert (last[40:80, 40:80] - 0.3).abs().max() < 2 / 255
    assert (last[95:] - source[-1, 95:, 20:140]).abs().max() < 2 / 255


def test_a_mask_over_all_of_it_leaves_the_colours():
    source = clip(64, 64, 3)
    edit = source.flip(-1)
    whole = CropBox(0, 0, 64, 64)
    pairs = match_colours(zip(edit, source), Region((64, 64), whole, torch.ones(1, 64, 64)), whole)
    assert all(torch.equal(matched, before) for (matched, _), before in zip(pairs, edit))


def test_without_a_mask_drift_goes_and_the_edit_stays():
    source, crop = clip(96, 64, 120), CropBox(16, 0, 64, 64)
    negative = 1 - source[:, :, 16:80]
    drifting = negative * (1 + 0.002 * torch.arange(120)).view(-1, 1, 1, 1) - 0.05
    matched = torch.stack([frame for frame, _ in match_colours(zip(drifting, source), Region((96, 64), crop), crop)])
    wanted = negative - 0.05
    before, after = ((frames - wanted)[100:].abs().mean() for frames in (drifting, matched))
    assert before > 0.08 and after < 0.3 * before


def test_the_benchmark_measures_what_it_says():
    from liveditor_isa.benchmarks.clips import color_drift

    error, mask = torch.zeros(20, 64, 64, 3), torch.zeros(20, 64, 64)
    mask[:, 16:48, 16:48] = 1
    error[:, 16:48, 16:48] = torch.tensor([3.0, -1.0, 2.0])
    assert color_drift.shift(error, mask) == pytest.approx(2)
    assert color_drift.seam(error, mask) == pytest.approx((14 / 3) ** 0.5, rel=1e-3)
    assert color_drift.drift(torch.linspace(0, 19, 20).view(-1, 1, 1, 1).expand(20, 4, 4, 3) / 255, ends=4) == pytest.approx(16)
    source = clip(64, 64, 20)
    rows = color_drift.within(source * 0.9 + 0.03, source, source, mask)
    assert rows["before"]["seam"] > 2 and rows["after"]["seam"] < 0.5
