"""Settings that may change while a sampling run is going, and the record by which the run can be repeated."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..isa_core import ISAConfig
from ..isa_core.config import ERROR_AWARE, ISA, SEGMENT_TOP_K

RATIO, THRESHOLD, ERROR, SEGMENTS = WAYS = "dense_query_ratio", "sharpness_threshold", "error_threshold", SEGMENT_TOP_K
"""Of which one says how query blocks are routed: ERROR, which is 0 where exact_ratio is the budget, that the policy is "error_aware";
SEGMENTS, which is True, that it is "segment_top_k"."""
CONFIG_FIELDS = ("keep_ratio", *WAYS, "exact_ratio", "sharpness", "context_tail")
CONTEXT_REFRESH, MOST_REFRESH = "context_refresh", 10
USUAL_REFRESH = 1.0
"""context_refresh with ISA where nobody asks for another: 140 edits showed no loss (docs/fidelity.md)."""
MOST_CHANGES = 10_000


@dataclass(frozen=True)
class Settings:
    """What may change from step to step: whether ISA acts, and how.

    context_refresh: how far the noise level may move (`context_reuse.distance`, 0..10) before the context is computed anew; 0
        computes it in every call.

    Raises ValueError for a context_refresh out of range.
    """

    config: ISAConfig
    enabled: bool = True
    context_refresh: float = 0.0

    def __post_init__(self):
        change = self.context_refresh
        if isinstance(change, bool) or not isinstance(change, (int, float)) or not 0 <= change <= MOST_REFRESH:
            raise ValueError(f"{CONTEXT_REFRESH} must be a number from 0 to {MOST_REFRESH}; got {change!r}.")

    @property
    def reuses_context(self) -> bool:
        return self.enabled and self.context_refresh > 0

    def values(self) -> dict:
        """{name: value} as on the node, with the one of the ways to route that is in use."""
        way = RATIO if self.config.sharpness_threshold is None else THRESHOLD
        way = {ERROR_AWARE: ERROR, SEGMENT_TOP_K: SEGMENTS}.get(self.config.policy, way)
        chosen = {
            name: True if name == SEGMENTS else getattr(self.config, name)
            for name in CONFIG_FIELDS
            if name not in WAYS or name == way
        }
        if way == ERROR:
            chosen[ERROR] = chosen[ERROR] or 0.0
        return {"enabled": self.enabled, **chosen, CONTEXT_REFRESH: self.context_refresh}

    def changed(self, values: dict) -> Settings:
        """With some values in place of its own; a way to route replaces the other.

        Raises ValueError for an unknown name or a value out of range.
        """
        values = dict(values)
        enabled = values.pop("enabled", self.enabled)
        if not isinstance(enabled, bool):
            raise ValueError(f"enabled must be true or false; got {enabled!r}.")
        refresh = values.pop(CONTEXT_REFRESH, self.context_refresh)
        if unknown := sorted(set(values) - set(CONFIG_FIELDS)):
            known = ", ".join(("enabled", *CONFIG_FIELDS, CONTEXT_REFRESH))
            raise ValueError(f"{unknown[0]!r} cannot change during a run; these can: {known}.")
        return Settings(replace(self.config, **routed(values)), enabled, refresh)


def routed(values: dict) -> dict:
    """Values as on the node -> in ISAConfig's terms: a way to route takes the others' place.

    Raises ValueError for two ways.
    """
    given = [name for name in WAYS if name in values]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other: give one.")
    if given == [ERROR]:
        by_ratio = type(values[ERROR]) in (int, float) and values[ERROR] == 0
        return {**values, "policy": ERROR_AWARE, ERROR: None if by_ratio else values[ERROR]}
    if given == [SEGMENTS]:
        if values[SEGMENTS] is not True:
            raise ValueError(f"{SEGMENTS} must be true; got {values[SEGMENTS]!r}. Give another way to route in its place.")
        rest = {name: value for name, value in values.items() if name != SEGMENTS}
        return {**dict.fromkeys((THRESHOLD, ERROR)), **rest, "policy": SEGMENT_TOP_K}
    return {**dict.fromkeys((THRESHOLD, ERROR)), **values, "policy": ISA} if given else values


Change = tuple[int, dict]
"""(evaluation of the model it takes effect at, {name: value})."""

Record = dict[str, list[Change]]
"""By sampler node, so that a sampler whose result the server still has shifts nobody's count."""


