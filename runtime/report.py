"""What ISA did during one sampling run, in words a user can read."""

from __future__ import annotations

from collections import Counter

import torch

from ..isa_core import ISAConfig, ISAStats
from .live import Change

DENSE_NAMES = {"sdpa": "PyTorch's attention", "triton": "this pack's Triton kernel", "8bit": "this pack's 8-bit kernel"}


class RunReport:
    """Collects calls of one run. Reads nothing back from the device before `summary`."""

    def __init__(self):
        self.full: Counter[str] = Counter()
        self.backend: tuple[str, str] | None = None
        self.dense: tuple[str, str] | None = None
        self.on_gpu = False
        self._shares: list[torch.Tensor] = []

    def add_sparse(self, stats: ISAStats):
        self.backend = stats.backend, stats.backend_reason
        self.dense = stats.dense_backend, stats.dense_reason
        self.on_gpu = stats.sharpness.device.type == "cuda"
        dense_share = stats.dense_queries.float().mean()
        self._shares.append(torch.stack([stats.mean_density, stats.mean_flop_ratio, dense_share]))

    def add_full(self, reason: str):
        self.full[reason] += 1

    @property
    def sparse_calls(self) -> int:
        return len(self._shares)

    def summary(self, config: ISAConfig, changes: list[Change] = (), unmatched: list[str] = ()) -> str:
        """One line per fact: calls, cost, backend, why calls ran in full, and what was changed on the way.

        config: of the last evaluation. unmatched: samplers whose recorded changes were not for this one.
        """
        lines = []
        if self._shares:
            # Calls may have run on several GPUs.
            shares = torch.stack([share.cpu() for share in self._shares])
            density, flops, dense = shares.mean(0).tolist()
            lines.append(
                f"ISA: {self.sparse_calls} attention calls at {density:.1%} density, "
                f"{flops:.1%} of full attention's arithmetic, on {self.backend[0]} ({self.backend[1]})"
            )
            if self.dense[0] != "caller":
                lines.append(f"Sharp query blocks attended on {DENSE_NAMES[self.dense[0]]} ({self.dense[1]})")
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
            lines.append(
                "ISA saw no in-context attention: connect In-Context References to the sampler, "
                "and place Attach ISA after other nodes that replace the attention"
            )
        lines += [f"{count} calls with full attention: {reason}" for reason, count in self.full.items()]
        lines += [f"From model call {at + 1}: {_listed(values)}" for at, values in changes]
        if unmatched:
            lines.append(
                f"live_changes repeats a run of node {', '.join(unmatched)}, not of this sampler, which took the values on the "
                'node: press "use these settings throughout" if they are meant'
            )
        return "\n".join(lines)


def _listed(values: dict) -> str:
    return ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items())
