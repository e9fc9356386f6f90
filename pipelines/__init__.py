"""LIVEditor in diffusers, without ComfyUI: the same network and the same ISA on diffusers' own engines.

`transformer` the network, `attention` ISA as attention processors, `pipeline` from video and instruction to video.
"""

from __future__ import annotations

import importlib

_HOMES = {
    "LIVEditorPipeline": "pipeline",
    "LIVEditorTransformer3DModel": "transformer",
    "attach_isa": "attention",
    "detach_isa": "attention",
}

__all__ = list(_HOMES)


def __getattr__(name: str):
    # Imported when asked for: diffusers takes seconds, and may be missing.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ..optional import needed

    for module, package in (("diffusers", "diffusers"), ("accelerate", "accelerate"), ("transformers", "transformers")):
        needed(module, package)
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
