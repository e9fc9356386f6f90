"""Stands in for `pipelines.edit` in tests of batch jobs and of the server: real videos in and out, and every way of going wrong on request.

What a clip does is told by its prompt; each edit that begins leaves a line in `edits.log` beside its video.
"""

import errno
import os
import signal
import time
from fractions import Fraction
from pathlib import Path

import torch
from liveditor_isa.video.folder import source_of
from liveditor_isa.video.mp4 import write_mp4

STEPS = 20


class AcceleratorError(RuntimeError):
    """By the name that torch's has."""


def load(choice):
    if choice.model == "missing":
        raise ValueError("There is no model called missing.")
    if choice.model == "crash":
        signal.raise_signal(signal.SIGSEGV)
    return choice


def edit_file(pipe, edit, output, progress=True, on_step=lambda done, of: None, folder=None):
    what, _, value = edit.prompt.partition(" ")
    with open(Path(edit.video).parent / "edits.log", "a") as log:
        log.write(f"{Path(output).stem}\n")
    frames = _frames(edit.video)
    if what == "slowly":
        for step in range(STEPS):  # an edit that takes so long
            time.sleep(float(value) / STEPS)
            on_step(step + 1, STEPS)
    elif what == "full":
        raise OSError(errno.ENOSPC, "The disk is full: 0 MB are free. Make room and run again", "/elsewhere")
    elif what == "crash":
        signal.raise_signal(getattr(signal, value))  # of this thread, as a crash is
    elif what == "broken":
        raise KeyError("attention")
    elif what == "ends":
        raise EOFError("The file ends early")  # as PyAV's own, and a broken line to the server
    elif what == "device":
        raise AcceleratorError("CUDA error: an illegal memory access was encountered")

    def chunks():
        yield frames[:2]
        if what == "die" or (what == "die-once" and first(Path(value))):
            os.kill(os.getpid(), signal.SIGKILL)
        yield frames[2:]

    return write_mp4(output, chunks(), Fraction(10)), {"frames": len(frames), "backend": "none", "nice": os.nice(0)}


def _frames(path: str) -> torch.Tensor:
    source = source_of(path)
    return torch.stack([*source.images(range(sum(1 for _ in source.stamps())))])


def first(marker: Path) -> bool:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
