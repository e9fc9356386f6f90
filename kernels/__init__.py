"""Triton kernels of ISA. Imported lazily and never required: `isa_core` has a PyTorch path for every call."""

from __future__ import annotations


def unavailable_reason() -> str | None:
    """Why the kernels cannot run here, as half a sentence; None when they can."""
    return "this version ships no Triton kernels yet"
