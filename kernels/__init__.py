"""Triton kernels of ISA: pure functions over tensors, without policy. Import the submodules lazily: triton may be missing."""

from __future__ import annotations

import importlib.util

import torch


def unavailable_reason(device: torch.device) -> str | None:
    """Why the kernels cannot run on `device`, or None when they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device.type != "cuda":
        return f"Triton needs a GPU, not '{device.type}'"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is older than Ampere"
    return None
