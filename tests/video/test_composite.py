"""Edits put back into their source: every pixel outside of the region is the source's own, and inside the edit lies where it was."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from liveditor_isa.video.colour import match_colours
from liveditor_isa.video.composite import bicubic, put_back, resize
from liveditor_isa.video.geometry import CropBox, fit_frames
from liveditor_isa.video.region import Region, extent

sides = st.integers(2, 90)
steps = st.integers(1, 5).map(lambda n: 16 * n)
seeds = st.integers(0, 2**31)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def whole(width: int, height: int) -> CropBox:
    return CropBox(0, 0, width, height)


def over(weight: torch.Tensor) -> torch.Tensor:
    """Distance of each pixel to the nearest one that shows nothing, by trying all."""
    height, width = weight.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    away = (weight == 0).nonzero()
    squares = (y[..., None] - away[:, 0]).square() + (x[..., None] - away[:, 1]).square()
    return squares.amin(-1).sqrt()


# Which pixels


@settings(max_examples=60, deadline=None)
@given(sides, sides, steps, steps, st.integers(0, 12), st.booleans(), seeds)
def test_pixels_outside_are_the_sources_bit_by_bit(width, height, to_width, to_height, feather, painted, seed):
    source, edit = noise(seed, 2, height, width, 3), noise(seed + 1, 2, to_height, to_width, 3)
    _, crop = fit_frames(source, to_width, to_height)
    mask = F.interpolate(noise(seed + 2, 1, 1, 3, 4).round(), (height, width))[0] if painted else None
    if mask is not None:
        mask[:, height // 2, width // 2] = 0.3
    region = Region((width, height), crop, mask, feather=feather)
    shown = region.weights(0)[0][: height - height % 2, : width - width % 2]
    frames = list(put_back(zip(edit, source), region, crop))
    assert [frame.shape for frame in frames] == [(height - height % 2, width - width % 2, 3)] * 2
    for frame, original in zip(frames, source):
        same = frame == original[: height - height % 2, : width - width % 2]
        assert same[shown == 0].all()
        assert frame.min() >= 0 and frame.max() <= 1
        # Else a composite that does nothing would pass.
        assert not same.all(-1)[shown > 0.1].any() or not (shown > 0.1).any()


def test_what_the_model_made_outside_of_the_region_cannot_leak_in():
    source, edit = noise(1, 64, 64, 3), torch.full((64, 64, 3), 0.5)
    edit[:, 32:] = float("nan")
    mask = torch.zeros(1, 64, 64)
    mask[:, 10:20, 5:25] = mask[:, 40:44, 50:60] = 1
    edit[36:48, 45:] = 0.5
    [frame] = put_back([(edit, source)], Region((64, 64), whole(64, 64), mask), whole(64, 64))
    assert torch.equal(frame[mask[0] == 0], source[mask[0] == 0])
    assert (frame[mask[0] == 1] == 0.5).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 40), st.integers(8, 40), st.integers(1, 12), seeds)
def test_feathering_goes_inwards_and_ends_after_its_pixels(width, height, feather, seed):
    mask = F.interpolate(noise(seed, 1, 1, 3, 3).round(), (height, width))[0]
    mask[:, 0, 0], mask[:, -1, -1] = 0, 1
    shown, chosen = Region((width, height), whole(width, height), mask, feather=feather).weights(0)
    assert torch.equal(chosen, mask[0])
    distance = over(mask[0])
    assert (shown[mask[0] == 0] == 0).all() and (shown[mask[0] == 1] > 0).all()
    assert (shown[distance >= feather + 1] == 1).all()
    band = (distance > 0) & (distance < feather + 1)
    assert (shown[band] < 1).all()
    ramp = shown[band][distance[band].argsort()]
    assert (ramp.diff() > -1e-6).all(), "the farther in, the more of it"


def test_the_frames_own_edge_is_not_feathered():
    mask = torch.zeros(1, 40, 40)
    mask[:, :, :20] = 1
    shown = Region((40, 40), whole(40, 40), mask, feather=5).weights(0)[0]
    assert (shown[:, :15] == 1).all() and (shown[:, 15:20] < 1).all() and (shown[:, 20:] == 0).all()
    assert (Region((40, 40), whole(40, 40), feather=9).weights(0)[0] == 1).all()


def test_without_a_mask_the_crops_edge_is_feathered():
    shown = Region((100, 40), CropBox(30, 0, 40, 40), feather=4).weights(0)[0]
    assert (shown[:, :30] == 0).all() and (shown[:, 70:] == 0).all() and (shown[:, 34:66] == 1).all()
    assert (shown[:, 30:34].diff() > 0).all()


@given(st.integers(1, 40), st.integers(1, 40), *[st.floats(-20, 60)] * 4)
def test_a_box_covers_its_area(width, height, x, y, across, down):
    box = {"x": x, "y": y, "width": across, "height": down}
    inside = [
        max(0.0, min(start + length, size) - max(start, 0)) for start, length, size in ((x, across, width), (y, down, height))
    ]
    if inside[0] * inside[1] < 1e-3:
        return
    shown = Region((width, height), whole(width, height), boxes=box).weights(0)[0]
    assert float(shown.double().sum()) == pytest.approx(inside[0] * inside[1], rel=1e-4, abs=1e-3)
    assert shown.min() >= 0 and shown.max() <= 1


BOX, OTHER = {"x": 2, "y": 1, "width": 3, "height": 2}, {"x": 6, "y": 5, "width": 2, "height": 3, "label": "face"}


@pytest.mark.parametrize(
    "boxes, areas",
    [
        (BOX, [6, 6, 6]),
        ([BOX, OTHER], [12, 12, 12]),
        ([[BOX], [], [BOX, OTHER]], [6, 0, 12]),
        ([[BOX], [OTHER, BOX]], [6, 12, 12]),
        ([[], []] + [[BOX]], [0, 0, 6]),
    ],
)
def test_boxes_in_every_form_that_core_gives(boxes, areas):
    region = Region((10, 10), whole(10, 10), boxes=boxes)
    assert [float(region.weights(frame)[0].sum()) for frame in range(3)] == areas


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_mask_for_each_frame_and_its_last_one_goes_on(frames):
    mask = torch.zeros(frames, 8, 8)
    for index in range(frames):
        mask[index, : index + 1] = 1
    region = Region((8, 8), whole(8, 8), mask)
    rows = [int(region.weights(frame)[0].any(1).sum()) for frame in (0, 1, 2, 1, 3, 0)]
    assert rows == [min(frame, frames - 1) + 1 for frame in (0, 1, 2, 1, 3, 0)]


@pytest.mark.parametrize("shape", [(16, 24), (1, 16, 24), (1, 1, 16, 24)])
@pytest.mark.parametrize("size", [(48, 32), (24, 16), (12, 8)])
def test_a_mask_of_another_size_covers_the_whole_frame(shape, size):
    mask = torch.zeros(shape)
    mask[..., :8, :12] = 1
    shown = Region(size, whole(*size), mask).weights(0)[0]
    width, height = size
    assert shown.shape == (height, width)
    assert (shown[: height // 2 - 2, : width // 2 - 2] == 1).all()
    assert (shown[height // 2 + 2 :] == 0).all() and (shown[:, width // 2 + 2 :] == 0).all()


def test_a_box_beside_a_mask_adds_to_it():
    mask = torch.zeros(2, 10, 10)
    mask[1, :, 9] = 0.5
    region = Region((10, 10), whole(10, 10), mask, BOX)
    assert float(region.weights(0)[0].sum()) == 6 and float(region.weights(1)[0].sum()) == 11


@pytest.mark.parametrize(
    "given",
    [
        {"mask": torch.zeros(3, 8, 8)},
        {"mask": torch.full((1, 8, 8), float("nan"))},
        {"mask": torch.eye(8)[None] * torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0])},
        {"boxes": []},
        {"boxes": [[], []]},
        {"boxes": {"x": 9, "y": 0, "width": 4, "height": 4}},
        {"boxes": {"x": 4, "y": 0, "width": 0, "height": 4}},
    ],
    ids=["black", "NaN", "outside of the crop", "no box", "no box in any frame", "outside of the frame", "without area"],
)
def test_a_region_where_nothing_would_show_is_refused(given):
    with pytest.raises(
        ValueError, match=r"^The mask is empty, or lies outside of the part that was edited: .* leave it out\.$"
    ):
        Region((8, 8), CropBox(2, 0, 6, 8), **given)


@pytest.mark.parametrize("box", [{}, {"x": 1, "y": 1, "width": 2}, {**BOX, "x": float("nan")}, {**BOX, "height": float("inf")}])
def test_a_box_that_is_none_is_refused(box):
    with pytest.raises(ValueError, match=r"^A box needs x, y, width and height in pixels; got \{"):
        Region((8, 8), whole(8, 8), boxes=[[BOX], [box]])


def test_extent():
    weight = torch.zeros(6, 8)
    assert extent(weight) == (slice(0, 0), slice(0, 0))
    weight[2, 7] = weight[4, 3] = 0.1
    assert extent(weight) == (slice(2, 5), slice(3, 8))


# Where the edit lies


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 90), st.integers(1, 90), seeds)
def test_resizing_is_torchs_antialiased_bicubic_away_from_the_border(height, width, to_height, to_width, seed):
    frame = noise(seed, height, width, 3)
    ours = resize(frame, bicubic(height, 0, height, to_height), bicubic(width, 0, width, to_width))
    theirs = F.interpolate(frame.movedim(-1, 0)[None], (to_height, to_width), mode="bicubic", antialias=True)
    near = [2 * -(-max(to, side) // side) for side, to in ((height, to_height), (width, to_width))]
    inner = tuple(slice(margin, side - margin) for margin, side in zip(near, (to_height, to_width)))
    assert ours.shape == (to_height, to_width, 3)
    if ours[inner].numel():
        torch.testing.assert_close(ours[inner], theirs[0].movedim(0, -1)[inner], atol=2e-4, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(24, 120), st.integers(24, 120), steps, steps)
def test_a_frame_comes_back_to_where_it_was(width, height, to_width, to_height):
    """Ramps survive resizing; a shift of a tenth of a pixel of either grid would show."""
    x, y = torch.meshgrid((torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height, indexing="xy")
    source = torch.stack([x, y, torch.zeros_like(x)], -1)
    fitted, crop = fit_frames(source[None], to_width, to_height)
    region = Region((width, height), crop)
    [frame] = put_back([(fitted[0], torch.ones_like(source))], region, crop)
    # Bicubic tapers off over the last pixels of the crop.
    edge = [4 * max(1.0, crop.width / to_width), 4 * max(1.0, crop.height / to_height)]
    rows, columns = (
        slice(int(start + margin) + 1, int(start + length - margin))
        for start, length, margin in ((crop.top, crop.height, edge[1]), (crop.left, crop.width, edge[0]))
    )
    inner, wanted = frame[rows, columns], source[: frame.shape[0], : frame.shape[1]][rows, columns]
    if inner.numel():
        off = (inner - wanted).abs().amax((0, 1)) * torch.tensor([width, height, 1])
        assert off[0] < 0.1 * max(1.0, crop.width / to_width) and off[1] < 0.1 * max(1.0, crop.height / to_height)
        assert off[2] == 0


def test_a_latent_of_another_size_than_the_crop_still_fills_it():
    """As after upscaling the latent: the edit covers the crop whatever its own size."""
    crop = CropBox(10.25, 4.5, 60.5, 40.25)
    [frame] = put_back([(torch.ones(96, 144, 3), torch.zeros(50, 80, 3))], Region((80, 50), crop), crop)
    assert float(frame[..., 0].sum()) == pytest.approx(60.5 * 40.25, rel=1e-4)


def test_frames_are_taken_one_by_one_and_no_more_than_the_edit_has():
    taken = []

    def frames(name, count):
        for index in range(count):
            taken.append((name, index))
            yield torch.zeros(16, 16, 3)

    region = Region((16, 16), whole(16, 16))
    pairs = match_colours(zip(frames("edit", 3), frames("source", 9)), region, whole(16, 16))
    out = put_back(pairs, region, whole(16, 16))
    next(out)
    assert taken == [("edit", 0), ("source", 0)]
    assert len(list(out)) == 2
    assert taken == [*itertools.product(("edit", "source"), [0]), ("edit", 1), ("source", 1), ("edit", 2), ("source", 2)]
