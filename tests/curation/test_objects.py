"""Objects that detectors see: their counting by hand, and transformers' own classes with small random weights."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers", reason="the evaluation extra is not installed")

from liveditor_isa.curation import objects  # noqa: E402
from liveditor_isa.curation.objects import Boxes, Detectors  # noqa: E402
from liveditor_isa.curation.settings import Settings  # noqa: E402
from small_detectors import write_detector, write_grounding, write_masks  # noqa: E402

HERE, THERE, NEAR = [0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 12]
NOTHING = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))


def boxes(*found) -> Boxes:
    return Boxes(
        torch.tensor([corners for corners, _ in found], dtype=torch.float), torch.tensor([label for _, label in found])
    )


@pytest.mark.parametrize(
    "before, after, share",
    [
        (boxes((HERE, 1), (THERE, 2)), boxes((THERE, 2), (NEAR, 1)), 0.0),
        (boxes((HERE, 1), (THERE, 2)), boxes((HERE, 1)), 0.5),
        (boxes((HERE, 1)), boxes((HERE, 2)), 1.0),  # another class
        (boxes((HERE, 1), (NEAR, 1)), boxes((HERE, 1)), 0.5),  # one box stands for one
        (boxes((HERE, 1)), boxes((HERE, 1), (THERE, 3)), 0.0),  # what is new is not lost
        (boxes((HERE, 1)), NOTHING, 1.0),
        (NOTHING, boxes((HERE, 1)), None),
    ],
)
def test_lost_objects_are_counted(before, after, share):
    assert objects.lost([before], [after]) == share


def test_frames_without_objects_say_nothing():
    one = boxes((HERE, 1), (THERE, 2))
    assert objects.lost([NOTHING, one, one], [one, one, NOTHING]) == 0.5


@pytest.fixture(scope="module")
def detectors(tmp_path_factory) -> Detectors:
    folder = tmp_path_factory.mktemp("detectors")
    classes, words, masks = write_detector(folder / "classes"), write_grounding(folder / "words"), write_masks(folder / "masks")
    return objects.detectors_of(
        replace(Settings(), detector_model=str(classes), grounding_model=str(words), mask_model=str(masks))
    )


def test_transformers_detectors_look_at_an_edit(detectors, monkeypatch):
    monkeypatch.setattr(objects, "SURE", 0.3)  # of random weights
    frames = torch.randint(0, 256, (9, 48, 64, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = objects.seen(detectors.classes, frames[:2])
    assert all(len(one.labels) and one.corners.shape == (len(one.labels), 4) for one in found)
    detectors = replace(detectors, masks=None)
    same = objects.scores(detectors, frames, frames, {"task": "remove", "object": "Red ball.", "new_object": "dog"})
    assert same["objects_lost"] == 0 and 0 < same["object_left"] < 1
    sure = [one.confidence for one in objects.named(detectors.words, frames[[0, 2, 4, 6, 8]], "red ball")]
    assert same["object_left"] == pytest.approx(sum(sure) / 5)
    assert same["object_left"] != same["new_object"]
    assert objects.scores(detectors, frames, frames[:1], {}).keys() == {"objects_lost"}
    assert objects.scores(Detectors(None, None), frames, frames, {"object": "dog"}) == {}


def test_what_lies_outside_of_an_outlined_object_is_compared(detectors, monkeypatch):
    """The same frame twice, so that the object's outline is known."""
    monkeypatch.setattr(objects, "FOUND", 0.0)  # of random weights
    frame = torch.randint(0, 256, (1, 48, 64, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    source, seen = frame.expand(2, -1, -1, -1), replace(detectors, classes=None)
    removal = {"task": "remove", "object": "red ball", "new_object": ""}
    (box,) = objects.named(seen.words, frame, "red ball")
    assert box.corners.shape == (4,) and box.corners[2] - box.corners[0] > 2  # in pixels
    inside = objects.outlined(seen.masks, frame[0], box.corners)
    assert inside.shape == (48, 64) and 0 < inside.float().mean() < 1

    def outside(edit: torch.Tensor, proposal: dict = removal):
        return objects.scores(seen, source, edit, proposal).get("outside_object", "nothing")

    there, elsewhere = (torch.where(part[..., None], 255 - source, source) for part in (inside, ~inside))
    assert outside(there) == 100 and outside(elsewhere) < 15
    assert outside(there, removal | {"task": "swap", "new_object": "dog"}) == 100  # whose outline is left out beside the other
    assert outside(there, removal | {"task": "style"}) == outside(there, {"task": "remove"}) == "nothing"
    monkeypatch.setattr(objects, "FOUND", 1.1)
    assert outside(there) is None


def test_a_detector_that_is_not_there_is_named():
    with pytest.raises(RuntimeError, match="nobody/sees at main is no folder"):
        objects.detectors_of(replace(Settings(), grounding_model="nobody/sees"))
