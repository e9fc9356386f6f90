"""Metrics of anybody's module, beside this package's: of models whose code no library has, such as ViCLIP, VideoCLIP-XL, VTSS or AMT."""

from __future__ import annotations

from collections.abc import Sequence

from ...optional import named_module
from .metric import Metric


def metrics_of(modules: Sequence[str]) -> list[Metric]:
    """METRICS of each module, by its full name, which every worker has to be able to import.

    A metric with the name or a column of a bench's part fills it, and so completes the bench's total.
    Raises ValueError in one sentence where there is no such module, or it has none.
    """
    return [metric for name in modules for metric in _of(name)]


def _of(name: str) -> Sequence[Metric]:
    module = named_module(name, "name one that Python can import, from a folder of PYTHONPATH say")
    found = getattr(module, "METRICS", None)
    if not (isinstance(found, (list, tuple)) and found and all(isinstance(metric, Metric) for metric in found)):
        raise ValueError(f"The module {name} has no METRICS: make it a list of liveditor_isa.evaluation.metrics.metric.Metric.")
    return found
