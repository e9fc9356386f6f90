"""Settings that may change while a sampling run is going, and the record by which the run can be repeated."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..isa_core import ISAConfig

RATIO, THRESHOLD = "dense_query_ratio", "sharpness_threshold"
CONFIG_FIELDS = ("keep_ratio", RATIO, THRESHOLD, "exact_ratio", "sharpness", "context_tail")
MOST_CHANGES = 10_000


@dataclass(frozen=True)
class Settings:
    """What may change from step to step: whether ISA acts, and how."""

    config: ISAConfig
    enabled: bool = True

    def values(self) -> dict:
        """{name: value} as on the node, with the one of the two ways to route that is in use."""
        unused = THRESHOLD if self.config.sharpness_threshold is None else RATIO
        chosen = {name: getattr(self.config, name) for name in CONFIG_FIELDS if name != unused}
        return {"enabled": self.enabled, **chosen}

    def changed(self, values: dict) -> Settings:
        """With some values in place of its own; a way to route replaces the other.

        Raises ValueError for an unknown name or a value out of range.
        """
        values = dict(values)
        enabled = values.pop("enabled", self.enabled)
        if not isinstance(enabled, bool):
            raise ValueError(f"enabled must be true or false; got {enabled!r}.")
        if unknown := sorted(set(values) - set(CONFIG_FIELDS)):
            raise ValueError(f"{unknown[0]!r} cannot change during a run; these can: enabled, {', '.join(CONFIG_FIELDS)}.")
        if RATIO in values and THRESHOLD in values:
            raise ValueError(f"{RATIO} and {THRESHOLD} exclude each other: give one.")
        if RATIO in values:
            values[THRESHOLD] = None
        return Settings(replace(self.config, **values), enabled)


Change = tuple[int, dict]
"""(step it takes effect at, {name: value})."""


def read_changes(text: str) -> list[Change]:
    """`[[0, {"keep_ratio": 0.5}], [7, {"enabled": false}]]`, as `write_changes` wrote it; no text is no changes.

    Raises ValueError for anything else.
    """
    if not text.strip():
        return []
    try:
        changes = [(step, dict(values)) for step, values in json.loads(text)]
    except (ValueError, TypeError, RecursionError):
        changes = [(None, {})]
    steps = [step for step, _ in changes]
    whole = all(type(step) is int and step >= 0 for step in steps)
    if not whole or steps != sorted(set(steps)) or len(steps) > MOST_CHANGES:
        raise ValueError(
            'live_changes is a list of steps and values such as [[0, {"keep_ratio": 0.5}], [7, {"enabled": false}]], written by '
            "the page after a run that was changed live; empty it to run with the values on the node."
        )
    return changes


def write_changes(changes: list[Change]) -> str:
    return json.dumps(changes) if changes else ""


class LiveSettings:
    """The settings of one node step by step: as set on it, as recorded of an earlier run, and as told from outside.

    Steps are counted over all sampling runs of one execution, so that a record of two samplers tells them apart.
    """

    def __init__(
        self, settings: Settings, recorded: list[Change] = (), check: Callable[[ISAConfig], object] = lambda config: None
    ):
        """check: raises for a config that cannot run here. Raises ValueError for a record of other names or values."""
        self.first, self.recorded, self.check = settings, list(recorded), check
        for _, values in self.recorded:
            settings = settings.changed(values)
            check(settings.config)
        self._lock = threading.Lock()
        self._execution: object = None
        self._restart()

    def _restart(self):
        self.step = 0
        """Of the step to come."""
        self.current = self.first
        self.happened: list[Change] = []
        self._told: dict = {}
        self._ahead = list(self.recorded)

    def begin(self, execution: object = None):
        """A sampling run begins; the first one of its execution starts from the values on the node."""
        with self._lock:
            if execution is None or execution != self._execution:
                self._restart()
            self._execution = execution

    def tell(self, values: dict) -> int:
        """Have `values` from the next step on, and what was recorded for later no more; returns that step's number.

        Raises ValueError, or what `check` raises, and then nothing has changed.
        """
        with self._lock:
            told = self.current.changed(self._told).changed(values)
            self.check(told.config)
            self._told = {name: value for name, value in told.values().items() if value != self.current.values().get(name)}
            self._ahead = []
            return self.step

    def next_step(self) -> Settings:
        """The settings of the step that begins now."""
        with self._lock:
            values = {}
            while self._ahead and self._ahead[0][0] <= self.step:
                values |= self._ahead.pop(0)[1]
            values, self._told = values | self._told, {}
            if values:
                self.current = self.current.changed(values)
                self.happened.append((self.step, values))
            self.step += 1
            return self.current

    def record(self) -> list[Change]:
        """What repeats the run so far whatever is set on the node: nothing, if nothing changed."""
        # What a stopped run did not get to is still to be repeated.
        changes = dict(self._ahead) | dict(self.happened)
        if not changes:
            return []
        changes[0] = self.first.changed(changes.get(0, {})).values()
        return sorted(changes.items())
