"""Checkpoints of a run: sharded, each process writes its own part (torch.distributed.checkpoint), while the training goes on."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from ...checkpoint.files import replacing
from ...errors import is_out_of_memory
from .. import processes
from .trainer import Trainer

RECIPE, FOLDER = "recipe.json", "checkpoints"

WHOLE = ".metadata"
"""The file that torch writes last."""


class Checkpoints:
    """Of a run's folder. All processes call the same methods."""

    def __init__(self, out: Path, keep: int):
        self.folder, self.keep = out / FOLDER, keep
        self._writing: Future | None = None
        # Processes agree about what is written while they agree about steps: each in a group of its own, or one hears the other's numbers.
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def steps(self) -> list[int]:
        """Of those that are whole, in order."""
        found = (re.fullmatch(r"step-(\d+)", path.parent.name) for path in self.folder.glob(f"step-*/{WHOLE}"))
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08}"

    def save(self, trainer: Trainer, wait: bool = False) -> None:
        """Of the trainer as it is now. Several processes write on while it steps, unless `wait`, or its moments are in 8 bits. Raises
        RuntimeError for a full disk, also for what was being written before."""
        self.finish()
        if trainer.done not in self.steps():
            state, path = _state(trainer), self.path(trainer.done)
            self._path = path
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._group and not trainer.recipe.optimiser.eight_bit:
                self._writing = dcp.async_save(state, checkpoint_id=str(path), process_group=self._group)
            else:  # torch cannot copy moments in 8 bits aside
                with _of_one_process(), _written(path):
                    dcp.save(state, checkpoint_id=str(path), process_group=self._group, no_dist=self._group is None)
        if wait or self._writing is None:
            self.finish()

    def finish(self) -> None:
        """Wait for what is being written, then delete what is too old, and what was never finished before the last whole one."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            with _written(self._path):
                writing.result()
            processes.wait()
        if processes.rank() == 0 and (steps := self.steps()):
            kept = [self.path(step) for step in steps[-self.keep :]]
            for path in self.folder.glob("step-*"):
                if path < kept[-1] and path not in kept:
                    shutil.rmtree(path, ignore_errors=True)

    def resume(self, trainer: Trainer) -> bool:
        """Load the last whole one, also one of another number of processes. Returns whether there was one. Raises RuntimeError for a damaged
        one."""
        if not (steps := self.steps()):
            return False
        state, path = _state(trainer), self.path(steps[-1])
        with _of_one_process(), _said(path, "read", "delete it, and the run goes on from the one before it."):
            dcp.load(state, checkpoint_id=str(path), no_dist=not dist.is_initialized())
        set_optimizer_state_dict(trainer.network, trainer.optimiser, state["optimiser"])
        # Setting the optimiser's state takes a step of length 0 with it. Weights were loaded in place.
        trainer.done = int(state["done"])
        return True


@contextmanager
def _of_one_process() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


@contextmanager
def _said(path: Path, done: str, cure: str) -> Iterator[None]:
    """In place of torch's exception, which is none of `Exception`, a sentence; memory that ran out is raised as it is."""
    try:
        yield
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        if is_out_of_memory(cause):
            raise cause from None
        reason = f" ({cause.strerror})" if isinstance(cause, OSError) and cause.strerror else ""
        raise RuntimeError(f"The checkpoint {path} cannot be {done}{reason}: {cure}") from cause


def _written(path: Path):
    return _said(path, "written", "make room for it, and the same command goes on from the one before it.")


def _state(trainer: Trainer) -> dict:
    return {
        "done": torch.tensor(trainer.done),
        "weights": dict(zip(trainer.names, (weight.detach() for weight in trainer.weights))),
        "averaged": dict(zip(trainer.names, trainer.averaged or [])),
        "optimiser": get_optimizer_state_dict(trainer.network, trainer.optimiser),
    }


def begin(out: Path, fixed: dict) -> None:
    """Keeps what a run's numbers depend on in its folder. Raises ValueError where the folder is of a run with other settings."""
    path = out / RECIPE
    known = json.loads(json.dumps(fixed))
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if differing := _differing(before, known):
            raise ValueError(
                f"{out} is a run with another {differing}: name another folder for --out, or take the recipe that it began with."
            )
        return
    with replacing(path) as partial:
        partial.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def _differing(before, now, name: str = "") -> str | None:
    """The first setting that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = [(f"{name}.{key}".lstrip("."), before.get(key), now.get(key)) for key in {**before, **now}]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [(f"{name}[{number}]", *both) for number, both in enumerate(zip(before, now))]
    else:
        return None if before == now else name
    return next((found for key, *both in pairs if (found := _differing(*both, key))), None)