def read_changes(text: str) -> Record:
    """`{"5": [[0, {"keep_ratio": 0.5}], [7, {"enabled": false}]]}`, as `write_changes` wrote it; no text is no changes.

    Raises ValueError for anything else.
    """
    if not text.strip():
        return {}
    try:
        record = {node: [(at, {**values}) for at, values in changes] for node, changes in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        record = {"": [(None, {})]}
    if not all(_in_order([at for at, _ in changes]) for changes in record.values()):
        raise ValueError(
            'live_changes holds lists of evaluations and values by sampler, such as {"5": [[0, {"keep_ratio": 0.5}], '
            '[7, {"enabled": false}]]}, written by the page after a run that was changed live; empty it to run with the '
            "values on the node."
        )
    return record


def _in_order(numbers: list) -> bool:
    whole = all(type(number) is int and number >= 0 for number in numbers)
    return whole and numbers == sorted(set(numbers)) and len(numbers) <= MOST_CHANGES


def write_changes(record: Record) -> str:
    return json.dumps(record) if record else ""


class LiveSettings:
    """The settings of one node at every evaluation of the model: as set on it, as recorded of an earlier run, as told.

    Evaluations are counted by sampler node, over all sampling runs that it does in one execution.
    """

    def __init__(
        self, settings: Settings, recorded: Record | None = None, check: Callable[[ISAConfig], object] = lambda config: None
    ):
        """check: raises for a config that cannot run here. Raises ValueError for a record of other names or values."""
        self.first, self.recorded, self.check = settings, recorded or {}, check
        for settings in self.planned():
            check(settings.config)
        self._lock = threading.Lock()
        self._execution: object = None
        self._restart()

    def planned(self) -> Iterator[Settings]:
        """The settings on the node and all that were recorded."""
        yield self.first
        for changes in self.recorded.values():
            settings = self.first
            for _, values in changes:
                settings = settings.changed(values)
                yield settings

    def __getstate__(self):
        """Of a pickle: what was set and recorded. `check` belongs to the machine it was made on."""
        return {"first": self.first, "recorded": self.recorded}

    def __setstate__(self, state):
        LiveSettings.__init__(self, state["first"], state["recorded"])

    def _restart(self):
        self.current = self.first
        self.told_any = False
        """Whether a change from outside took effect in this execution."""
        self._happened: dict[str, list[Change]] = {}
        self._counts: dict[str, int] = {}
        self._told: dict = {}
        self._ahead: list[Change] = []
        self._sampler = ""

    def begin(self, execution: object = None, sampler: str = "") -> None:
        """A sampling run of node `sampler` begins; the first one of its execution starts from the values on the node."""
        with self._lock:
            if execution is None or execution != self._execution:
                self._restart()
            self._execution, self._sampler = execution, sampler
            if sampler in self._counts:
                return
            self._counts[sampler] = 0
            self._happened[sampler] = []
            # What was told in this execution holds on, whatever was recorded.
            if not self.told_any and not self._told:
                self.current = self.first
                self._ahead = list(self.recorded.get(sampler, []))

    @property
    def at(self) -> int:
        """Number of the evaluation to come."""
        return self._counts.get(self._sampler, 0)

    @property
    def happened(self) -> list[Change]:
        """What changed in the sampling runs of this sampler."""
        return self._happened.get(self._sampler, [])

    @property
    def unmatched(self) -> list[str]:
        """Samplers of the record, when this one is not among them."""
        return [] if self._sampler in self.recorded else sorted(self.recorded)

    def tell(self, values: dict) -> int:
        """Have `values` from the next evaluation on, and what was recorded for later no more; returns its number.

        Raises ValueError, or what `check` raises, and then nothing has changed.
        """
        with self._lock:
            told = self.current.changed(self._told).changed(values)
            self.check(told.config)
            self._told = {name: value for name, value in told.values().items() if value != self.current.values().get(name)}
            self._ahead = []
            return self.at

    def next(self) -> Settings:
        """The settings of the evaluation that begins now."""
        with self._lock:
            values: dict = {}
            while self._ahead and self._ahead[0][0] <= self.at:
                values |= self._ahead.pop(0)[1]
            self.told_any |= bool(self._told)
            values, self._told = values | self._told, {}
            if self.at == 0 and self.current != self.first:
                # Told while an earlier sampler ran.
                values = self.current.values() | values
            if values:
                self.current = self.current.changed(values)
                self._happened[self._sampler].append((self.at, values))
            self._counts[self._sampler] += 1
            return self.current

    def record(self) -> Record:
        """What repeats the execution so far whatever is set on the node: nothing, if nothing changed."""
        # What a stopped run did not get to, or a sampler that did not run at all, is still to be repeated.
        record: dict[str, dict[int, dict]] = {
            sampler: dict(changes) for sampler, changes in self.recorded.items() if sampler not in self._counts
        }
        for sampler, changes in self._happened.items():
            record[sampler] = dict(changes) | (dict(self._ahead) if sampler == self._sampler else {})
        if not any(record.values()):
            return {}
        for by_number in record.values():
            by_number[0] = self.first.changed(by_number.get(0, {})).values()
        return {sampler: sorted(by_number.items()) for sampler, by_number in sorted(record.items())}
