"""Which context a model call of a diffusers transformer may reuse: `runtime.context_reuse` by diffusers' names.

diffusers tells no transformer when a sampling run begins, and what was kept in another run would be wrong. So contexts are kept
within a `sampling_run` only. `LIVEditorPipeline` makes its own.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from ..isa_core import TokenLayout
from ..runtime import decisions
from ..runtime.context_reuse import ContextStore, Refresh, Reuse

MOST_TEXTS = 4
"""Of one sampling run: the passes of guidance have one each. A callback that changes the text step by step keeps no context."""


class SamplingRun:
    """The kept contexts of one sampling run, and the texts by which its passes are told apart."""

    def __init__(self):
        self.contexts = ContextStore()
        self._texts: list[torch.Tensor] = []

    def number_of(self, text: torch.Tensor) -> int | None:
        """The same for the same text [B, L, C]. None for one too many."""
        for number, known in enumerate(self._texts):
            if known is text or (known.shape == text.shape and known.device == text.device and torch.equal(known, text)):
                return number
        self._texts.append(text)
        return len(self._texts) - 1 if len(self._texts) <= MOST_TEXTS else None


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
    text: torch.Tensor | None,
    refused: str | None = None,
) -> Refresh | Reuse | None:
    """What a model call does with its context; None where it is neither kept nor reused.

    isa: the AttachedISA. layout: of all tokens. level: [B], noise level, 0..1. text: [B, L, C]. Both may be None with `refused`.
    refused: why this call's context must be computed, if the caller knows.
    """
    if not (isa.context_refresh and isa.enabled and layout.context):
        return None
    sequence = refused or _sequence(transformer, layout, text)
    if isinstance(sequence, str):
        isa.recorder.recomputed(sequence)
        return None
    return _current.get().contexts.begin(sequence, float(level.max()), isa.context_refresh, isa.keeping)


def _sequence(transformer: torch.nn.Module, layout: TokenLayout, text: torch.Tensor) -> Hashable | str:
    """What identifies the sequence of a model call within its run; a sentence where the context must be computed."""
    run = _current.get()
    if run is None:
        return decisions.NO_RUN
    if torch.is_grad_enabled():
        return decisions.GRADIENTS
    if getattr(transformer, "is_cache_enabled", False):
        return decisions.CACHED_STEPS
    if run.contexts.given_up:
        return run.contexts.given_up
    number = run.number_of(text)
    if number is None:
        run.contexts.give_up(decisions.CHANGING_TEXT)
        return decisions.CHANGING_TEXT
    return id(transformer), text.device, len(text), number, layout


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
