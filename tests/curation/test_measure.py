"""Scores of clips and pairs: known pictures with known answers."""

import math

import pytest
import torch

pytest.importorskip("cv2", reason="the data extra is not installed")
pytest.importorskip("scenedetect", reason="the data extra is not installed")

from evaluated import blurred, scene  # noqa: E402
from liveditor_isa.curation import measure  # noqa: E402
from liveditor_isa.data.procedural.render import silhouettes  # noqa: E402
from liveditor_isa.data.procedural.scenes import COLOURS, PLACED, PLACES, SHAPES  # noqa: E402
from liveditor_isa.data.procedural.styles import STYLES  # noqa: E402
from liveditor_isa.evaluation.frames import to_bytes, to_unit  # noqa: E402

CUT = 27.0


def texture(seed: int = 0, height: int = 96, width: int = 128) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 12, 16, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1).movedim(0, -1)


def still(seed: int, frames: int) -> torch.Tensor:
    return to_bytes(texture(seed)).expand(frames, -1, -1, -1)


def with_object(video: torch.Tensor, place: str, colour: str) -> torch.Tensor:
    edited = video.clone()
    edited[measure.box(place, *video.shape[:3])] = (torch.tensor(COLOURS[colour]) * 255).to(torch.uint8)
    return edited


def test_cuts_are_the_frames_that_begin_a_shot():
    dark = (still(1, 5) / 6).to(torch.uint8)
    assert measure.cuts(torch.cat([still(0, 6), dark, still(0, 4)]), CUT) == [6, 11]
    assert measure.cuts(iter([still(0, 4), still(0, 2), dark, still(0, 4)]), CUT) == [6, 11]
    assert measure.cuts(still(0, 9), CUT) == []


def test_a_jump_after_the_first_frame_is_a_cut():
    """As of a video that does not go on from its target frame. Of a film it is none: a shot has two frames at least."""
    jump = torch.cat([still(0, 1), (still(1, 8) / 6).to(torch.uint8)])
    assert measure.cuts(jump, CUT) == [1] and measure.cuts(jump, CUT, shortest=2) == []


def test_an_edit_whose_place_nobody_knows_shows_where_most_has_changed():
    video = still(5, 3)
    scores = measure.pair_scores(video, with_object(video, "left", "red"), {}, CUT)
    assert scores["present"] > 60 and scores["outside_psnr"] is None and scores["sharpness"] is not None
    assert measure.pair_scores(video, video, {}, CUT)["present"] == 0
    style = measure.pair_scores(video, 255 - video, {"everywhere": True}, CUT)
    assert style["present"] > 14.58 and not {"flicker_added", "drift", "sharpness"} & style.keys()


def test_motion_is_in_percent_of_the_diagonal():
    picture = texture(3, 96, 160)
    moving = to_bytes(torch.stack([picture.roll(2 * index, 1)[:, 16:144] for index in range(4)]))
    assert measure.motion(moving) == pytest.approx(100 * 2 / math.hypot(96, 128), rel=0.25)
    assert measure.motion(still(3, 4)) < 0.01
    assert measure.motion(still(3, 1)) == 0


def test_an_edit_that_is_missing_changes_nothing():
    video, _ = scene()
    scores = measure.pair_scores(video, video, {"style": "sepia"}, CUT)
    assert scores["present"] == 0 and scores["style"] < 0
    scores = measure.pair_scores(video, video, {"place": "left", "colour": "red"}, CUT)
    assert scores["present"] == 0 and scores["outside_psnr"] == 100 and scores["colour"] == -1 and scores["shape"] is None
    assert scores["flicker_added"] == 0 and scores["drift"] == 0 and scores["sharpness"] == 1


@pytest.mark.parametrize("style", ["sepia", "inverted", "mosaic", "foggy"])
def test_the_exact_style_is_right_and_another_is_wrong(style):
    video, _ = scene()
    other = next(name for name in STYLES if name != style)
    edits = {name: to_bytes(STYLES[name](to_unit(video)).clamp(0, 1).movedim(1, -1)) for name in (style, other)}
    right, wrong = (measure.pair_scores(video, edit, {"style": style}, CUT) for edit in edits.values())
    assert right["style"] > 3 > 0 > wrong["style"]
    assert abs(right["drift"]) < 0.5 and right["sharpness"] == pytest.approx(1, abs=0.02)
    assert right["outside_psnr"] is None


