"""Metrics: each turns the videos of one item into one or more named numbers."""

from __future__ import annotations

from . import dino, features, i3d, niqe, pixels, temporal, vmaf
from .metric import Metric

METRICS: dict[str, Metric] = {
    metric.name: metric for module in (pixels, temporal, vmaf, features, dino, niqe, i3d) for metric in module.METRICS
}
"""All that need no judge and no bench's own data, by name."""
