"""Stands in for a planner and an editor of the data pipeline: what is made is told by the instruction, in milliseconds.

`style NAME` is the exact style, `box COLOUR` a square on the left; behind them a fault may stand: `flicker`, `elsewhere`, `nothing`,
`cut`, `die-once FILE`, `full-once FILE`, `refuse`. Each edit that begins leaves a line in `edits.log` beside the fake's videos.
"""

import errno
import os
import signal
from fractions import Fraction
from pathlib import Path

import torch
from fake_editor import first
from liveditor_isa.curation.measure import box
from liveditor_isa.data.procedural.scenes import COLOURS
from liveditor_isa.data.procedural.styles import STYLES
from liveditor_isa.evaluation.frames import read_video
from liveditor_isa.video.mp4 import write_mp4

PROPOSALS = "LIVEDITOR_TEST_PROPOSALS"
"""In the environment: instructions of every clip, separated by |."""
LOG = "LIVEDITOR_TEST_LOG"


def propose(settings, work):
    return [_proposal(text) for text in os.environ[PROPOSALS].split("|") if text]


def _proposal(text):
    kind, name = text.split()[:2]
    expected = {"style": name.replace("_", " ")} if kind == "style" else {"colour": name, "place": "left"}
    back = f"undo {text}"
    task = "style" if kind == "style" else "add"
    return {
        "task": task,
        "back_task": "remove",
        "instruction": text,
        "forward": [text],
        "backward": [back],
        "expected": expected,
        "target": f"a clip in {name}",
    }


def load(choice, model=None, frames=1):
    return None


def edit(tools, request):
    kind, name, *faults = request.instruction.split()
    if LOG in os.environ:
        with open(os.environ[LOG], "a", encoding="utf-8") as log:
            log.write(f"{request.output.parent.parent.name} {request.frames} {request.seed}\n")
    if "refuse" in faults:
        raise ValueError("The fake refuses this edit.")
    if "die-once" in faults and first(Path(faults[-1])):
        os.kill(os.getpid(), signal.SIGKILL)
    if "full-once" in faults and first(Path(faults[-1])):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(request.output))
    frames = read_video(request.video).frames[: request.frames].float() / 255
    edited = made(frames, kind, name.replace("_", " "), faults)
    write_mp4(request.output, [edited], Fraction(8), crf=10)
    return {"model": "fake@1"}


def made(frames, kind, name, faults):
    """[T, H, W, 3] in 0..1."""
    if "nothing" in faults:
        return frames
    if kind == "style":
        edited = STYLES[name](frames.movedim(-1, 1)).clamp(0, 1).movedim(1, -1)
    else:
        edited = frames.clone()
        edited[box("right" if "elsewhere" in faults else "left", *frames.shape[:3])] = torch.tensor(COLOURS[name])
    if "flicker" in faults:
        edited = edited.clone()
        edited[1::2] *= 0.7
    if "cut" in faults and len(edited) > 1:
        edited[len(edited) // 2 :] = 1 - edited[len(edited) // 2 :]
    return edited
