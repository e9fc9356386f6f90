"""What detectors see of an edit: whether objects are still where they were, and whether what the edit names is there or gone.

LIVEditor's paper names detectors for this and no formula (arXiv 2605.04569, §4.1). Both models are transformers', of a folder or of
Hugging Face's cache: a detector of fixed classes, RT-DETRv2 for one, and one that is told what to look for, GroundingDINO.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..evaluation.judge.rubrics import evenly
from ..evaluation.metrics.features import HubModel, as_image, load, ready
from ..optional import needed
from . import EXTRA
from .settings import Settings

FRAMES = 5
"""Of a clip that are looked at, evenly spread, as IVE-Bench does."""

SURE = 0.5
"""Confidence from which the detector of fixed classes counts: transformers' default for it."""

SAME = 0.5
"""Intersection over union from which two boxes of one class are one object."""


class Boxes(NamedTuple):
    """Of one frame. corners: [N, 4] left, top, right, bottom in pixels; labels: [N]."""

    corners: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Detectors:
    """Those that the settings name."""

    classes: HubModel | None
    words: HubModel | None


def detectors_of(settings: Settings) -> Detectors:
    """Raises RuntimeError, a sentence, where one is not there."""
    classes, words = settings.detector_model, settings.grounding_model
    found = Detectors(
        classes and HubModel(classes, "main", "AutoModelForObjectDetection"),
        words and HubModel(words, "main", "AutoModelForZeroShotObjectDetection"),
    )
    for model in (found.classes, found.words):
        if model:
            ready(model)
    return found


def scores(detectors: Detectors, source: torch.Tensor, edit: torch.Tensor, proposal: dict) -> dict[str, float | None]:
    """Of an edit and its source, [T, H, W, 3] uint8 of one size; what no model of `detectors` measures is left out.

    proposal: a planner's; `object` names what the edit takes away or changes, `new_object` what it puts there, where the planner said so.

    objects_lost: share of the source's objects that the edit has not, 0 to 1; None where there are none. It counts what the edit takes away.
    object_left, of removals, and new_object: confidence that the object is in the edit, 0 to 1, mean over the frames.
    """
    at = evenly(len(edit), FRAMES)
    source, edit = source[at], edit[at]
    found: dict[str, float | None] = {}
    if detectors.classes:
        found["objects_lost"] = lost(seen(detectors.classes, source), seen(detectors.classes, edit))
    if detectors.words:
        # After a swap or a restyling there may still be one of its kind.
        if proposal.get("object") and proposal.get("task") == "remove":
            found["object_left"] = confidence(detectors.words, edit, proposal["object"])
        if proposal.get("new_object"):
            found["new_object"] = confidence(detectors.words, edit, proposal["new_object"])
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
def confidence(model: HubModel, frames: torch.Tensor, words: str) -> float:
    """Of the surest box for the words in a frame, mean over the frames."""
    network, processor = load(model)
    surest = []
    for frame in frames:
        # It was trained on lower-case phrases that end with a full stop.
        inputs = processor(images=as_image(frame), text=f"{words.strip().lower().rstrip('.')}.", return_tensors="pt")
        (one,) = processor.post_process_grounded_object_detection(network(**inputs), threshold=0.0, text_threshold=0.0)
        surest.append(one["scores"].max())
    return float(torch.stack(surest).mean())
