"""A whole run: data, network, steps, log, checkpoints, validation, result. `command/train.py` calls it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from ...checkpoint.files import Occupied, occupying, replacing
from ...errors import is_out_of_memory
from ...optional import needed
from .. import processes
from ..run import log_line
from ..stopping import Stopped, held_back
from . import start
from .advice import OutOfMemory, advice
from .checkpoints import Checkpoints, begin
from .encoders import Sources
from .export import export
from .objective import Draws
from .parallel import join
from .recipe import Recipe
from .settings import Objective, Stage
from .trainer import Trainer, torchao
from .validation import validate
from .work import example_flops, peak_of

LOG, LOCK, CACHE, VALIDATION, BOARD = "log.jsonl", ".lock", "cache", "validation", "tensorboard"


@dataclass(frozen=True)
class Result:
    """file: of the weights or the LoRA. steps: done. resumed: the step that the run went on from."""

    file: Path
    steps: int
    resumed: int


def run(recipe: Recipe, out: Path, device: str, progress: bool = True) -> Result:
    """Trains, or goes on where the run in `out` was. All processes call this.

    Raises Stopped after a signal, once a checkpoint is written; OutOfMemory, ValueError, CheckpointError, OSError or RuntimeError in one
    sentence.
    """
    recipe.model.choice.check_files()
    start.opened(recipe.model)
    if recipe.optimiser.eight_bit:
        torchao()
    if recipe.operation.tensorboard:
        needed("tensorboard", "tensorboard", "")
    if recipe.validation.every:
        for edit in recipe.validation.edits:
            edit.check_files()
    spread = join(device, recipe.model.dtype, recipe.parallel)
    recipe.check_groups(spread.groups)
    first = processes.rank() == 0
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out) if first else nullcontext():
        begin(out, recipe.fixed())
        progress = progress and first
        sources = Sources(recipe, Path(recipe.data.cache) if recipe.data.cache else out / CACHE, spread, progress)
        draws = Draws(with_shift(recipe.objective), recipe.operation.seed, sources.texts.own, sources.texts.empty)
        with out_of_memory_said(recipe):
            trainer = Trainer(recipe, start.load(recipe.model, spread.dtype), sources, draws, spread)
            checkpoints = Checkpoints(out, recipe.operation.keep)
            checkpoints.resume(trainer)
            resumed = trainer.done
            if first:
                _cut_log(out / LOG, resumed)
            _steps(trainer, checkpoints, out, progress)
            file = export(trainer, out)
        return Result(file, trainer.done, resumed)


def with_shift(objective: Objective) -> Objective:
    """With the sampler's where it has none."""
    from ...pipelines.pipeline import SHIFT

    return objective if objective.shift is not None else replace(objective, shift=SHIFT)


def _steps(trainer: Trainer, checkpoints: Checkpoints, out: Path, progress: bool) -> None:
    recipe, first = trainer.recipe, processes.rank() == 0
    board = _board(out / BOARD) if first and recipe.operation.tensorboard else None
    meter = Meter(trainer)
    stopped = 0
    bar = tqdm(total=recipe.steps, initial=trainer.done, desc="train", unit="step", mininterval=2, disable=not progress)
    with held_back() as noted, bar:
        while trainer.done < recipe.steps and not stopped:
            meter.add(trainer.step())
            bar.update()
            # Also after a step: nobody hears a signal within one.
            stopped = processes.largest(noted[0] if noted else 0)
            over = trainer.done == recipe.steps
            if trainer.done % recipe.operation.log_every == 0 or over or stopped:
                line = meter.line()
                if first:
                    log_line(out / LOG, line)
                    bar.set_postfix({"loss": line["loss"]}, refresh=False)
                    if board:
                        for name in ("loss", "gradient", "rate", "tokens_per_second", "mfu"):
                            if line[name] is not None:
                                board.add_scalar(name, line[name], trainer.done)
            if trainer.done % recipe.operation.save_every == 0 or over or stopped:
                checkpoints.save(trainer, wait=bool(over or stopped))
            every = recipe.validation.every
            if every and not stopped and (trainer.done % every == 0 or over):
                stopped = _validated(trainer, out / VALIDATION, noted)
                meter.skip()
                if stopped:
                    checkpoints.save(trainer, wait=True)
        checkpoints.finish()
        stopped = stopped or processes.largest(noted[0] if noted else 0)
    if board:
        board.close()
    if stopped:
        raise Stopped(stopped)


