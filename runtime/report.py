"""A report of ISA over one sampling run, in sentences for the user."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

import torch

from ..isa_core import ISAConfig, ISAStats, TokenLayout
from . import decisions
from .call import in_backward
from .live import Change

DENSE_NAMES = {"sdpa": "PyTorch's attention", "triton": "this pack's Triton kernel", "8bit": "this pack's 8-bit kernel"}

NOTHING_SEEN = "ISA saw no in-context attention"


def shares_of(stats: ISAStats) -> torch.Tensor:
    """[3], on the device: density, share of full attention's arithmetic, share of dense query blocks."""
    return torch.stack([stats.mean_density, stats.mean_flop_ratio, stats.dense_queries.float().mean()]).detach()


class RunReport:
    """Adds up the calls of one run. Reads nothing back from the device before `summary`, and holds one sum for each device."""

    def __init__(self):
        self.full: Counter[str] = Counter()
        """Number of attention calls, by the reason for full attention."""
        self.left_out: Counter[str] = Counter()
        """Number of model calls without any ISA decision, by the reason."""
        self.set_aside: Counter[str] = Counter()
        """Number of model calls in which another node that makes attention sparse had no part, by its name."""
        self.model_calls = 0
        self.backend: tuple[str, str] | None = None
        self.dense: tuple[str, str] | None = None
        self.on_gpu = False
        self.sparse_calls = 0
        self.refreshed = self.reused = 0
        """Number of model calls that computed the context to keep it, and of those that reused a kept one."""
        self.most_held = (0, 0)
        """Bytes of context that were kept at most, (on the GPU, in main memory)."""
        self.recomputed: Counter[str] = Counter()
        """Number of model calls that could keep no context, by the reason."""
        self._sums: dict[torch.device, torch.Tensor] = {}

    def add_sparse(self, stats: ISAStats) -> None:
        self.backend = stats.backend, stats.backend_reason
        self.dense = stats.dense_backend, stats.dense_reason
        self.on_gpu = stats.sharpness.device.type == "cuda"
        shares = shares_of(stats)
        # Several GPUs may take part.
        self._sums[shares.device] = self._sums[shares.device] + shares if shares.device in self._sums else shares
        self.sparse_calls += 1

    def add_full(self, reason: str) -> None:
        self.full[reason] += 1

    def add_context_call(self, reused: bool, held: tuple[int, int]) -> None:
        """held: bytes that are kept since, (on the GPU, in main memory)."""
        self.reused += reused
        self.refreshed += not reused
        self.most_held = max(self.most_held, held, key=sum)

    def add_left_out(self, reason: str) -> None:
        self.left_out[reason] += 1

    def mean_shares(self) -> tuple[float, float, float]:
        """Over all sparse calls: density, share of full attention's arithmetic, share of dense query blocks. Waits for the device."""
        total = torch.stack([total.cpu() for total in self._sums.values()]).sum(0)
        density, flops, dense = (total / self.sparse_calls).tolist()
        return density, flops, dense

    def summary(
        self, config: ISAConfig, changes: Iterable[Change] = (), unmatched: Iterable[str] = (), nothing: str = ""
    ) -> str:
        """One line per fact: calls, cost, backend, why calls ran in full, and what was changed on the way.

        config: of the last evaluation. unmatched: samplers whose recorded changes were not for this one.
        nothing: why ISA saw no attention at all, where no call gave a reason.
        """
        lines = []
        if self.backend and self.dense:
            density, flops, dense = self.mean_shares()
            lines.append(
                f"ISA: {self.sparse_calls} attention calls at {density:.1%} density, "
                f"{flops:.1%} of full attention's arithmetic, on {self.backend[0]} ({self.backend[1]})"
            )
            if self.dense[0] != "caller":
                lines.append(f"Dense query blocks attended on {DENSE_NAMES[self.dense[0]]} ({self.dense[1]})")
            if self.on_gpu and self.backend[0] == "torch":
                lines.append(
                    "On a fast GPU this is slower than full attention (benchmarks/results): get Triton, or bypass this node"
                )
            threshold = config.sharpness_threshold
            if threshold is not None and dense == 0:
                lines.append(
                    f"No query block is sharper than the threshold {threshold:g}, so all queries were approximated: "
                    "lower sharpness_threshold, or route by ratio"
                )
            if threshold is not None and dense == 1:
                lines.append(
                    f"Every query block is sharper than the threshold {threshold:g}, so none was approximated: "
                    "raise sharpness_threshold, or route by ratio"
                )
        elif not self.full:
            why = list(self.left_out) or [nothing] * bool(nothing)
            lines.append(f"{NOTHING_SEEN}: {'; '.join(why)}" if why else NOTHING_SEEN)
        lines += [f"{count} calls with full attention: {reason}" for reason, count in self.full.items()]
        if self.sparse_calls or self.full:
            lines += [f"ISA left out {count} model calls: {reason}" for reason, count in self.left_out.items()]
        lines += [decisions.set_aside(node, count) for node, count in self.set_aside.items()]
        if self.refreshed or self.reused:
            lines.append(self._of_context())
        lines += [f"{count} model calls could not reuse the context: {reason}" for reason, count in self.recomputed.items()]
        lines += [f"From model call {at + 1}: {_listed(values)}" for at, values in changes]
        if unmatched:
            lines.append(
                f"live_changes repeats a run of node {', '.join(unmatched)}, not of this sampler, which took the values on the "
                'node: press "use these settings throughout" if they are meant'
            )
        return "\n".join(lines)

    def _of_context(self) -> str:
        computed = f"The context was computed in {self.refreshed} of {self.refreshed + self.reused} model calls"
        if not self.reused:
            too_far = self.refreshed > 1 and not self.recomputed and not sum(self.most_held)
            return f"{computed}{', and reused in none: no two steps were near enough for context_refresh' if too_far else ''}"
        held = zip(self.most_held, ("on the GPU", "in main memory"))
        kept = " and ".join(f"{size / 1e9:.3g} GB {where}" for size, where in held if size)
        return f"{computed}, and reused in the others; kept: {kept}"


class ReportRecorder:
    """A `call.Recorder` that adds up a RunReport. Copies and pickles begin with an empty one."""

    def __init__(self):
        self._lock, self._report = threading.Lock(), RunReport()

    def __reduce__(self):
        return type(self), ()

    def called(self) -> None:
        """A model call begins."""
        if not in_backward():
            with self._lock:
                self._report.model_calls += 1

    def sparse(self, stats: ISAStats, layout: TokenLayout, block: int, of_blocks: int) -> None:
        if not in_backward():
            with self._lock:
                self._report.add_sparse(stats)

    def full(self, reason: str, layout: TokenLayout) -> None:
        if not in_backward():
            with self._lock:
                self._report.add_full(reason)

    def left_out(self, reason: str) -> None:
        if not in_backward():
            with self._lock:
                self._report.add_left_out(reason)

    def context_call(self, reused: bool, held: tuple[int, int]) -> None:
        """A model call reused a kept context, or computed it to keep it; held: bytes since, (on the GPU, in main memory)."""
        with self._lock:
            self._report.add_context_call(reused, held)

    def recomputed(self, reason: str) -> None:
        """A model call could keep no context."""
        with self._lock:
            self._report.recomputed[reason] += 1

    def take(self) -> RunReport:
        """The report so far. A new report begins."""
        with self._lock:
            report, self._report = self._report, RunReport()
        return report


def _listed(values: dict) -> str:
    return ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items())
