"""Imports core's modules in another program, without ComfyUI's server."""

from __future__ import annotations

import torch


def use_cpu_without_gpu():
    """Call it before other modules of core are imported: core looks for a GPU then, and fails where there is none.

    For a `main` alone: within ComfyUI it would change the server's own option. Raises RuntimeError where there is no ComfyUI.
    """
    try:
        from comfy.cli_args import args
    except ImportError as error:
        raise RuntimeError(
            f"ComfyUI cannot be imported ({error}): put its folder on the Python path, as in PYTHONPATH=/path/to/ComfyUI."
        ) from None
    args.cpu |= not torch.cuda.is_available()
