"""Context reuse: the keys and values of the context are kept from one evaluation of the model to the next.

An edit's context never changes while it is sampled. What the network makes of it does, because its tokens see the target and
the noise level, but slowly. So a *refresh* runs all tokens and keeps the context's keys and values of every self-attention,
and a *reuse* runs the target's tokens alone: their queries attend to the target's own keys and the kept ones.

A refresh is due when the logarithm of noise over signal has moved far enough from where it was at the last one. A shift of the
schedule adds a constant to it, so that the same setting refreshes about as often at every shift and number of steps; and from
pure noise any step is infinitely far, so that the second step always refreshes.

Everything here belongs to one sampling run. No host is needed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Hashable
from functools import lru_cache

import torch

from ..isa_core import TokenLayout

LEFT_FREE = 0.15
"""Share of a GPU's memory that what is kept must leave free. Where it cannot, it is kept in main memory."""

SLACK = 1e-5
"""Noise levels come in fp32: a distance that is asked for exactly counts despite its rounding."""


def distance(level: float, other: float) -> float:
    """Between two noise levels of flow matching, 0..1: of the logarithms of noise over signal, level / (1 - level)."""
    return 0.0 if level == other else abs(_log_odds(level) - _log_odds(other))


def _log_odds(level: float) -> float:
    if not 0 < level < 1:
        return -math.inf if level <= 0 else math.inf
    return math.log(level / (1 - level))


class Refresh:
    """A model call that computes the whole sequence, and what it keeps of the context.

    sequence: identifies what is kept. level: the call's noise level, 0..1.
    """

    def __init__(self, sequence: Hashable = None, level: float = 0.0):
        self.sequence, self.level = sequence, level
        self.layout: TokenLayout | None = None
        self.of_blocks = 0
        self.home: torch.device | None = None
        """Where it is kept: on the GPU, or on the CPU where that has too little free memory."""
        self.positions: object = None
        """Of the target, where a network computes them with the context's: as it takes them."""
        self._held: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def attended(
        self, block: int, of_blocks: int, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout
    ) -> tuple[torch.Tensor, torch.Tensor, TokenLayout]:
        """The keys and values [B, S, H, D] that transformer block `block` attends to, and their layout: its own."""
        self.layout, self.of_blocks = layout, of_blocks
        context = k[:, layout.target :], v[:, layout.target :]
        if self.home is None:
            self.home = _home(k.device, of_blocks * sum(x.numel() * x.element_size() for x in context))
        self._held[block] = _copied(context[0], self.home), _copied(context[1], self.home)
        return k, v, layout

    @property
    def whole(self) -> bool:
        """Whether every transformer block was met, and none can go without its context in a reuse."""
        return self.of_blocks > 0 and self._held.keys() == {*range(self.of_blocks)}

    @property
    def bytes(self) -> int:
        return sum(x.numel() * x.element_size() for pair in self._held.values() for x in pair)

    def of(self, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [B, context tokens, H, D] of transformer block `block`."""
        return self._held[block]

    def __deepcopy__(self, memo):
        return self  # nodes copy whole model options in the middle of a call

    def __reduce__(self):
        return type(None), ()  # a pickled copy is None: the call does not continue elsewhere


class Reuse:
    """A model call of the target's tokens alone, with the context of an earlier `Refresh`."""

    def __init__(self, kept: Refresh):
        assert kept.layout is not None, "an attention was kept"
        self.kept, self.layout = kept, kept.layout
        self._met: set[int] = set()
        self._coming: dict[int, tuple[torch.Tensor, torch.Tensor, torch.cuda.Event]] = {}

    def attended(
        self, block: int, of_blocks: int, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout
    ) -> tuple[torch.Tensor, torch.Tensor, TokenLayout]:
        """As of a Refresh, from the target's keys and values [B, T, H, D]: with the kept ones, all tokens'."""
        self._met.add(block)
        kept_k, kept_v = self._here(block, k.device)
        return torch.cat([k, kept_k], dim=1), torch.cat([v, kept_v], dim=1), self.layout

    def _here(self, block: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """What was kept of a block, on `device`. From main memory the next block's comes while this one is in work."""
        if self.kept.home == device or device.type != "cuda":
            return self.kept.of(block)
        k, v, arrived = self._coming.pop(block) if block in self._coming else self._send(block, device)
        if block + 1 < self.kept.of_blocks:
            self._coming[block + 1] = self._send(block + 1, device)
        stream = torch.cuda.current_stream(device)
        stream.wait_event(arrived)
        for x in (k, v):
            x.record_stream(stream)  # it was allocated for the other one
        return k, v

    def _send(self, block: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.cuda.Event]:
        # Not before the GPU gets here: the host is blocks ahead of it, and so would be the memory of what was sent.
        _copies(device).wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(_copies(device)):
            k, v = (x.to(device, non_blocking=True) for x in self.kept.of(block))
            arrived = torch.cuda.Event()
            arrived.record()
        return k, v, arrived

    @property
    def whole(self) -> bool:
        """Whether every transformer block attended to the context. Otherwise the call's result is wrong."""
        return self._met == {*range(self.kept.of_blocks)}

    __deepcopy__ = Refresh.__deepcopy__
    __reduce__ = Refresh.__reduce__


def _home(device: torch.device, needed: int) -> torch.device:
    """Where `needed` bytes of keys and values that are on `device` are kept."""
    if device.type != "cuda":
        return device
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return device if free - needed >= LEFT_FREE * total else torch.device("cpu")


def _copied(x: torch.Tensor, home: torch.device) -> torch.Tensor:
    """A copy of its own, contiguous: a part of a tensor would hold the whole one's memory too. In main memory it is pinned."""
    if home == x.device:
        return x.clone(memory_format=torch.contiguous_format)
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)


@lru_cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class ContextStore:
    """The kept contexts of one sampling run, by sequence. Several threads may use it at once."""

    def __init__(self):
        self._kept: dict[Hashable, Refresh] = {}
        self._lock = threading.Lock()
        self.given_up: str | None = None
        """Why the rest of the run computes its context in every call, if it does."""

    def begin(self, sequence: Hashable, level: float, change: float) -> Refresh | Reuse:
        """A model call at noise level `level`, 0..1. Where a refresh is due, the last one is freed before.

        sequence: identifies what was kept; one that is not known is refreshed.
        change: the `distance` from the refresh at which another one is due.
        """
        with self._lock:
            kept = self._kept.get(sequence)
            if kept is not None and distance(kept.level, level) < change - SLACK:
                return Reuse(kept)
            self._kept.pop(sequence, None)
        return Refresh(sequence, level)

    def end(self, call: Refresh | Reuse) -> bool:
        """Whether all of the call's attentions took part. Otherwise a Refresh keeps nothing, and a Reuse's result is wrong."""
        if call.whole and isinstance(call, Refresh):
            with self._lock:
                self._kept[call.sequence] = call
        return call.whole

    def give_up(self, reason: str) -> None:
        self.given_up = reason
        self.clear()

    def clear(self) -> None:
        """Free what is kept."""
        with self._lock:
            self._kept.clear()

    @property
    def bytes(self) -> int:
        with self._lock:
            return sum(kept.bytes for kept in self._kept.values())
