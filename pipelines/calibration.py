"""The threshold by which edits attend to as much as by a ratio. A ratio spends alike on every clip, a threshold more on a busy one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from ..isa_core import ISAConfig
from ..isa_core.config import ERROR_AWARE, ISA
from ..video.clip import open_clip
from ..video.folder import source_of
from .attention import AttachedISA
from .edit import read_references, sample
from .pipeline import LIVEditorPipeline
from .request import Edit

THRESHOLDS = {ERROR_AWARE: "error_threshold", ISA: "sharpness_threshold"}
"""{policy: its threshold, a field of ISAConfig}."""

RATIOS = {ERROR_AWARE: "exact_ratio", ISA: "dense_query_ratio"}
"""{policy: what the threshold stands in for}."""

FIRST_GUESS = {ERROR_AWARE: 0.01, ISA: 1e-5}

TOLERANCE = 0.01
"""By which share of the wanted density the threshold's may differ."""

RUNS = 12
"""Most densities that are measured."""


class Calibrated(NamedTuple):
    """threshold: the one found. density: with it, of all clips; wanted: with the ratio. each: with it, of every clip. runs: over all clips."""

    threshold: float
    density: float
    wanted: float
    each: list[float]
    runs: int


def calibrate(pipe: LIVEditorPipeline, edits: Sequence[Edit], on_edit: Callable[[], None] | None = None) -> Calibrated:
    """The threshold with which `edits` attend exactly to as much, on average, as with the ratio of the attached ISA's `config`.

    Every run samples all clips; nothing is decoded. on_edit: called after each sampling run.
    Raises ValueError in one sentence for a policy without a threshold, for one that is set already, and where ISA did not act.
    """
    isa = pipe.transformer.attached_isa
    config = isa.config
    check(config)
    name = THRESHOLDS[config.policy]

    def densities(changed: ISAConfig) -> list[float]:
        with _config(isa, changed):
            return [_density(pipe, isa, edit, on_edit) for edit in edits]

    wanted = _mean(densities(config))
    found: dict[float, list[float]] = {}

    def density_at(threshold: float) -> float:
        found[threshold] = densities(replace(config, **{name: threshold}))
        return _mean(found[threshold])

    threshold = threshold_for(density_at, wanted, FIRST_GUESS[config.policy])
    each = found[threshold]
    return Calibrated(threshold, _mean(each), wanted, each, 1 + len(found))


def check(config: ISAConfig) -> None:
    """Raises ValueError in one sentence where there is no threshold to look for."""
    if config.policy not in THRESHOLDS:
        raise ValueError(f"Policy {config.policy} has no threshold: take {' or '.join(THRESHOLDS)}.")
    if getattr(config, name := THRESHOLDS[config.policy]) is not None:
        raise ValueError(f"{name} is what is looked for: leave it out, and give {RATIOS[config.policy]}.")
    if not 0 < getattr(config, ratio := RATIOS[config.policy]) < 1:
        raise ValueError(f"{ratio} {getattr(config, ratio):g} needs no threshold: give one between 0 and 1.")


def threshold_for(density_at: Callable[[float], float], wanted: float, guess: float) -> float:
    """Of the thresholds tried, `RUNS - 1` at most, the one whose density, which falls as it grows, is nearest to `wanted`."""
    tried: dict[float, float] = {}
    below = above = None  # (logarithm of a threshold, its density): too much, and too little
    at = math.log(guess)
    while len(tried) < RUNS - 1:
        threshold = float(f"{math.exp(at):.3g}")  # as it will be typed
        if threshold in tried:
            break
        tried[threshold] = density = density_at(threshold)
        if abs(density - wanted) <= TOLERANCE * wanted:
            break
        if density > wanted:
            below = at, density
        else:
            above = at, density
        if below and above:
            # On the line between the two logarithms, but not so near to one that the other one would stay.
            high, low, right = (math.log(max(each, 1e-9)) for each in (below[1], above[1], wanted))
            share = (high - right) / (high - low)
            at = below[0] + min(max(share, 0.2), 0.8) * (above[0] - below[0])
        else:
            at += math.copysign(math.log(8), density - wanted)
    return min(tried, key=lambda threshold: abs(tried[threshold] - wanted))


def _density(pipe: LIVEditorPipeline, isa: AttachedISA, edit: Edit, on_edit) -> float:
    """Token pairs that one sampling run attends to exactly, as a share of those of full attention."""
    isa.recorder.take()
    clip = open_clip(source_of(edit.video, edit.fps), edit.frames, edit.fps, edit.start_frame, edit.every_nth, sound=False)
    size = edit.size or pipe.size_for(*clip.shown_size)
    sample(pipe, edit, clip, read_references(edit, size), size)
    if on_edit:
        on_edit()
    report = isa.recorder.take()
    if not report.sparse_calls:
        why = "; ".join([*report.full, *report.left_out]) or "no attention covers all tokens"
        raise ValueError(f"ISA did not act on {edit.video}, so there is nothing to calibrate: {why}.")
    return report.mean_shares()[0]


@contextmanager
def _config(isa: AttachedISA, config: ISAConfig) -> Iterator[None]:
    before, isa.config = isa.config, config
    try:
        yield
    finally:
        isa.config = before


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
