"""Stage 0, first part: where the shots of a raw video begin and end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from ...evaluation.frames import to_bytes
from ...video.clip import open_clip
from ...video.source import FileSource
from .. import measure
from ..outcomes import Work
from ..settings import About, StageChoice
from ..sources import Source

ABOUT = About("videos", ("cut",))

FRAMES_AT_A_TIME = 16


def first_rows(sources: list[Source]) -> Iterator[tuple[str, Work]]:
    for source in sources:
        yield source.id, Work(source.video, {"source": source.facts, "licensed": bool(source.licence.strip())})


def load(choice: StageChoice) -> float:
    """Raises RuntimeError, a sentence, where a package is missing, or the weights of the next stage: before any video is read."""
    measure.cuts(torch.zeros(1, 16, 16, 3, dtype=torch.uint8), choice.settings.cut)
    measure.check_features(choice.settings.duplicate_features)
    return choice.settings.cut


def edit_file(cut: float, work: Work, output: Path, progress: bool) -> tuple[None, dict]:
    clip = open_clip(FileSource(work.video), 0, 0, sound=False)
    chunks = (to_bytes(chunk) for chunk in clip.chunks(FRAMES_AT_A_TIME))
    begins = [0, *measure.cuts(chunks, cut, shortest=2), clip.frames]
    width, height = clip.shown_size
    scores = {
        "seconds": float(clip.frames / clip.fps),
        "short_side": min(width, height),
        "licensed": int(work.facts["licensed"]),
    }
    seconds = [float(begin / clip.fps) for begin in begins]
    return None, {"scores": scores, "fps": float(clip.fps), "shots": [[*span] for span in zip(seconds, seconds[1:])]}
