"""LIVEditor as the editor of frames and videos: the included LIVEditor-tiny, or a checkpoint."""

from __future__ import annotations

from ...pipelines import edit as headless
from ...pipelines.request import Edit
from ..settings import StageChoice
from . import Request


def load(choice: StageChoice, model: str | None, frames: int):
    if model:
        raise ValueError("The editor liveditor takes its model from --model: leave frame_model and video_model out.")
    return headless.load(choice.model), choice.model.model


def edit(tools, request: Request) -> dict:
    pipe, model = tools
    asked = Edit(
        request.video, request.instruction, seed=request.seed, frames=request.frames, steps=request.steps,
        guidance=request.guidance, size=request.size,
    )  # fmt: skip
    _, facts = headless.edit_file(pipe, asked, request.output, progress=False)
    return {"model": model, "edit_seconds": facts["sampling_seconds"] + facts["writing_seconds"]}
