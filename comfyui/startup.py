"""Imports core's modules in another program, without ComfyUI's server."""

from __future__ import annotations

import torch


def use_cpu_without_gpu():
    """Call it before other modules of core are imported: core looks for a GPU then, and fails where there is none.

    For a `main` alone: within ComfyUI it would change the server's own option.
    """
    from comfy.cli_args import args

    args.cpu |= not torch.cuda.is_available()
