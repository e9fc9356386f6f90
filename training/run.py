"""Shared by training runs: files that are complete or absent, a log, the end of a step, and the loop over steps."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from ..checkpoint.files import replacing
from . import processes
from .stopping import Stopped, held_back

LOG_EVERY = 20
"""Steps; reading a number waits for the GPU."""

SAVE_EVERY = 60
"""Seconds."""


def replace_file(path: Path, write: Callable[[Path], object]):
    """A file that exists complete or not at all."""
    with replacing(path) as partial:
        write(partial)


def log_line(path: Path, entry: dict):
    with open(path, "a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")


def half_cosine(first: float, last: float, progress: float) -> float:
    """The learning rate between first and last, at a progress of 0 to 1."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def descend(trainer, taken: int) -> torch.Tensor:
    """The end of every step: clip the gradients, update the weights, average the weights. Returns the gradients' norm.

    trainer: has `gradients`, `weights`, `averaged`, `optimizer`, `learning_rate`, `done` and `settings.ema`; `taken`: its optimiser's steps
    including this one; the average covers fewer steps at the start.
    """
    processes.average(trainer.gradients.gradient)
    norm = torch.nn.utils.clip_grad_norm_(trainer.weights, 1.0)
    for group in trainer.optimizer.param_groups:
        group["lr"] = trainer.learning_rate
    trainer.optimizer.step()
    trainer.done += 1
    decay = min(trainer.settings.ema, (1 + taken) / (10 + taken))
    torch._foreach_lerp_(trainer.averaged, [weight.detach() for weight in trainer.weights], 1 - decay)
    return norm


def run_until(trainer, name: str, checkpoint: Path, log: Path, minutes: float, steps: int | None = None) -> bool:
    """Step a trainer until its steps are done or the minutes are over. It saves itself every minute and at the end.

    trainer: has `settings.steps`, `done`, `learning_rate`, `step()`, which returns numbers still on the device, and
    `save(path)`; minutes: looked at after every step; steps: stop once so many are done, where that is fewer than all.
    Returns whether the steps are done. All processes stop at the same step; the first one saves.
    Raises Stopped, once it is saved, where a signal came to any of them.
    """
    steps = trainer.settings.steps if steps is None else steps
    start = saved = time.monotonic()
    first, over = processes.rank() == 0, 0
    bar = tqdm(
        total=steps, initial=trainer.done, desc=name, unit="step", smoothing=0.05, mininterval=2, disable=not first
    )  # fmt: skip
    with held_back() as noted:
        while trainer.done < steps and not over:
            rate = trainer.learning_rate
            measured = trainer.step()
            bar.update()
            seconds = time.monotonic() - start
            over = processes.largest(noted[0] if noted else int(seconds > 60 * minutes))
            if trainer.done % LOG_EVERY and trainer.done < steps and not over:
                continue
            if first:
                numbers = {name: round(value.item(), 5) for name, value in measured.items()}
                bar.set_postfix(numbers, refresh=False)
                log_line(log, {"step": trainer.done, **numbers, "learning_rate": rate, "seconds": round(seconds, 2)})
                if time.monotonic() - saved > SAVE_EVERY:
                    trainer.save(checkpoint)
                    saved = time.monotonic()
        bar.close()
        if first:
            trainer.save(checkpoint)
        stopped_by = processes.largest(noted[0] if noted else 0)  # the others wait until it is saved
    if stopped_by:
        raise Stopped(stopped_by)
    return trainer.done >= steps
