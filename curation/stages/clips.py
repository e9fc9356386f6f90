"""Stage 0, second part: shots cut into clips of the run's length, rate and size, and measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import torch

from ...evaluation.frames import to_bytes
from ...video.clip import open_clip
from ...video.geometry import fit_frames
from ...video.mp4 import write_mp4
from ...video.source import FileSource
from .. import measure, safety
from ..outcomes import Outcome, Work
from ..settings import About, Settings, StageChoice

ABOUT = About("clips", ("frames", "fps", "width", "height", "cut", "duplicate_features"))

CRF = 12
"""Of x264: clips are sources of training pairs, so that little is lost."""


def rows(kept: list[Outcome], settings: Settings) -> Iterator[tuple[str, Work]]:
    for video in kept:
        number, source = 0, video.work.facts["source"]
        for begin, end in video.made["shots"]:
            first, last = math.ceil(begin * settings.fps - 1e-6), math.floor(end * settings.fps + 1e-6)
            for start in range(first, last - settings.frames + 1, settings.frames):
                number += 1
                span = [start / settings.fps, (start + settings.frames) / settings.fps]
                yield f"{video.id}-{number:03}", Work(video.work.video, {"source": source, "start": start, "span": span})


def load(choice: StageChoice) -> Settings:
    # Where a package is missing or a file of weights is damaged, these raise before every clip would.
    nothing = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    measure.cuts(nothing, choice.settings.cut)
    measure.features(nothing, choice.settings.duplicate_features)
    safety.unsafe(nothing)
    return choice.settings


def edit_file(settings: Settings, work: Work, output: Path, progress: bool) -> tuple[Path, dict]:
    clip = open_clip(FileSource(work.video), settings.frames, settings.fps, work.facts["start"], sound=False)
    size = settings.width, settings.height
    frames = torch.cat([fit_frames(chunk, *size, clip.pixel_aspect)[0] for chunk in clip.chunks()])
    if len(frames) < settings.frames:
        raise ValueError(f"The video ends {settings.frames - len(frames)} frames before the clip does.")
    file = write_mp4(output, [frames], Fraction(settings.fps).limit_denominator(1000), crf=CRF)
    pixels = to_bytes(frames)
    scores = measure.clip_scores(pixels, settings.cut) | {"unsafe": safety.unsafe(pixels)}
    network = settings.duplicate_features
    return file, {"file": file.name, "scores": scores, "features": measure.features(pixels, network), "features_by": network}