def test_an_object_has_the_colour_that_was_asked_for():
    video = still(5, 3)
    edit = with_object(video, "left", "blue")
    asked = {colour: measure.pair_scores(video, edit, {"place": "left", "colour": colour}, CUT) for colour in ("blue", "red")}
    assert asked["blue"]["colour"] > 0.9 and asked["red"]["colour"] < -0.9
    assert asked["blue"]["outside_psnr"] == 100 and asked["blue"]["present"] > 30


@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_has_the_shape_that_was_asked_for(shape):
    video = still(5, 3)
    centre = (-0.58 * 128 / 96, 0.58)  # of the place at the bottom left of 128×96
    outline = silhouettes(centre, PLACED, 96, 128)[SHAPES.index(shape)]
    edit = torch.where(outline[..., None], (torch.tensor(COLOURS["blue"]) * 255).to(torch.uint8), video)
    for asked in SHAPES:
        expected = {"place": "bottom left", "colour": "blue", "shape": asked}
        margin = measure.pair_scores(video, edit, expected, CUT)["shape"]
        assert (margin > 0.05) if asked == shape else (margin < -0.05)


def test_uncovered_background_does_not_hide_a_new_objects_colour():
    """As in a swap: most of what changes is background that comes to light."""
    before = still(5, 3)
    source = with_object(before, "left", "green")
    edit = before.clone()
    inside = measure.box("left", *before.shape[:3]).clone()
    inside[:, :, 24:] = False
    edit[inside] = (torch.tensor(COLOURS["red"]) * 255).to(torch.uint8)
    asked = {colour: measure.pair_scores(source, edit, {"place": "left", "colour": colour}, CUT) for colour in ("red", "green")}
    assert asked["red"]["colour"] > 0 > asked["green"]["colour"]


def test_an_object_elsewhere_changes_the_background():
    video = still(5, 3)
    scores = measure.pair_scores(video, with_object(video, "right", "blue"), {"place": "left", "colour": "blue"}, CUT)
    assert scores["outside_psnr"] < 20 and scores["present"] == 0


def test_faults_over_time_are_seen_each_by_its_own_score():
    video = still(6, 6)
    right = with_object(video, "left", "blue")
    expected = {"place": "left", "colour": "blue"}
    dimmed = right.clone()
    dimmed[1::2] = (dimmed[1::2] * 0.9).to(torch.uint8)
    assert measure.pair_scores(video, dimmed, expected, CUT)["flicker_added"] > 5
    growing = (right + torch.arange(6).view(-1, 1, 1, 1) * torch.tensor([0, 0, 2])).clamp(0, 255).to(torch.uint8)
    assert measure.pair_scores(video, growing, expected, CUT)["drift"] == pytest.approx(10, abs=1)
    cut = torch.cat([right[:3], still(9, 3) // 5])
    assert measure.pair_scores(video, cut, expected, CUT)["cuts_added"] == 1
    assert measure.pair_scores(video, blurred(right, 2), expected, CUT)["sharpness"] < 0.9


def test_every_place_lies_within_the_frame_and_leaves_an_outside():
    for place in PLACES:
        inside = measure.box(place, 1, 80, 128)
        assert inside.any() and (~inside).float().mean() > 0.3, place
    corner = measure.box("top left", 1, 80, 128)[0]
    assert corner[16, 26] and not corner[40:].any() and not corner[:, 64:].any()


def test_the_better_candidate_is_the_right_one_with_kept_surroundings():
    video = still(5, 3)
    expected = {"place": "left", "colour": "blue"}
    edits = [
        video,
        with_object(video, "left", "red"),
        blurred(with_object(video, "left", "blue"), 3),
        with_object(video, "left", "blue"),
    ]
    worth = [measure.goodness(measure.pair_scores(video, edit, expected, CUT)) for edit in edits]
    assert worth == sorted(worth) and worth[-1] > worth[-2]
