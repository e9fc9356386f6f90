"""LIVEditor in diffusers, without ComfyUI: the same network and the same ISA on diffusers' own engines.

`transformer` the network, `attention` ISA as attention processors, `pipeline` from video and instruction to video.
"""

from __future__ import annotations

import importlib

from ..optional import needed

EXTRA = "diffusers"
"""This project's, which brings all that this folder imports."""

_HOMES = {
    "Edit": "request",
    "ModelChoice": "request",
    "LIVEditorPipeline": "pipeline",
    "LIVEditorTransformer3DModel": "transformer",
    "attach_isa": "attention",
    "detach_isa": "attention",
    "edit_file": "edit",
    "load": "edit",
    "sampling_run": "context_reuse",
}

__all__ = list(_HOMES)


def require(*more: str):
    """Raises RuntimeError, which names what to install, unless all packages of this folder can be imported, and `more`."""
    for package in (*more, "diffusers", "transformers", "accelerate", "av"):
        needed(package, package, EXTRA)


def __getattr__(name: str):
    # Imported on access: importing diffusers takes seconds, and it may be missing.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require()
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
