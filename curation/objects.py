"""What detectors see of an edit: whether objects are still where they were, and whether what the edit names is there or gone.

LIVEditor's paper names detectors for this and no formula (arXiv 2605.04569, §4.1). The models are transformers', of a folder or of
Hugging Face's cache: a detector of fixed classes, RT-DETRv2 for one; one that is told what to look for, GroundingDINO; and SAM2, which
outlines what the second has found, so that the rest of the frame can be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..evaluation.judge.rubrics import evenly
from ..evaluation.metrics.features import HubModel, as_image, load, ready
from ..optional import needed
from . import EXTRA
from .measure import psnr_within
from .settings import OBJECT_TASKS, Settings

FRAMES = 5
"""Of a clip that are looked at, evenly spread, as IVE-Bench does."""

SURE = 0.5
"""Confidence from which the detector of fixed classes counts: transformers' default for it."""

SAME = 0.5
"""Intersection over union from which two boxes of one class are one object."""


FOUND = 0.3
"""Confidence from which the box for words counts where it is outlined: IVE-Bench's."""

GROWN = 0.02
"""Share of the frame's diagonal by which outlines are widened: an object's shadow and soft border change with it."""

ONE_OBJECT = (*OBJECT_TASKS, "human")
"""Tasks whose edits leave alone what they do not name."""


class Boxes(NamedTuple):
    """Of one frame. corners: [N, 4] left, top, right, bottom in pixels; labels: [N]."""

    corners: torch.Tensor
    labels: torch.Tensor


class Named(NamedTuple):
    """The surest box for some words in one frame: how sure, 0 to 1, and its corners, [4] as in Boxes."""

    confidence: float
    corners: torch.Tensor


@dataclass(frozen=True)
class Detectors:
    """Those that the settings name. masks: where words is there too."""

    classes: HubModel | None
    words: HubModel | None
    masks: HubModel | None = None


def detectors_of(settings: Settings) -> Detectors:
    """Raises RuntimeError, a sentence, where one is not there."""
    classes, words, masks = settings.detector_model, settings.grounding_model, settings.mask_model
    found = Detectors(
        classes and HubModel(classes, "main", "AutoModelForObjectDetection"),
        words and HubModel(words, "main", "AutoModelForZeroShotObjectDetection"),
        masks and HubModel(masks, "main", "Sam2Model"),
    )
    for model in (found.classes, found.words, found.masks):
        if model:
            ready(model)
    return found


def scores(detectors: Detectors, source: torch.Tensor, edit: torch.Tensor, proposal: dict) -> dict[str, float | None]:
    """Of an edit and its source, [T, H, W, 3] uint8 of one size; what no model of `detectors` measures is left out.

    proposal: a planner's; `object` names what the edit takes away or changes, `new_object` what it puts there, where the planner said so.

    objects_lost: share of the source's objects that the edit has not, 0 to 1; None where there are none. It counts what the edit takes away.
    object_left, of removals, and new_object: confidence that the object is in the edit, 0 to 1, mean over the frames.
    outside_object, of edits that change one object: PSNR outside of `object` in the source and `new_object` in the edit, dB, mean over the
    frames in which those that are named are found; None where there are none.
    """
    at = evenly(len(edit), FRAMES)
    source, edit = source[at], edit[at]
    found: dict[str, float | None] = {}
    if detectors.classes:
        found["objects_lost"] = lost(seen(detectors.classes, source), seen(detectors.classes, edit))
    if detectors.words:
        # After a swap or a restyling there may still be one of its kind.
        old, new = proposal.get("object"), proposal.get("new_object")
        if old and proposal.get("task") == "remove":
            found["object_left"] = _confidence(named(detectors.words, edit, old))
        there = named(detectors.words, edit, new) if new else None
        if there:
            found["new_object"] = _confidence(there)
        if detectors.masks and (old or new) and proposal.get("task") in ONE_OBJECT:
            before = named(detectors.words, source, old) if old else None
            found["outside_object"] = _outside(detectors.masks, source, edit, before, there)
    return found


def lost(before: list[Boxes], after: list[Boxes]) -> float | None:
    """Share of the boxes of each frame that no box of the same class overlaps in the other clip's, mean over frames that have any.

    Each box of `after` stands for one of `before` at most, the best overlap first.
    """
    shares = []
    for one, other in zip(before, after):
        if len(one.labels):
            overlaps = overlap(one.corners, other.corners) * (one.labels[:, None] == other.labels)
            matched = 0
            while overlaps.numel() and overlaps.max() >= SAME:
                row, column = divmod(int(overlaps.argmax()), overlaps.shape[1])
                overlaps[row], overlaps[:, column] = 0, 0
                matched += 1
            shares.append(1 - matched / len(one.labels))
    return sum(shares) / len(shares) if shares else None


def overlap(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """[N, M]: intersection over union of boxes, [N, 4] and [M, 4]."""
    return needed("torchvision.ops", "torchvision", EXTRA).box_iou(one, other)


@torch.no_grad()
def seen(model: HubModel, frames: torch.Tensor) -> list[Boxes]:
    """What the detector of fixed classes is sure of, in each frame."""
    network, processor = load(model)
    found = []
    for frame in frames:
        out = network(**processor(images=as_image(frame), return_tensors="pt"))
        (one,) = processor.post_process_object_detection(out, threshold=SURE, target_sizes=[tuple(frame.shape[:2])])
        found.append(Boxes(one["boxes"], one["labels"]))
    return found


@torch.no_grad()
def named(model: HubModel, frames: torch.Tensor, words: str) -> list[Named]:
    """The surest box for the words in each frame."""
    network, processor = load(model)
    found = []
    for frame in frames:
        # It was trained on lower-case phrases that end with a full stop.
        inputs = processor(images=as_image(frame), text=f"{words.strip().lower().rstrip('.')}.", return_tensors="pt")
        (one,) = processor.post_process_grounded_object_detection(
            network(**inputs), threshold=0.0, text_threshold=0.0, target_sizes=[tuple(frame.shape[:2])]
        )
        best = int(one["scores"].argmax())
        found.append(Named(float(one["scores"][best]), one["boxes"][best]))
    return found


def _confidence(found: list[Named]) -> float:
    return sum(one.confidence for one in found) / len(found)


def _outside(
    model: HubModel, source: torch.Tensor, edit: torch.Tensor, before: list[Named] | None, after: list[Named] | None
) -> float | None:
    """PSNR outside of the objects, found in the source and in the edit, over the frames in which they are all found."""
    looked = [(frames, boxes) for frames, boxes in ((source, before), (edit, after)) if boxes]
    at = [index for index in range(len(edit)) if all(boxes[index].confidence >= FOUND for _, boxes in looked)]
    if not at:
        return None
    inside = [
        torch.stack([outlined(model, frames[index], boxes[index].corners) for frames, boxes in looked]).any(0) for index in at
    ]
    return psnr_within(source[at], edit[at], ~torch.stack(inside))


@torch.no_grad()
def outlined(model: HubModel, frame: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
    """[H, W] bool: the object in a box, widened by GROWN."""
    network, processor = load(model)
    inputs = processor(images=as_image(frame), input_boxes=[[corners.tolist()]], return_tensors="pt")
    (masks,) = processor.post_process_masks(network(**inputs, multimask_output=False).pred_masks, inputs["original_sizes"])
    reach = round(GROWN * math.hypot(*frame.shape[:2]))
    return F.max_pool2d(masks[0].float(), 2 * reach + 1, 1, reach)[0] > 0
