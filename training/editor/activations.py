"""What is kept of the forward pass: with checkpointing the inputs of the blocks, on the GPU or in main memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from .settings import Memory


def checkpointing(memory: Memory, device: torch.device) -> Callable:
    """The function that the network's `enable_gradient_checkpointing` takes: (block, tokens, what all blocks share ...)."""
    pinned = device.type == "cuda"

    def keep_inputs(block, tokens, *shared):
        # Only what is an argument of `checkpoint` is moved; the rest is the same tensors for all blocks.
        with save_on_cpu(pin_memory=pinned) if memory.offload_activations else nullcontext():
            return checkpoint(lambda tokens: block(tokens, *shared), tokens, use_reentrant=False, preserve_rng_state=False)

    return keep_inputs
