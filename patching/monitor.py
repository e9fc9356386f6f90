"""What each denoising step did, for whoever watches: read back from the GPU without waiting for it."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict, deque

import torch

from ..isa_core import ISAStats, TokenLayout
from .live import Settings

PACES: dict[tuple, dict[str, deque]] = defaultdict(lambda: {"isa": deque(maxlen=9), "full": deque(maxlen=9)})
"""Seconds of the last steps of either kind, by network and tokens: what makes two runs comparable."""


class StepMonitor:
    """Numbers of the step that is going on, and of those whose numbers are not yet here."""

    def __init__(self, network: str):
        """network: what it is that is timed; steps of other networks are not compared with its."""
        self.network = network
        self.number, self.settings = -1, None
        self._waiting: list[tuple[dict, torch.Tensor | None, torch.cuda.Event | None]] = []
        self._clear()

    def _clear(self):
        self.shares: list[torch.Tensor] = []
        self.reasons: dict[str, int] = defaultdict(int)
        self.tokens: tuple[int, ...] = ()
        self.backend: tuple[str, str] | None = None

    def sparse(self, stats: ISAStats, layout: TokenLayout):
        self.tokens, self.backend = (layout.target, *layout.context), (stats.backend, stats.backend_reason)
        dense = stats.dense_queries.float().mean()
        self.shares.append(torch.stack([stats.mean_density, stats.mean_flop_ratio, dense]))

    def full(self, reason: str, layout: TokenLayout):
        self.tokens = (layout.target, *layout.context)
        self.reasons[reason] += 1

    def begin(self, number: int, settings: Settings):
        """Step `number` begins."""
        self.number, self.settings, self.started = number, settings, time.perf_counter()
        self._clear()

    def end(self):
        """The step that was begun is over."""
        if self.settings is None:
            return
        seconds = time.perf_counter() - self.started
        kind = "isa" if self.shares else "full"
        paces = PACES[self.network, self.tokens]
        # The first step compiles and loads; where there are no others it is better than nothing.
        if self.number > 0 or not paces[kind]:
            paces[kind].append(seconds)
        row = {
            "step": self.number,
            "values": self.settings.values(),
            "tokens": self.tokens,
            "seconds": round(seconds, 4),
            "pace": {name: round(statistics.median(held), 4) for name, held in paces.items() if held},
            "full": dict(self.reasons),
            "backend": self.backend,
        }
        self._waiting.append((row, *_read_back(self.shares)))
        self.settings = None

    def finished(self, wait: bool = False) -> list[dict]:
        """Rows of the steps whose numbers are here by now; with `wait`, of all."""
        rows = []
        while self._waiting:
            row, numbers, event = self._waiting[0]
            if event is not None and not event.query():
                if not wait:
                    break
                event.synchronize()
            if numbers is not None:
                row |= dict(zip(("density", "flop_ratio", "dense"), (round(x, 4) for x in numbers.tolist())))
            rows.append(row)
            self._waiting.pop(0)
        return rows


def _read_back(shares: list[torch.Tensor]) -> tuple[torch.Tensor | None, torch.cuda.Event | None]:
    """The mean of all, on its way to the CPU, and what tells that it is there."""
    if not shares:
        return None, None
    # Calls may have run on several GPUs.
    mean = torch.stack([share.to(shares[0].device) for share in shares]).mean(0)
    if not mean.is_cuda:
        return mean, None
    numbers = torch.empty(mean.shape, pin_memory=True)
    numbers.copy_(mean, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(mean.device))
    return numbers, event
