"""A pipeline of diffusers as an editor. Of frames: one that edits a picture, QwenImageEditPlusPipeline or FluxKontextPipeline say.

Of videos: one that goes on from the target frame. WanImageToVideoPipeline knows that frame alone. WanVACEPipeline also follows the real clip,
by depth maps as Ditto and EditVerse made their pairs (arXiv 2510.15742, 2509.20360), or by its grey frames. WanAnimatePipeline changes a
person (`animate`).
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from ...errors import NotFiniteError
from ...optional import needed
from ...pipelines.edit import device_and_dtype, place
from ...pipelines.folders import said_of
from ...runtime.finite import is_finite
from ...video.mp4 import write_mp4
from .. import EXTRA
from ..settings import StageChoice
from . import Request, animate, pictures, target_frame


class Tools(NamedTuple):
    """inputs: from a request to the arguments that this kind of pipeline takes besides the usual ones. takes: its arguments."""

    pipe: Any
    model: str
    takes: dict[str, inspect.Parameter]
    inputs: Callable[[Request], dict]
    fps: Fraction


def load(choice: StageChoice, model: str | None, frames: int) -> Tools:
    """Raises ValueError in one sentence where the pipeline does not do what the stage needs, takes no instruction, or would ignore the
    depth model."""
    if not model:
        raise ValueError(
            "The editor pipeline needs the setting frame_model or video_model: a folder or repository of a pipeline of diffusers."
        )
    device, dtype = device_and_dtype(choice.model)
    diffusers = needed("diffusers", "diffusers", EXTRA)
    with said_of(Path(model), "pipeline of diffusers"):
        pipe = diffusers.DiffusionPipeline.from_pretrained(model, torch_dtype=dtype)
    takes = dict(inspect.signature(pipe.__call__).parameters)
    kind = "video" if frames > 1 else "picture"
    # Others change the picture whatever the instruction is.
    instructed = "prompt" in takes and "mask_image" not in takes
    inputs: Callable[[Request], dict]
    if instructed and frames == 1 and "image" in takes and "num_frames" not in takes:
        inputs = _picture
    elif instructed and frames > 1 and {"video", "mask", "reference_images"} <= {*takes}:
        follow = _depth_of(choice.settings.depth_model, device, dtype) if choice.settings.depth_model else grey
        inputs = lambda request: controlled(request, follow)  # noqa: E731
    elif instructed and frames > 1 and {"pose_video", "face_video"} <= {*takes}:
        persons = animate.Persons.of(choice.settings)
        inputs = lambda request: animate.inputs(request, persons)  # noqa: E731
    elif instructed and frames > 1 and {"image", "num_frames"} <= {*takes}:
        inputs = _going_on
    else:
        raise ValueError(
            f"{type(pipe).__name__} makes no {kind} here: frames take a pipeline with an image and a prompt, such as QwenImageEditPlusPipeline or "
            "FluxKontextPipeline, videos WanVACEPipeline, WanImageToVideoPipeline or WanAnimatePipeline."
        )
    if frames > 1 and choice.settings.depth_model and "mask" not in takes:
        raise ValueError(
            f"{type(pipe).__name__} follows no depth maps: make video_model a WanVACEPipeline, or leave depth_model out."
        )
    if frames > 1 and choice.settings.pose_model and "pose_video" not in takes:
        raise ValueError(
            f"{type(pipe).__name__} follows no pose: make video_model a WanAnimatePipeline, or leave pose_model out."
        )
    if frames > 1:
        needed("ftfy", "ftfy", EXTRA)  # of Wan's pipelines, which do not say it
    place(pipe, choice.model, device)
    pipe.set_progress_bar_config(disable=True)
    return Tools(pipe, model, takes, inputs, Fraction(choice.settings.fps).limit_denominator(1000))


def edit(tools: Tools, request: Request) -> dict:
    """Raises NotFiniteError where the pipeline's result is none."""
    begun = time.monotonic()
    width, height = request.size
    asked = {
        "prompt": request.instruction if request.frames == 1 else request.video_prompt,
        "width": width, "height": height, "num_frames": request.frames,
        "generator": torch.Generator("cpu").manual_seed(request.seed), "output_type": "pt", **tools.inputs(request),
    }  # fmt: skip
    if request.steps:
        asked["num_inference_steps"] = request.steps
    # Where both are there, one is of a distilled guidance, or off unless asked for.
    true = tools.takes.get("true_cfg_scale")
    scale = "true_cfg_scale" if true is not None and true.default > 1 else "guidance_scale"
    if scale == "true_cfg_scale":
        asked["negative_prompt"] = " "  # without one these pipelines leave guidance out
    if request.guidance is not None:
        asked[scale] = request.guidance
    result = tools.pipe(**{name: value for name, value in asked.items() if name in tools.takes})
    frames = result.frames[0] if hasattr(result, "frames") else result.images
    if not is_finite(frames):
        raise NotFiniteError(f"{tools.model} made NaN or infinity: take --dtype bf16 or fp32.")
    frames = torch.nn.functional.interpolate(frames.float(), (height, width), mode="bicubic", antialias=True)
    write_mp4(request.output, [frames.clamp(0, 1).movedim(1, -1).cpu()], tools.fps)
    return {"model": tools.model, "edit_seconds": round(time.monotonic() - begun, 3)}


def _picture(request: Request) -> dict:
    return {"image": next(pictures(request.video, 1))}


def _going_on(request: Request) -> dict:
    return {"image": target_frame(request)}


def controlled(request: Request, follow: Callable[[Image.Image], Image.Image]) -> dict:
    """VACE's inputs: it keeps the target frame and follows what `follow` makes of each later frame of the clip."""
    first = target_frame(request)
    others = [follow(frame) for frame in islice(pictures(request.video, request.frames), 1, None)]
    masks = [Image.new("L", first.size, 0)] + [Image.new("L", first.size, 255)] * len(others)
    return {"video": [first, *others], "mask": masks, "reference_images": [first]}


def grey(frame: Image.Image) -> Image.Image:
    return frame.convert("L").convert("RGB")


def _depth_of(model: str, device: torch.device, dtype: torch.dtype) -> Callable[[Image.Image], Image.Image]:
    transformers = needed("transformers", "transformers", EXTRA)
    with said_of(Path(model), "depth model of transformers"):
        estimator = transformers.pipeline("depth-estimation", model=model, device=device, dtype=dtype)
    return lambda frame: estimator(frame)["depth"].convert("RGB").resize(frame.size)
