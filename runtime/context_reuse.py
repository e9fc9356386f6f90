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
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch

from .kept_context import ONE, Keeping, Refresh, Reuse

SLACK = 1e-5
"""Noise levels come in fp32: a distance that is asked for exactly counts despite its rounding."""


def distance(level: float, other: float) -> float:
    """Between two noise levels of flow matching, 0..1: of the logarithms of noise over signal, level / (1 - level)."""
    return 0.0 if level == other else abs(_log_odds(level) - _log_odds(other))


def _log_odds(level: float) -> float:
    if not 0 < level < 1:
        return -math.inf if level <= 0 else math.inf
    return math.log(level / (1 - level))


class Passes(NamedTuple):
    """The passes of guidance that a model call computes. They share its batch in equal parts, in this order.

    names: tell them apart. leading: the place of the one that keeps its context for all, None where it is in another call.
    """

    names: tuple[Hashable, ...] = (None,)
    leading: int | None = 0


def digest(tensors: Sequence[torch.Tensor]) -> int:
    """64 bits of their shapes, types and numbers, which are read back from the GPU. A caller may write into its tensors."""
    return hash(tuple((x.shape, x.dtype, _bytes(x)) for x in tensors))


def _bytes(x: torch.Tensor) -> bytes:
    return x.detach().contiguous().flatten().view(torch.uint8).cpu().numpy().tobytes()


def number_among(seen: list, what: object, most: int | None = None) -> int | None:
    """The place of `what` in a list of what was seen, to which it is added where nothing equals it. None where that would be more
    than `most`."""
    if what not in seen:
        if most is not None and len(seen) >= most:
            return None
        seen.append(what)
    return seen.index(what)


class ContextStore:
    """The kept contexts of one sampling run, by sequence. Several threads may use it at once."""

    def __init__(self, levels: Sequence[float] = ()):
        """levels: noise levels, 0..1, of the run's steps, if they are known. What no later step would reuse is then not kept."""
        self._levels = tuple(levels)
        self._kept: dict[Hashable, Refresh] = {}
        self._homes: dict[tuple[Hashable, Keeping], torch.device | None] = {}
        """Where there was room for the last one of each sequence, which is freed before the next: there is again."""
        self._led: set[Hashable] = set()
        """Sequences of which a leading pass was met."""
        self._waited: dict[Hashable, float] = {}
        """Noise levels at which passes first found no leading one."""
        self._computed: dict[tuple[Hashable, float], frozenset] = {}
        """The passes that came of each sequence at each noise level."""
        self._left_out: dict[Hashable, str] = {}
        """Why passes of a sequence keep nothing, by it and their names."""
        self._lock = threading.RLock()
        self.given_up: str | None = None
        """Why the rest of the run computes its context in every call, if it does."""

    def begin(
        self,
        sequence: Hashable,
        level: float,
        change: float,
        keeping: Keeping = Keeping(),
        agreed: Callable[[bool], bool] = bool,
        passes: Passes = Passes(),
    ) -> Refresh | Reuse:
        """A model call at noise level `level`, 0..1. What is due for a refresh is freed before, also of sequences that never come
        again, as those of windows that move from step to step.

        sequence: identifies, with the passes, what was kept; one that is not known is refreshed.
        change: the `distance` from the refresh at which another one is due. keeping, agreed: of a Refresh.
        """
        one, place = keeping.copies == ONE, passes.leading
        sequence = sequence if one else (sequence, passes.names)
        with self._lock:
            if place is not None:
                self._led.add(sequence)
            elif sequence not in self._led and self._waited.setdefault(sequence, level) != level:
                place = 0  # no leading pass has a context like this one's
            self.free_due(level, change)
            kept = self._kept.get(sequence)
            # At the level of a refresh every pass is computed once, whether the leading one comes before it, after it or in its batch.
            before = self._computed.get((sequence, level), frozenset())
            self._computed[sequence, level] = before | {passes.names}
            if passes.names in before or not self._is_scheduled(level):
                self._levels = ()  # a sampler that evaluates the model more often than once in each step
            if kept is not None and (not one or kept.level != level or passes.names in before):
                return Reuse(kept)
            home = self._homes.get((sequence, keeping))
        if not self.serves_later(level, change):
            part = None
        else:
            part = (0, 1) if not one else None if place is None or kept is not None else (place, len(passes.names))
        return Refresh(sequence, level, keeping, home, agreed, part)

    def free_due(self, level: float, change: float) -> None:
        """Free what no call from noise level `level` on may reuse."""
        with self._lock:
            for due in [each for each, kept in self._kept.items() if distance(kept.level, level) >= change - SLACK]:
                del self._kept[due]

    def serves_later(self, level: float, change: float) -> bool:
        """Whether a later evaluation may reuse what is kept at `level`, where a refresh is due after `change`."""
        return not self._levels or any(each < level and distance(level, each) < change - SLACK for each in self._levels)

    def _is_scheduled(self, level: float) -> bool:
        """Whether it is a step's. Some samplers begin slightly below a first step of pure noise."""
        return any(distance(each, level) <= SLACK for each in self._levels) or level > max(self._levels[1:2], default=1)

    def serves(self, change: float) -> bool:
        """Whether any of the run's steps may reuse the context of an earlier one, where a refresh is due after `change`."""
        return not self._levels or any(self.serves_later(level, change) for level in self._levels)

    def end(self, call: Refresh | Reuse) -> bool:
        """Whether all of the call's attentions took part. Otherwise a Refresh keeps nothing, and a Reuse's result is wrong."""
        if call.whole and isinstance(call, Refresh) and call.part is not None:
            with self._lock:
                self._kept[call.sequence] = call
                self._homes[call.sequence, call.keeping] = call.home
        return call.whole

    def leave_out(self, sequence: Hashable, passes: Passes, reason: str) -> None:
        """Have `why_left_out` say it of these passes of a sequence. Others go on."""
        with self._lock:
            self._left_out[sequence, passes.names] = reason

    def why_left_out(self, sequence: Hashable, passes: Passes) -> str | None:
        """Why the rest of the run computes the context of these passes of a sequence in every call, if it does."""
        return self._left_out.get((sequence, passes.names))

    def give_up(self, reason: str) -> None:
        self.given_up = reason
        self.clear()

    def clear(self) -> None:
        """Free what is kept, and give main memory back that PyTorch would hold for the next pinned tensors."""
        with self._lock:
            pinned = self.held[1] > 0 and torch.cuda.is_initialized()
            for held in (self._kept, self._homes, self._led, self._waited, self._computed, self._left_out):
                held.clear()
        if pinned and hasattr(torch._C, "_host_emptyCache"):
            torch._C._host_emptyCache()

    @property
    def held(self) -> tuple[int, int]:
        """Bytes that are kept: (on the GPU, in main memory)."""
        with self._lock:
            kept = [*self._kept.values()]
        in_main = sum(each.bytes for each in kept if each.home is not None and each.home.type == "cpu")
        return sum(each.bytes for each in kept) - in_main, in_main
