"""Chooses the implementation of a call, and gives the reason. No other module does."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .. import kernels
from .config import ISAConfig

BACKENDS = ("auto", "triton", "torch")
DENSE_BACKENDS = ("auto", "sdpa", "triton", "8bit")


class BackendUnavailable(RuntimeError):
    """A backend was chosen by name and cannot run here."""


def resolve_backend(
    requested: str, device: torch.device, dtype: torch.dtype | None = None, dim: int | None = None,
    config: ISAConfig = ISAConfig(), needs_grad: bool = False, exact_segments: bool = False,
) -> tuple[str, str]:  # fmt: skip
    """(backend, reason) for a requested one: "auto" may fall back; an explicit choice raises an error instead.

    dtype, dim: None where the call is not known yet. exact_segments: whether its layout has some.

    Raises ValueError for an unknown name, BackendUnavailable when an explicit choice cannot run.
    """
    if requested not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {requested!r}.")
    if requested == "torch":
        return "torch", "chosen"
    missing = kernels.unavailable_reason(device, dtype, dim, config.block_size)
    if not missing and needs_grad and config.tail_order:
        missing = f"the kernels have no gradient of tail_order {config.tail_order}"
    if not missing and needs_grad and exact_segments:
        missing = "the kernels have no gradient where a layout has exact segments"
    if requested == "triton" and missing:
        raise BackendUnavailable(f"The Triton backend cannot run: {missing}. Choose backend 'auto' or 'torch'.")
    return ("torch", missing) if missing else ("triton", "chosen" if requested == "triton" else "fastest available")


def resolve_dense(
    requested: Callable | str, backend: str, device: torch.device, config: ISAConfig = ISAConfig(), needs_grad: bool = False
) -> tuple[str, str]:
    """(implementation for the dense query blocks, reason): "caller", "sdpa", "triton" or "8bit".

    Where no query block is dense (`ISAConfig.no_dense_queries`) "8bit" is for the exact blocks of all.

    requested: a function of the caller or one of DENSE_BACKENDS. "auto" is PyTorch's attention, which is faster than
    the Triton kernel wherever both were measured (docs/kernels.md), except where it would need a bias per key.

    Raises ValueError for an unknown name, BackendUnavailable when an explicit choice cannot run.
    """
    if not callable(requested) and requested not in DENSE_BACKENDS:
        raise ValueError(f"dense must be a function or one of {', '.join(DENSE_BACKENDS)}; got {requested!r}.")
    if requested == "8bit":
        _require("8-bit attention", kernels.eight_bit_unavailable_reason(device) or _conflict(backend, config, needs_grad))
        return "8bit", "chosen"
    if requested == "triton":
        no_gradient = "its kernel has no gradient" if needs_grad else None
        _require("Triton's dense attention", "the backend is torch" if backend == "torch" else no_gradient)
        return "triton", "chosen"
    if config.context_tail == "taylor" and not config.no_dense_queries:
        reason = "context_tail 'taylor' needs a bias per key"
        return ("sdpa", reason) if backend == "torch" or needs_grad else ("triton", reason)
    if callable(requested):
        return "caller", "the caller's attention"
    return "sdpa", "chosen" if requested == "sdpa" else "fastest measured"


def _conflict(backend: str, config: ISAConfig, needs_grad: bool) -> str | None:
    if backend == "torch":
        return "the backend is torch"
    if config.no_dense_queries:
        if config.block_size != kernels.EIGHT_BIT_LISTS_BLOCK:
            return f"its lists take blocks of {kernels.EIGHT_BIT_LISTS_BLOCK} tokens, not {config.block_size}"
    elif config.context_tail == "taylor":
        return "it has no block means, which context_tail 'taylor' needs"
    return "it has no gradient" if needs_grad else None


def _require(what: str, missing: str | None):
    if missing:
        raise BackendUnavailable(f"{what} cannot run: {missing}. Choose 'auto'.")
