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
from ..runtime.context_reuse import ContextStore, Passes, digest, number_among
from ..runtime.kept_context import Refresh, Reuse

MOST_PASSES = 4
"""Of one sampling run: the passes of guidance differ in text or pictures. A callback that changes them step by step keeps no context."""

Tensors = tuple[torch.Tensor, ...]

HARMLESS = ("cp_input", "cp_output", "group_offloading", "lazy_prefetch_group_offloading", "layer_execution_tracker",
            "layerwise_casting", "peft_autocast_disable")  # fmt: skip
"""How names of diffusers' hooks begin that change nothing of what a transformer computes."""


class SamplingRun:
    """The kept contexts of one sampling run, and what its passes are told apart by."""

    def __init__(self, levels: Sequence[float]):
        self.contexts = ContextStore(levels)
        self.part: Hashable = None
        """The part of a long video that the calls to come see: each has contexts of its own."""
        self._passes: dict[Hashable, list[tuple]] = {}

    def number_of(self, texts: Tensors, pictures: Tensors, adapters: object = None) -> tuple[int, int] | None:
        """(number of the pass, of the first one with its pictures): the same for the same tensors and adapters. None for one
        pass too many."""
        passes, of_pictures = self._passes.setdefault(self.part, []), digest(pictures)
        number = number_among(passes, (of_pictures, digest(texts), adapters))
        if number >= MOST_PASSES:
            return None
        return number, next(at for at, (known, *_) in enumerate(passes) if known == of_pictures)


def _is_hooked(transformer: torch.nn.Module) -> bool:
    """Whether a hook of diffusers changes what it computes: a cache leaves out parts of steps, a guidance skips layers in one pass."""
    registries = (getattr(module, "_diffusers_hook", None) for module in transformer.modules())
    names = (name for registry in registries if registry is not None for name in registry.hooks)
    return getattr(transformer, "is_cache_enabled", False) or any(not name.startswith(HARMLESS) for name in names)


def _adapters(transformer: torch.nn.Module) -> list[tuple]:
    """Which LoRAs act, and how strongly, to be compared."""
    return [
        (module.disable_adapters, list(module.active_adapters), dict(module.scaling), list(module.merged_adapters))
        for module in transformer.modules()
        if hasattr(module, "scaling") and hasattr(module, "merged_adapters")
    ]


_current: ContextVar[SamplingRun | None] = ContextVar("liveditor_isa.sampling_run", default=None)


@contextmanager
def sampling_run(levels: Sequence[float] = ()):
    """`with sampling_run(): pipe(...)` makes the calls of attached transformers one sampling run, in which `context_refresh` acts.

    levels: noise levels, 0..1, of its steps, if they are known: then nothing is kept that no later step reuses. What is kept
    is freed at the end. Each thread has its own.
    """
    run = SamplingRun(levels)
    token = _current.set(run)
    try:
        yield run
    finally:
        _current.reset(token)
        run.contexts.clear()


@torch.compiler.disable
def begin(
    isa,
    transformer: torch.nn.Module,
    layout: TokenLayout,
    level: torch.Tensor | None,
    texts: Sequence[torch.Tensor] = (),
    pictures: Sequence[torch.Tensor] = (),
    refused: str | None = None,
    scale: float | None = None,
) -> Refresh | Reuse | None:
    """What a model call does with its context; None where it is neither kept nor reused.

    isa: the AttachedISA. layout: of all tokens. level: [B], noise level, 0..1; may be None with `refused`.
    texts, pictures: what tells one pass of guidance from another; passes with the same pictures may have one copy.
    refused: why this call's context must be computed, if the caller knows. scale: of all LoRAs, where the transformer has not
        applied it yet.
    """
    if not (isa.context_refresh and isa.enabled and layout.context):
        return None
    found = refused or _sequence(transformer, layout, tuple(texts), tuple(pictures), scale)
    if isinstance(found, str):
        isa.recorder.recomputed(found)
        return None
    sequence, passes = found
    contexts, agreed = _current.get().contexts, _agreed(transformer)
    return contexts.begin(sequence, float(level.max()), isa.context_refresh, isa.keeping, agreed, passes)


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


def _sequence(
    transformer: torch.nn.Module, layout: TokenLayout, texts: Tensors, pictures: Tensors, scale: float | None
) -> tuple[Hashable, Passes] | str:
    """What identifies the sequence of a model call within its run, and its pass of guidance, of which the first one leads; a
    sentence where the context must be computed."""
    run = _current.get()
    if run is None:
        return decisions.NO_RUN
    if torch.is_grad_enabled():
        return decisions.GRADIENTS
    if _is_hooked(transformer):
        return decisions.HOOKED_TRANSFORMER
    if run.contexts.given_up:
        return run.contexts.given_up
    numbers = run.number_of(texts, pictures, (scale, _adapters(transformer)))
    if numbers is None:
        run.contexts.give_up(decisions.CHANGING_PASSES)
        return decisions.CHANGING_PASSES
    number, first = numbers
    sequence = id(transformer), texts[0].device, len(texts[0]), run.part, first, layout
    return sequence, Passes((number,), 0 if number == first else None)


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
