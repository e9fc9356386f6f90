"""One sampling run with one Attach ISA: its settings, the results of its evaluations, and how model calls find it."""

from __future__ import annotations

import threading
import weakref
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from ..isa_core import ISAStats, TokenLayout
from ..isa_core.layout import CONTEXT, TARGET, block_table
from ..runtime import decisions
from ..runtime.call import in_backward
from ..runtime.context_reuse import ContextStore
from ..runtime.finite import FiniteGuard
from ..runtime.heatmap import OFF, HeatMaps
from ..runtime.live import LiveSettings
from ..runtime.monitor import StepMonitor
from ..runtime.read_back import ReadBack
from ..runtime.report import RunReport
from .scene import Part

RUNS = "liveditor_isa.runs"
"""Key in `transformer_options`: the current runs, for threads that core starts for further GPUs."""

_going: ContextVar[tuple[SamplingRun, ...]] = ContextVar("liveditor_isa.runs", default=())


class Watcher:
    """Observes sampling runs and may change their settings; this base class does nothing.

    Called from the sampler's thread.
    """

    def started(self, live: LiveSettings, steps: int, parts: list[Part]) -> str:
        """A sampling run of this many steps begins; `live` takes changes. Returns which heat maps to make."""
        return OFF

    def stepped(self, row: dict):
        """An evaluation of the model has ended, with `StepMonitor`'s row."""

    def mapped(self, at: int, blocks: list[int], maps: ReadBack):
        """The heat maps of an evaluation: numbers of transformer blocks, and their maps, [4, blocks of tokens] each."""

    def ended(self, live: LiveSettings):
        """The run has ended or was stopped."""


def _version_of(x: torch.Tensor) -> int:
    """How often `x` was written to. The server samples in inference mode, which does not count; there the noise level tells."""
    return 0 if x.is_inference() else x._version


class SamplingRun:
    """A `call.Recorder` of all attentions of one run, and the guard, settings and numbers of its evaluations.

    owner: the override whose run it is. guider: what samples. acting: (highest, lowest) sigma at which ISA acts, None for all.
    """

    def __init__(self, owner, guider, live: LiveSettings, watcher: Watcher, sigmas: list[float], acting, parts):
        self.owner, self.guider, self.acting, self.parts = owner, guider, acting, parts
        self.live, self.watcher = live, watcher
        self.report, self.monitor, self.guard = RunReport(), StepMonitor(sigmas), FiniteGuard()
        self.maps = HeatMaps(watcher.started(live, len(sigmas) - 1, parts))
        self.contexts = ContextStore(sigmas)
        self.patches_seen: list = []
        """Functions of others within the network, of each kind of model call."""
        self.settings, self.at, self.evaluations = live.current, 0, 0
        self.foreign = "another node"
        """The override in front of ISA's, if there is one."""
        # Core's MultiGPU CFG Split calls the model from a thread per GPU.
        self._lock = threading.Lock()
        self._evaluating = False
        self._evaluated: tuple = (lambda: None, 0, None)

    def __deepcopy__(self, memo):
        return self  # nodes copy whole model options in the middle of a run

    def __reduce__(self):
        return type(None), ()  # a pickled copy is None: the run does not continue elsewhere

    @contextmanager
    def evaluation(self, x: torch.Tensor, sigma: torch.Tensor):
        """An evaluation of the model at `x`; of one that is going on already, or was the last one, it is a part.

        A guider with two models enters it once for each, with the same x, one within the other or one after the other.
        """
        same, version, level = self._evaluated
        if self._evaluating or (same() is x and version == _version_of(x) and torch.equal(level, sigma)):
            yield
            return
        self.pass_on()
        self.at = self.live.at
        self.settings = self.live.next()
        self.evaluations += 1
        self.monitor.begin(self.at, self.settings, sigma)
        self._evaluating = True
        try:
            yield
        finally:
            self._evaluating = False
            self._evaluated = weakref.ref(x), _version_of(x), sigma

    def pass_on(self, wait: bool = False):
        """End the current evaluation. The sampler's own work follows until the next one begins."""
        self.monitor.end()
        if maps := self.maps.take():
            self.watcher.mapped(self.monitor.at, *maps)
        for row in self.monitor.finished(wait):
            self.watcher.stepped(row)

    def called(self, sequences: int, foreign: str | None):
        """A model call with this many sequences; foreign: the override in front of ISA's, if there is one."""
        with self._lock:
            self.report.model_calls += 1
            self.foreign = foreign or self.foreign
            self.monitor.called(sequences)

    def sparse(self, stats: ISAStats, layout: TokenLayout, block: int, of_blocks: int):
        if in_backward():
            return
        with self._lock:
            self.report.add_sparse(stats)
            if self.monitor.settings is not None:
                self.monitor.sparse(stats, layout)
            if stats.attended is not None:
                self.maps.add(stats, block, of_blocks)

    def wants_map(self, layout: TokenLayout, queries: int, block: int, of_blocks: int) -> bool:
        """Whether an attention of so many queries goes into a heat map, for which its statistics count what is attended."""
        # A context window cuts another sequence out of the same frames; a reused context has no queries.
        shown = tuple(tokens for _, tokens in layout.spans(TARGET, CONTEXT))
        if queries != layout.total or shown != tuple(part.tokens for part in self.parts):
            return False
        blocks = block_table(layout, self.settings.config.block_size).of_queries(queries).count
        return self.maps.wants(block, of_blocks, blocks)

    def full(self, reason: str, layout: TokenLayout):
        if in_backward():
            return
        with self._lock:
            self.report.add_full(reason)
            self.monitor.full(reason, layout)

    def context_call(self, reused: bool):
        """A model call reused a kept context, or computed it to keep it."""
        held = self.contexts.held
        with self._lock:
            self.report.add_context_call(reused, held)
            self.monitor.context_call(reused, held)

    def recomputed(self, reason: str):
        """A model call could keep no context."""
        with self._lock:
            self.report.recomputed[reason] += 1

    def set_aside(self, node: str):
        """ISA took a model call from another node of this name, which makes attention sparse too."""
        with self._lock:
            self.report.set_aside[node] += 1

    def left_out(self, reason: str):
        with self._lock:
            self.report.add_left_out(reason)

    def summary(self) -> str:
        if not self.evaluations and not self.report.model_calls:
            nothing = decisions.NO_STEPS
        elif not self.report.model_calls:
            nothing = decisions.ALL_SKIPPED
        else:
            nothing = decisions.taken_over(self.foreign)
        return self.report.summary(self.settings.config, self.live.happened, self.live.unmatched, nothing)


def run_of(owner, options: dict) -> SamplingRun | None:
    """The run of override `owner` that a model call with `transformer_options` is part of; None outside of sampling."""
    # A guider's second model comes with options of its own, on the sampler's thread; a second GPU with the first's.
    runs = (*options.get(RUNS, ()), *_going.get())
    return next((run for run in reversed(runs) if run is not None and run.owner is owner), None)


@contextmanager
def going(run: SamplingRun):
    """Within this context, `run_of` finds `run`."""
    options = getattr(run.guider, "model_options", {}).setdefault("transformer_options", {})
    before, token = options.get(RUNS), _going.set((*_going.get(), run))
    options[RUNS] = (*(before or ()), run)
    try:
        yield
    finally:
        _going.reset(token)
        # The options may be the model's own.
        if before is None:
            options.pop(RUNS, None)
        else:
            options[RUNS] = before
