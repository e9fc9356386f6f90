"""What training runs share: files that are whole or absent, a log, the end of a step, and steps until the time is up."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

LOG_EVERY = 20
"""Steps; reading a number waits for the GPU."""

SAVE_EVERY = 60
"""Seconds."""


def replace_file(path: Path, write: Callable[[Path], object]):
    """A file that is there whole or not at all."""
    partial = path.with_suffix(".partial")
    write(partial)
    os.replace(partial, path)


def log_line(path: Path, entry: dict):
    with open(path, "a") as log:
        log.write(json.dumps(entry) + "\n")


def descend(trainer, taken: int) -> torch.Tensor:
    """What follows the gradients in every step: clip them, follow them, average the weights. Returns the gradients' norm.

    trainer: has `weights`, `averaged`, `optimizer`, `learning_rate`, `done` and `settings.ema`; `taken`: its optimiser's steps
    with this one, since the average reaches less far back at the start.
    """
    norm = torch.nn.utils.clip_grad_norm_(trainer.weights, 1.0)
    for group in trainer.optimizer.param_groups:
        group["lr"] = trainer.learning_rate
    trainer.optimizer.step()
    trainer.done += 1
    decay = min(trainer.settings.ema, (1 + taken) / (10 + taken))
    torch._foreach_lerp_(trainer.averaged, [weight.detach() for weight in trainer.weights], 1 - decay)
    return norm


def run_until(trainer, name: str, checkpoint: Path, log: Path, minutes: float):
    """Step a trainer until its steps are done or the minutes over; it saves itself every minute and at the end.

    trainer: has `settings.steps`, `done`, `learning_rate`, `step()`, which returns numbers still on the device, and `save(path)`.
    """
    start = saved = time.monotonic()
    bar = tqdm(total=trainer.settings.steps, initial=trainer.done, desc=name, unit="step", smoothing=0.05, mininterval=2)
    while trainer.done < trainer.settings.steps and time.monotonic() - start < 60 * minutes:
        rate = trainer.learning_rate
        measured = trainer.step()
        bar.update()
        if trainer.done % LOG_EVERY == 0 or trainer.done == trainer.settings.steps:
            numbers = {name: round(value.item(), 5) for name, value in measured.items()}
            bar.set_postfix(numbers, refresh=False)
            seconds = round(time.monotonic() - start, 2)
            log_line(log, {"step": trainer.done, **numbers, "learning_rate": rate, "seconds": seconds})
        if time.monotonic() - saved > SAVE_EVERY:
            trainer.save(checkpoint)
            saved = time.monotonic()
    bar.close()
    trainer.save(checkpoint)
