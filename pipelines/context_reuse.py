"""Which context a model call of a diffusers transformer may reuse: `runtime.context_reuse` by diffusers' names.

diffusers tells no transformer when a sampling run begins, and what was kept in another run would be wrong. So contexts are kept
within a `sampling_run` only. `LIVEditorPipeline` makes its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist

from ..isa_core import TokenLayout
from ..runtime import decisions
from ..runtime.context_reuse import ContextStore, Refresh, Reuse

MOST_PASSES = 4
"""Of one sampling run: the passes of guidance differ in text or pictures. A callback that changes them step by step keeps no context."""

CACHES = ("cache", "broadcast", "fbc", "skip")
"""In the names of diffusers' hooks that leave out parts of steps."""


class SamplingRun:
    """The kept contexts of one sampling run, and what its passes are told apart by."""

    def __init__(self):
        self.contexts = ContextStore()
        self._passes: list[tuple[torch.Tensor, ...]] = []
        self._cached: dict[int, bool] = {}

    def number_of(self, given: tuple[torch.Tensor, ...]) -> int | None:
        """The same for the same texts and pictures. None for one too many."""
        for number, known in enumerate(self._passes):
            if len(known) == len(given) and all(map(_same, known, given)):
                return number
        self._passes.append(given)
        return len(self._passes) - 1 if len(self._passes) <= MOST_PASSES else None

    def is_cached(self, transformer: torch.nn.Module) -> bool:
        """Whether a cache of diffusers leaves out parts of its steps, by `enable_cache` or by a hook."""
        if id(transformer) not in self._cached:
            registries = (getattr(module, "_diffusers_hook", None) for module in transformer.modules())
            names = [name for registry in registries if registry is not None for name in registry.hooks]
            self._cached[id(transformer)] = any(part in name for name in names for part in CACHES)
        return self._cached[id(transformer)] or getattr(transformer, "is_cache_enabled", False)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one is other or (one.shape == other.shape and one.device == other.device and torch.equal(one, other))


_current: ContextVar[SamplingRun | None] = ContextVar("liveditor_isa.sampling_run", default=None)


@contextmanager
def sampling_run():
    """`with sampling_run(): pipe(...)` makes the calls of attached transformers one sampling run, in which `context_refresh` acts.

    What is kept is freed at its end. Each thread has its own.
    """
    run = SamplingRun()
    token = _current.set(run)
    try:
        yield
    finally:
        _current.reset(token)
        run.contexts.clear()


@torch.compiler.disable
def begin(
    isa,
    transformer: torch.nn.Module,
    layout: TokenLayout,
    level: torch.Tensor | None,
    given: Sequence[torch.Tensor] = (),
    refused: str | None = None,
) -> Refresh | Reuse | None:
    """What a model call does with its context; None where it is neither kept nor reused.

    isa: the AttachedISA. layout: of all tokens. level: [B], noise level, 0..1; may be None with `refused`.
    given: the text [B, L, C] first, and all else that tells one pass from another, the context above all.
    refused: why this call's context must be computed, if the caller knows.
    """
    if not (isa.context_refresh and isa.enabled and layout.context):
        return None
    sequence = refused or _sequence(transformer, layout, tuple(given))
    if isinstance(sequence, str):
        isa.recorder.recomputed(sequence)
        return None
    return _current.get().contexts.begin(sequence, float(level.max()), isa.context_refresh, isa.keeping, _agreed(transformer))


def running_layout(layout: TokenLayout, call: Refresh | Reuse | None) -> TokenLayout:
    """Of the tokens that run, from the layout of all."""
    return TokenLayout(layout.target) if isinstance(call, Reuse) else layout


def _agreed(transformer: torch.nn.Module) -> Callable[[bool], bool]:
    """Processes that share a call's tokens keep its context all or none: otherwise some would run other tokens in the next call."""
    if getattr(transformer, "_parallel_config", None) is None:
        return bool

    def agreed(room: bool) -> bool:
        found = torch.tensor(int(room), device=next(transformer.parameters()).device)
        dist.all_reduce(found, dist.ReduceOp.MIN)
        return bool(found)

    return agreed


def _sequence(transformer: torch.nn.Module, layout: TokenLayout, given: tuple[torch.Tensor, ...]) -> Hashable | str:
    """What identifies the sequence of a model call within its run; a sentence where the context must be computed."""
    run = _current.get()
    if run is None:
        return decisions.NO_RUN
    if torch.is_grad_enabled():
        return decisions.GRADIENTS
    if run.is_cached(transformer):
        return decisions.CACHED_STEPS
    if run.contexts.given_up:
        return run.contexts.given_up
    number = run.number_of(given)
    if number is None:
        run.contexts.give_up(decisions.CHANGING_PASSES)
        return decisions.CHANGING_PASSES
    return id(transformer), given[0].device, len(given[0]), number, layout


@torch.compiler.disable
def end(isa, call: Refresh | Reuse | None) -> None:
    """After a model call. Raises RuntimeError where a patch kept a reuse from its context, which makes its result wrong."""
    run = _current.get()
    if call is None or run is None:
        return
    if run.contexts.end(call):
        isa.recorder.context_call(isinstance(call, Reuse), run.contexts.held)
        return
    if isinstance(call, Reuse):
        raise RuntimeError(f"The context could not be reused: {decisions.PARTS_NOT_SEEN}.")
    reason = call.refused or decisions.PARTS_NOT_SEEN
    run.contexts.give_up(reason)
    isa.recorder.recomputed(reason)
