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
from typing import NamedTuple, Protocol, TypeVar

import torch

from ..isa_core import ISAStats, TokenLayout
from .decisions import Decisions
from .kept_context import Refresh, Reuse

Result = TypeVar("Result")


class Recorder(Protocol):
    """Receives the results of a model call's attentions. Several threads may call it at once."""

    def sparse(self, stats: ISAStats, layout: TokenLayout, block: int, of_blocks: int) -> None: ...

    def full(self, reason: str, layout: TokenLayout) -> None: ...


class MaskedText(NamedTuple):
    """A text of `tokens` tokens at the head of the target, of which some sequences of the batch hide a part.

    groups: (numbers of sequences, numbers of the text's tokens that they show), of sequences that show the same; none if nothing
        is hidden.
    """

    tokens: int
    groups: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @classmethod
    def of(cls, mask: torch.Tensor) -> MaskedText:
        """mask [B, tokens]: true or 1 for those that are shown. Waits for the device."""
        shown = mask.bool().cpu()
        if shown.all():
            return cls(mask.shape[1], ())
        kinds, kind_of = shown.unique(dim=0, return_inverse=True)
        pairs = ((kind_of == number, kind) for number, kind in enumerate(kinds))
        return cls(mask.shape[1], tuple(tuple(each.nonzero()[:, 0].to(mask.device) for each in pair) for pair in pairs))


@dataclass(frozen=True)
class ModelCall:
    """One call of a network. It does not change while the call runs or is repeated.

    layout: token groups of its self-attentions; None where the network has yet to say.
    decisions: of the ISA that is attached, None without one. record: who is told what its attentions did.
    padding: tokens behind the last group that nobody attends to, so that several GPUs have equal shares.
    owner: whose call it is, for who must not take another network's for its own.
    context: what it does with the context, where contexts are reused: keep it, or attend to a kept one. A Reuse's layout is
        that of all tokens, while `layout` is that of the tokens which run.
    masked_text: what the attentions' mask hides, where that is known.
    """

    layout: TokenLayout | None = None
    decisions: Decisions | None = None
    record: Recorder | None = None
    padding: int = 0
    owner: object = None
    context: Refresh | Reuse | None = None
    masked_text: MaskedText | None = None
    outer: ModelCall | None = field(default=None, repr=False, compare=False)
    """The enclosing call."""


_current: ContextVar[ModelCall | None] = ContextVar("liveditor_isa.call", default=None)
_observers: ContextVar[tuple[list, ...]] = ContextVar("liveditor_isa.observers", default=())


def current() -> ModelCall | None:
    """The current call of this thread."""
    return _current.get()


# A compiler cannot set the variable. The function inside is compiled separately.
@torch.compiler.disable(recursive=False)
def within(call: ModelCall, function: Callable[..., Result], *args, **kwargs) -> Result:
    """`function(*args, **kwargs)` with `call` as the current call."""
    enter(call)
    try:
        return function(*args, **kwargs)
    finally:
        leave(call.owner)


def enter(call: ModelCall) -> None:
    """Make `call` the current one until `leave`. For pairs of hooks, which cannot use a `with` block."""
    _current.set(replace(call, outer=_current.get()))
    for seen in _observers.get():
        seen[:] = [call.context.layout if isinstance(call.context, Reuse) else call.layout]


def leave(owner: object = None) -> None:
    """Return to the enclosing call, if the current one is `owner`'s."""
    call = _current.get()
    if call is not None and call.owner is owner:
        _current.set(call.outer)


class Carried:
    """A block bound to its call: it can run again at any time, on any thread, within the same call."""

    def __init__(self, block: Callable, call: ModelCall):
        self.block, self.call = block, call

    def __call__(self, *args, **kwargs):
        return within(self.call, self.block, *args, **kwargs)

    def __getattr__(self, name: str):
        return getattr(self.block, name)


class CarryingCheckpoint:
    """A function for gradient checkpointing, `(block, *args)`, that binds each block to the call of its first run."""

    def __init__(self, checkpoint: Callable):
        self.checkpoint = checkpoint

    def __call__(self, block: Callable, *args, **kwargs):
        call = current()
        return self.checkpoint(block if call is None else Carried(block, call), *args, **kwargs)


class layouts_seen:
    """`with layouts_seen() as seen:` keeps the layout of the last model call of this thread in `seen`, a list of one at most.

    Of all its tokens, also where it reuses a kept context.
    """

    def __enter__(self) -> list[TokenLayout]:
        seen: list[TokenLayout] = []
        self._token = _observers.set((*_observers.get(), seen))
        return seen

    def __exit__(self, *error):
        _observers.reset(self._token)


def in_backward() -> bool:
    """Whether autograd runs this for gradient checkpointing. It has then been run and recorded before."""
    graph_task = getattr(torch._C, "_current_graph_task_id", None)  # torch.utils.checkpoint uses it too
    return graph_task is not None and graph_task() != -1
