"""Changes between neighbouring frames, without a model."""

from __future__ import annotations

import torch

from ..frames import Inputs
from .metric import Metric, NothingToMeasure


def steadiness(frames: torch.Tensor) -> float:
    """1 - the mean absolute difference of neighbouring frames, of 255 levels: IVE-Bench's temporal flickering. [T, H, W, 3] uint8."""
    if len(frames) < 2:
        raise NothingToMeasure("One frame alone has no neighbour: changes over time cannot be measured.")
    differences = [(one.int() - two.int()).abs().double().mean() for one, two in zip(frames, frames[1:])]
    return min(1.0, max(0.0, float(1 - torch.stack(differences).mean() / 255)))


def _flickering(inputs: Inputs) -> dict[str, float]:
    return {"temporal_flickering": steadiness(inputs.edit_as_made.frames)}


def _added(inputs: Inputs) -> dict[str, float]:
    return {"flicker_added": 255 * (steadiness(inputs.source) - steadiness(inputs.edit))}


METRICS = [
    Metric(
        "temporal_flickering",
        _flickering,
        "1 minus the mean change between neighbouring frames; a still video has 1, motion lowers it as flicker does.",
    ),
    Metric(
        "flicker_added",
        _added,
        "Mean change between neighbouring frames, in levels of 255, that the edit has more than its source.",
        higher=False,
        unit="levels",
    ),
]
