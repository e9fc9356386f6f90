"""The accuracy of an edit against its ground truth."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch

from ...data.procedural.stream import EditBatch

RIGHT = 0.75
"""An edit is right from this `Score.progress` on. It is the value of an edit with every pixel half-way to the truth."""


@dataclass(frozen=True)
class Score:
    """The score of one clip. PSNR in dB, pixels from 0 to 1; the region is the edited one.

    psnr: of the whole clip. region, copy: within the region, of the output and of the source left as it is.
    kept: outside the region; None where that is nothing.
    progress: 1 - squared error of the output / of the source, within the region: 1 is the edit itself, 0 is as far off as
        doing nothing.
    """

    psnr: float
    region: float
    copy: float
    kept: float | None
    progress: float

    @property
    def right(self) -> bool:
        return self.progress >= RIGHT


def scores(batch: EditBatch, output: torch.Tensor) -> list[Score]:
    """output: [B, 3, T, H, W] in 0..1, the edit of batch.source."""
    judged = []
    for source, target, region, edit in zip(batch.source, batch.target, batch.region, output):
        source, target, edit = (x.float() for x in (source, target, edit))
        inside = region.expand_as(target)
        error, undone = (edit - target).square(), (source - target).square()
        judged.append(
            Score(
                psnr=decibels(error.mean()),
                region=decibels(error[inside].mean()),
                copy=decibels(undone[inside].mean()),
                kept=None if inside.all() else decibels(error[~inside].mean()),
                progress=float(1 - error[inside].sum() / undone[inside].sum()),
            )
        )
    return judged


def by_task(batches: list[tuple[EditBatch, list[Score]]]) -> dict[str, dict[str, float]]:
    """{task: means over its clips, and the share that is right}, with "all"."""
    groups = defaultdict(list)
    for batch, judged in batches:
        for task, score in zip(batch.tasks, judged):
            groups[task].append(score)
            groups["all"].append(score)
    return {task: _means(group) for task, group in sorted(groups.items())}


def _means(group: list[Score]) -> dict[str, float]:
    means = {"clips": len(group), "edit_accuracy": sum(score.right for score in group) / len(group)}
    for name in ("psnr", "region", "copy", "kept", "progress"):
        values = [getattr(score, name) for score in group if getattr(score, name) is not None]
        if values:
            means[name] = round(sum(values) / len(values), 3)
    return means


def decibels(error: torch.Tensor) -> float:
    """PSNR of a mean squared error over values from 0 to 1; at most 100, the value for equal inputs."""
    return float(-10 * torch.log10(error.clamp_min(1e-10)))
