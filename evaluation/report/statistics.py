"""Means over items with bootstrap intervals, and the paired comparison of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
SEED = 0
"""The same numbers give the same interval."""


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` items; low, high: the ends of its LEVEL interval by the percentile bootstrap over items; the mean itself
    where there is one item."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Paired:
    """Of items that both runs scored: the mean difference, second less first, and on how many items it is above and below 0."""

    difference: Estimate
    above: int
    below: int


def estimate(values: Sequence[float]) -> Estimate:
    """Raises ValueError for no value."""
    if not len(values):
        raise ValueError("There is no value to take the mean of.")
    data = np.asarray(values, dtype=float)
    chosen = np.random.default_rng(SEED).integers(0, len(data), (RESAMPLES, len(data)))
    low, high = np.quantile(data[chosen].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(data.mean()), float(low), float(high), len(data))


def paired(first: dict[str, float], second: dict[str, float]) -> Paired | None:
    """{id: value} of two runs; None where they share no item."""
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return None
    differences = [second[id] - first[id] for id in shared]
    return Paired(estimate(differences), sum(value > 0 for value in differences), sum(value < 0 for value in differences))
