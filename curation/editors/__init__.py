"""Editors of target frames and target videos, one file each: what makes a candidate. The best of several is chosen here.

A module has `load(choice, model, frames)`, and `edit(tools, request)`, which writes `request.output` and returns {"model": name@revision}.
model: the setting `frame_model` or `video_model`. frames: 1 where target frames are made, else a clip's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from ...evaluation.frames import read_video
from .. import measure
from ..gates import failing
from ..outcomes import Work
from ..plugins import module_of
from ..settings import Settings, StageChoice

OWN = ("liveditor", "pipeline", "workflow")
"""Modules of this folder."""


@dataclass(frozen=True)
class Request:
    """One candidate. video: the real clip. frames: how many of it. size: width and height. target_frame: the edited first frame, where there is one.

    output: the mp4 to write. description: what the edit shows, where the planner says so.
    """

    video: str
    instruction: str
    frames: int
    seed: int
    steps: int | None
    guidance: float | None
    size: tuple[int, int]
    target_frame: str | None
    output: Path
    description: str | None = None

    @property
    def video_prompt(self) -> str:
        """For models of text to video, which were trained on descriptions."""
        return self.description or self.instruction


class WrongEdit(RuntimeError):
    """An editor cannot do what is asked of it, whatever the clip: three in a row stop a run."""


class Editor(NamedTuple):
    """A module of this folder, and what its `load` returned."""

    module: Any
    tools: Any


def editor_of(name: str, choice: StageChoice, model: str | None, frames: int) -> Editor:
    """name: of a module in this folder, or a module's full name; the others as in its `load`."""
    module = module_of(name, "editors", OWN)
    return Editor(module, module.load(choice, model, frames))


def pictures(video: str, most: int) -> Iterator[Image.Image]:
    """The first frames of a video, at most so many."""
    for frame in read_video(video, most).frames:
        yield Image.fromarray(frame.numpy())


def target_frame(request: Request) -> Image.Image:
    """The edited first frame at the clip's size, of a request that has one."""
    assert request.target_frame, "videos are made of kept frames"
    return next(pictures(request.target_frame, 1)).resize(request.size)


def best_edit(
    editor: Editor, settings: Settings, work: Work, output: Path, stage: str, candidates: int,
    also: Callable[[torch.Tensor, torch.Tensor], dict],
) -> tuple[Path, dict]:  # fmt: skip
    """The best candidate's file, and the scores of all: that which fails the fewest of the stage's gates, then the best by `goodness`.

    stage: "frames" or "videos". also: more scores of an edit, given source and edit.
    Raises what the editor raises, WrongEdit for an edit of another length.
    """
    proposal, frames = work.facts["proposal"], 1 if stage == "frames" else settings.frames
    size = settings.width, settings.height
    source = measure.read_frames(work.video)[:frames]
    target = work.facts.get("target_frame")
    tried: list[dict] = []
    files = []
    for number in range(candidates):
        seed = settings.seed + number
        file = output.with_name(f"candidate-{number}.mp4")
        request = Request(
            work.video, proposal["instruction"], frames, seed, settings.steps, settings.guidance, size, target, file,
            proposal.get("target"),
        )  # fmt: skip
        made = editor.module.edit(editor.tools, request)
        edit = measure.read_frames(str(file))
        if len(edit) != frames:
            raise WrongEdit(
                f"{made['model']} made {len(edit)} frames where {frames} were asked for: take another model or workflow."
            )
        scores = measure.pair_scores(source, edit, proposal["expected"], settings.cut) | also(source, edit)
        if target:
            scores["frame_psnr"] = measure.likeness(edit[0], measure.read_frames(target)[0])
        tried.append({"seed": seed, "scores": scores, **made})
        files.append(file)

    def worth(number: int) -> tuple:
        scores = tried[number]["scores"]
        return -failing(scores, stage), measure.goodness(scores)

    best = max(range(candidates), key=worth)
    os.replace(files[best], output)
    return output, {"file": output.name, "bytes": output.stat().st_size, **tried[best], "candidates": tried, "chosen": best}
