"""A style that LIVEditor-tiny was never taught, as a planner and an editor of `liveditor data run`: false colours of brightness.

A planner has `propose`, an editor `load` and `edit`; the settings name this module for both.
"""

from fractions import Fraction

import torch
from liveditor_isa.evaluation.frames import read_video
from liveditor_isa.video.mp4 import write_mp4

INSTRUCTION = "turn the video into a thermal picture"


def thermal(frames: torch.Tensor) -> torch.Tensor:
    """[..., 3] in 0..1 -> the same: dark is blue, bright is yellow."""
    heat = frames.mean(-1)
    return torch.stack([heat.sqrt(), heat**2, 0.8 * (1 - heat) ** 2], -1).clamp(0, 1)


def propose(settings, work) -> list[dict]:
    return [
        {
            "task": "style", "back_task": "style", "instruction": INSTRUCTION, "forward": [INSTRUCTION],
            "backward": ["make the video look as it was filmed"], "expected": {"everywhere": True},
        }
    ]  # fmt: skip


def load(choice, model, frames):
    """Nothing to load. model: the setting frame_model or video_model; frames: 1 where target frames are made."""


def edit(tools, request) -> dict:
    clip = read_video(request.video)
    write_mp4(request.output, [thermal(clip.frames[: request.frames].float() / 255)], Fraction(8), crf=8)
    return {"model": "thermal@1"}
