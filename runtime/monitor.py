"""Numbers of each evaluation of the model, for observers. They are read back from the GPU without waiting."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..isa_core import ISAStats, TokenLayout
from .live import Settings
from .read_back import ReadBack

CONTEXT_KINDS = {True: "reused", False: "refreshed"}


class StepMonitor:
    """Numbers of the current evaluation of one sampling run, and of earlier ones whose numbers have not arrived.

    A sampler evaluates the model once per step, or more often (heun, dpm_2).
    """

    def __init__(self, sigmas: Sequence[float] = ()):
        """sigmas: of the sampling run."""
        self.sigmas = sigmas
        self.paces: defaultdict[tuple, dict[tuple[str, bool], deque]] = defaultdict(
            lambda: defaultdict(lambda: deque(maxlen=9))
        )
        """Seconds of the run's last evaluations by number of sequences and their tokens; of each ("isa" or "full", whether the context
        was reused). Other runs have other clips, weights and machines' hours, so nothing of them is compared."""
        self.at = -1
        self._first = self._total = 0.0
        self.settings: Settings | None = None
        self._waiting: list[_Evaluation] = []
        self._clear()

    def _clear(self):
        self.shares: list[torch.Tensor] = []
        self.reasons: dict[str, int] = defaultdict(int)
        self.tokens: tuple[int, ...] = ()
        self.exact = 0
        self.sequences = 0
        self.kept: float | None = None
        self.reused: bool | None = None
        self.held: tuple[int, int] | None = None
        self.backend: tuple[str, str] | None = None

    def called(self, sequences: int) -> None:
        """A model call with this many sequences: prompts times videos of a batch."""
        self.sequences += sequences

    def context_call(self, reused: bool, held: tuple[int, int]) -> None:
        """A model call that reused a kept context, or computed it to keep it. An evaluation of several calls reused it if all did.

        held: bytes that are kept since, (on the GPU, in main memory).
        """
        self.reused = reused if self.reused is None else self.reused and reused
        self.held = held

    def sparse(self, stats: ISAStats, layout: TokenLayout) -> None:
        assert self.settings is not None, "begin was called"
        self.tokens, self.exact = (layout.target, *layout.context), layout.exact
        self.backend = stats.backend, stats.backend_reason
        blocks = sum(-(-tokens // self.settings.config.block_size) for tokens in layout.context)
        self.kept = stats.kept_context.shape[2] / blocks
        dense = stats.dense_queries.float().mean()
        self.shares.append(torch.stack([stats.mean_density, stats.mean_flop_ratio, dense]))

    def full(self, reason: str, layout: TokenLayout) -> None:
        self.tokens, self.exact = (layout.target, *layout.context), layout.exact
        self.reasons[reason] += 1

    def begin(self, at: int, settings: Settings, sigma: torch.Tensor) -> None:
        """Evaluation number `at` begins, at noise level `sigma` [B]."""
        self.at, self.settings, self.sigma, self.began = at, settings, sigma, _Moment(sigma.device)
        self._clear()

    def end(self) -> None:
        """The current evaluation has ended."""
        if self.settings is None:
            return
        row = {
            "at": self.at,
            "values": self.settings.values(),
            "tokens": self.tokens,
            "full": dict(self.reasons),
            "backend": self.backend,
        }
        if self.exact:
            row["exact"] = self.exact
        if self.kept is not None:
            row["kept"] = round(self.kept, 4)
        if self.reused is not None:
            row["context"], row["context_held"] = CONTEXT_KINDS[self.reused], self.held
        timed, reused = (self.sequences, self.tokens), bool(self.reused)
        ended, numbers = _Moment(self.sigma.device), ReadBack(_numbers(self.sigma, self.shares))
        self._waiting.append(_Evaluation(row, timed, reused, self.began, ended, numbers))
        self.settings = None

    def finished(self, wait: bool = False) -> list[dict]:
        """Rows of the evaluations whose numbers have arrived; with `wait`, of all."""
        rows = []
        while self._waiting and self._waiting[0].numbers.here(wait):
            rows.append(self._row(self._waiting.pop(0)))
        return rows

    def _row(self, evaluation: _Evaluation) -> dict:
        row = evaluation.row
        sigma, *shares = evaluation.numbers.tensor().tolist()
        row["step"] = max(0, min(sum(each >= sigma * (1 - 1e-4) for each in self.sigmas), len(self.sigmas) - 1) - 1)
        row |= dict(zip(("density", "flop_ratio", "dense"), (round(share, 4) for share in shares)))
        seconds = evaluation.ended.since(evaluation.began)
        paces, kind = self.paces[evaluation.timed], ("isa" if shares else "full", evaluation.reused)
        # A step that a cache skipped is no measure of attention. The first one compiles and loads; where there are no others
        # it is better than nothing.
        if row["tokens"] and (row["at"] > 0 or not paces[kind]):
            paces[kind].append(seconds)
        row["seconds"] = round(seconds, 4)
        self._first, self._total = self._first or seconds, self._total + seconds
        row["so_far"] = round(self._first, 4), round(self._total, 4)
        found = {kind: round(statistics.median(held), 4) for kind, held in paces.items() if held}
        row["pace"] = {name: found[name, False] for name in ("isa", "full") if (name, False) in found}
        if "context" in row and (kind[0], True) in found:
            row["reused_pace"] = found[kind[0], True]
        return row


class _Moment:
    """Now, in the device's own order of work: without waiting, what was queued says nothing of when it is done."""

    def __init__(self, device: torch.device):
        self.event = None
        if device.type == "cuda":
            self.event = torch.cuda.Event(enable_timing=True)
            self.event.record(torch.cuda.current_stream(device))
        self.time = time.perf_counter()

    def since(self, earlier: _Moment) -> float:
        """Seconds. On a GPU both must have passed."""
        if self.event is None or earlier.event is None:
            return self.time - earlier.time
        return earlier.event.elapsed_time(self.event) / 1000


def _numbers(sigma: torch.Tensor, shares: list[torch.Tensor]) -> torch.Tensor:
    """The noise level and, if there are shares, their mean."""
    level = sigma.max()[None].float()
    if not shares:
        return level
    # Calls may have run on several GPUs.
    return torch.cat([level, torch.stack([share.to(sigma.device) for share in shares]).mean(0)])


@dataclass
class _Evaluation:
    row: dict
    timed: tuple
    reused: bool
    began: _Moment
    ended: _Moment
    numbers: ReadBack
