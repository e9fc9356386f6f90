"""The recipe of a training run: a TOML file, read into the dataclasses of `settings`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ...optional import read_toml
from ...pipelines import EXTRA
from ...pipelines.request import ModelChoice
from .settings import Data, Lora, Memory, Model, Objective, Operation, Optimiser, Parallel, Stage, Validation
from .tables import built


@dataclass(frozen=True)
class Recipe:
    """All settings of a run. Raises ValueError in one sentence for what does not go together."""

    stage: tuple[Stage, ...]
    model: Model = Model()
    lora: Lora = Lora()
    data: Data = Data()
    objective: Objective = Objective()
    optimiser: Optimiser = Optimiser()
    memory: Memory = Memory()
    parallel: Parallel = Parallel()
    operation: Operation = Operation()
    validation: Validation = Validation()

    def __post_init__(self):
        if not self.stage:
            raise ValueError("The recipe has no [[stage]]: name one, with steps and sources.")

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stage)

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """The stage of a step, and the step's number within it."""
        for stage in self.stage:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise IndexError(f"the training is over after {self.steps} steps")

    def check_groups(self, groups: int) -> None:
        """Raises ValueError for a batch that so many groups of GPUs cannot share."""
        for stage in self.stage:
            if stage.batch % groups:
                raise ValueError(
                    f"A stage's batch of {stage.batch} cannot be shared by {groups} groups of GPUs: take a multiple."
                )

    def fixed(self) -> dict:
        """What may not change once a run has begun: what its numbers depend on."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in ("memory", "parallel", "validation")} | {
            "operation": {"seed": self.operation.seed}
        }


def read_recipe(path: Path) -> Recipe:
    """Paths in it are relative to its folder. Raises ValueError in one sentence for a file that cannot be read, or says something wrong."""
    values = read_toml(path, EXTRA, "The recipe ")
    try:
        return recipe_of(_absolute(values, path.resolve().parent))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def recipe_of(values: dict) -> Recipe:
    """Of plain values, as TOML and JSON hold them. Raises ValueError in one sentence."""
    return built(Recipe, values, "")


def _absolute(values: dict, folder: Path) -> dict:
    """Paths of a recipe, made absolute in place, where they name something beside it."""

    def at(table, *names):
        for name in names:
            if isinstance(table, dict) and isinstance(table.get(name), str) and table[name] != ModelChoice.model:
                table[name] = str(folder / table[name])

    at(values.get("model"), "start", "text_encoder", "vae")
    at(values.get("data"), "cache")
    for stage in _tables(values.get("stage")):
        for source in _tables(stage.get("sources")):
            at(source, "path")
    for clip in _tables((values.get("validation") or {}).get("clips") if isinstance(values.get("validation"), dict) else None):
        at(clip, "video")
    return values


def _tables(value) -> list[dict]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list | tuple) else []
