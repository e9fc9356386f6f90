"""Which implementation runs a call. The one place that decides, and says why."""

from __future__ import annotations

import torch

from .. import kernels

BACKENDS = ("auto", "triton", "torch")


class BackendUnavailable(RuntimeError):
    """A backend was asked for by name and cannot run here."""


def resolve_backend(
    requested: str, device: torch.device, dtype: torch.dtype | None = None, needs_grad: bool = False
) -> tuple[str, str]:
    """(backend, reason) for a requested one on tensors like these: "auto" may fall back, an explicit choice never does.

    Raises ValueError for an unknown name, BackendUnavailable when an explicit choice cannot run.
    """
    if requested not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {requested!r}.")
    if requested == "torch":
        return "torch", "chosen"
    missing = kernels.unavailable_reason(device, dtype, needs_grad)
    if requested == "triton" and missing:
        raise BackendUnavailable(f"The Triton backend cannot run: {missing}. Choose backend 'auto' or 'torch'.")
    return ("torch", missing) if missing else ("triton", "chosen" if requested == "triton" else "fastest available")