def _validated(trainer: Trainer, out: Path, noted: list[int]) -> int:
    """The signal that stopped it, heard after each of an edit's steps; 0 for none."""

    def heard(*_):
        if number := processes.largest(noted[0] if noted else 0):
            raise Stopped(number)

    try:
        validate(trainer, out, heard)
    except Stopped as stop:
        return stop.signal
    return 0


class Meter:
    """Means over the steps since the last line: time, tokens, and the share of the GPUs' peak."""

    def __init__(self, trainer: Trainer):
        self.trainer, self.peak = trainer, peak_of(trainer.spread.device)
        self.began = time.monotonic()
        self._empty()

    def _empty(self) -> None:
        self.since, self.steps, self.loss, self.tokens, self.flops = time.monotonic(), 0, 0.0, 0, 0.0
        self.stage, self.rate = self.trainer.recipe.stage_at(min(self.trainer.done, self.trainer.recipe.steps - 1))[0], 0.0

    def skip(self) -> None:
        """What went by since the last line was no training."""
        self._empty()

    def add(self, step: dict) -> None:
        """What `Trainer.step` returned."""
        trainer = self.trainer
        stage, within = trainer.recipe.stage_at(trainer.done - 1)
        self.steps += 1
        self.loss += step["loss"]
        self.gradient = step["gradient"]
        self.tokens += step["tokens"] * trainer.spread.groups
        self.flops += stage.batch * flops_of(trainer, stage, *step["shape"])

    def line(self) -> dict:
        """Of the log. Seconds are the machine's clock; memory is this process's largest on its GPU."""
        trainer, now = self.trainer, time.monotonic()
        seconds, gpus = now - self.since, processes.count()
        mfu = self.flops / seconds / self.peak / gpus if self.peak and self.steps else None
        memory = torch.cuda.max_memory_allocated() / 1e9 if trainer.spread.device.type == "cuda" else None
        line = {
            "step": trainer.done,
            "loss": round(self.loss / max(1, self.steps), 6),
            "gradient": round(self.gradient, 6),
            "rate": float(trainer.optimiser.param_groups[0]["lr"]),
            "seconds": round(now - self.began, 2),
            "seconds_per_step": round(seconds / max(1, self.steps), 4),
            "tokens_per_second": round(self.tokens / seconds, 1),
            "mfu": mfu and round(mfu, 4),
            "memory_gb": memory and round(memory, 2),
        }
        self._empty()
        return line


def flops_of(trainer: Trainer, stage: Stage, latent: tuple[int, int, int], has_context: bool) -> float:
    """Of one example of a latent size."""
    frames, height, width = latent
    target = frames * math.ceil(height / 2) * math.ceil(width / 2)
    own = trainer.draws.own
    return example_flops(trainer.network.config, target, target if has_context else 0, own, trainer.recipe.model.trains, stage)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    try:
        with occupying(out / LOCK):
            yield
    except Occupied as error:
        raise ValueError(f"{out} is trained in by {error}: wait for it, or name another folder for --out.") from None


@contextmanager
def out_of_memory_said(recipe: Recipe) -> Iterator[None]:
    """An error for memory that ran out names what to change in the recipe."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(advice(recipe)) from error


def _cut_log(path: Path, done: int) -> None:
    """Without the lines of steps that are done again, and without one that a full disk cut off."""
    if not path.is_file():
        return

    def stays(line: str) -> bool:
        try:
            return json.loads(line)["step"] <= done
        except ValueError:
            return False

    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if stays(line)]
    with replacing(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _board(folder: Path):
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
