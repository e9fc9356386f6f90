"""Triton kernels of ISA: pure functions over tensors, without policy. Import the submodules lazily: triton may be missing."""

from __future__ import annotations

import torch


def unavailable_reason(device: torch.device, dtype: torch.dtype | None = None, needs_grad: bool = False) -> str | None:
    """Why the kernels cannot run on tensors like these, or None when they can."""
    if device.type != "cuda":
        return f"Triton needs a GPU, not '{device.type}'"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is older than Ampere"
    if dtype not in (None, torch.float16, torch.bfloat16, torch.float32):
        return f"the kernels take fp16, bf16 and fp32, not {dtype}"
    return "the kernels have no gradients yet" if needs_grad else None
