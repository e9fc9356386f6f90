"""The data of one model call: what a network tells all its attentions.

It travels with the call and stays on no module, no processor and no override, because threads share those, copies carry
them away, and gradient checkpointing runs a block again when other calls have come in between.

ComfyUI has an argument that reaches every attention, `transformer_options`, and the ModelCall is an entry of it (`CALL`).
diffusers has none, so there it is the value of a `contextvars` variable, which every thread has for itself: set by `within`
for as long as the network runs. A checkpointed block runs again in backward, on a thread of autograd where the variable is
not set: `Carried` is such a block together with its call, and sets the variable again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import torch

from ..isa_core import ISAStats, TokenLayout
from .decisions import Decisions

Result = TypeVar("Result")


class Recorder(Protocol):
    """Is told what the attentions of a model call did. Several threads may tell it at once."""

    def sparse(self, stats: ISAStats, layout: TokenLayout, block: int, of_blocks: int) -> None: ...

    def full(self, reason: str, layout: TokenLayout) -> None: ...


@dataclass(frozen=True)
class ModelCall:
    """One call of a network. Nothing in it changes while the call runs, or runs again.

    layout: token groups of its self-attentions; None where the network has yet to say.
    decisions: of the ISA that is attached, None without one. record: who is told what its attentions did.
    padding: tokens behind the last group that nobody attends to, so that several GPUs have equal shares.
    owner: whose call it is, for who must not take another network's for its own.
    """

    layout: TokenLayout | None = None
    decisions: Decisions | None = None
    record: Recorder | None = None
    padding: int = 0
    owner: object = None
    outer: ModelCall | None = field(default=None, repr=False, compare=False)
    """The call inside which this one runs."""


_current: ContextVar[ModelCall | None] = ContextVar("liveditor_isa.call", default=None)
_observers: ContextVar[tuple[list, ...]] = ContextVar("liveditor_isa.observers", default=())


def current() -> ModelCall | None:
    """The call that this thread is in."""
    return _current.get()


# A compiler cannot set the variable; what runs within is compiled for itself.
@torch.compiler.disable(recursive=False)
def within(call: ModelCall, function: Callable[..., Result], *args, **kwargs) -> Result:
    """`function(*args, **kwargs)`, for which `call` is the current one."""
    enter(call)
    try:
        return function(*args, **kwargs)
    finally:
        leave(call.owner)


def enter(call: ModelCall) -> None:
    """`call` is the current one until `leave`, for hooks, which have a before and an after and nothing in between."""
    _current.set(replace(call, outer=_current.get()))
    for seen in _observers.get():
        seen[:] = [call.layout]


def leave(owner: object = None) -> None:
    """Back to the call outside, if the current one is `owner`'s."""
    call = _current.get()
    if call is not None and call.owner is owner:
        _current.set(call.outer)


class Carried:
    """A block with the call that it is part of: it can run again at any time, on any thread, and is in the same call then."""

    def __init__(self, block: Callable, call: ModelCall):
        self.block, self.call = block, call

    def __call__(self, *args, **kwargs):
        return within(self.call, self.block, *args, **kwargs)

    def __getattr__(self, name: str):
        return getattr(self.block, name)


class CarryingCheckpoint:
    """A function for gradient checkpointing, `(block, *args)`, that lets each block carry the call it is first run in."""

    def __init__(self, checkpoint: Callable):
        self.checkpoint = checkpoint

    def __call__(self, block: Callable, *args, **kwargs):
        call = current()
        return self.checkpoint(block if call is None else Carried(block, call), *args, **kwargs)


class layouts_seen:
    """`with layouts_seen() as seen:` keeps the layout of the last model call of this thread in `seen`, a list of one at most."""

    def __enter__(self) -> list[TokenLayout]:
        seen: list[TokenLayout] = []
        self._token = _observers.set((*_observers.get(), seen))
        return seen

    def __exit__(self, *error):
        _observers.reset(self._token)


def in_backward() -> bool:
    """Whether autograd runs this, as gradient checkpointing has it do: then it was run, and recorded, before."""
    graph_task = getattr(torch._C, "_current_graph_task_id", None)  # what torch.utils.checkpoint asks, too
    return graph_task is not None and graph_task() != -1
