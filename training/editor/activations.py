"""What is kept of the forward pass: with checkpointing the inputs of the blocks, on the GPU or in main memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from .settings import Memory


def checkpointing(memory: Memory, device: torch.device) -> Callable:
    """The function that the network's `enable_gradient_checkpointing` takes: (block, tokens, what all blocks share ...)."""
    offloading = nullcontext()
    if memory.offload_activations:
        offloading = SaveInMainMemory(device) if device.type == "cuda" else save_on_cpu()

    def keep_inputs(block, tokens, *shared):
        # Only what is an argument of `checkpoint` is moved; the rest is the same tensors for all blocks.
        with offloading:
            return checkpoint(lambda tokens: block(tokens, *shared), tokens, use_reentrant=False, preserve_rng_state=False)

    return keep_inputs


class SaveInMainMemory(saved_tensors_hooks):
    """PyTorch's `save_on_cpu` with copies beside the computation: on a stream of their own, and back one tensor ahead.

    `save_on_cpu` makes the GPU wait for each copy.
    """

    def __init__(self, device: torch.device):
        self.stream = torch.cuda.Stream(device)
        self.last = _nothing
        super().__init__(self._save, self._load)

    def _save(self, tensor: torch.Tensor) -> _Saved | torch.Tensor:
        if not tensor.is_cuda:  # `checkpoint` saves an empty one of its own
            return tensor
        saved = _Saved(tensor, self.stream, self.last)
        self.last = weakref.ref(saved)
        return saved

    def _load(self, saved: _Saved | torch.Tensor) -> torch.Tensor:
        if isinstance(saved, torch.Tensor):
            return saved
        tensor = saved.back()
        if ahead := saved.before():
            ahead.begin()
        return tensor


def _nothing() -> None:
    """What the first saved tensor has before it, in place of a weak reference."""


class _Saved:
    """A tensor in pinned memory. before: a weak reference to the one that was saved before, and is loaded after."""

    def __init__(self, tensor: torch.Tensor, stream: torch.cuda.Stream, before: Callable[[], _Saved | None]):
        self.stream, self.before, self.device = stream, before, tensor.device
        self.loaded: torch.Tensor | None = None
        self.host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            self.host.copy_(tensor, non_blocking=True)
        tensor.record_stream(stream)  # its memory is not given to another before the copy is done

    def begin(self) -> None:
        """Begins to copy it back, unless that has begun."""
        if self.loaded is None:
            with torch.cuda.stream(self.stream):
                self.loaded = self.host.to(self.device, non_blocking=True)
                self.ready = self.stream.record_event()

    def back(self) -> torch.Tensor:
        self.begin()
        current = torch.cuda.current_stream(self.device)
        current.wait_event(self.ready)
        tensor, self.loaded = self.loaded, None
        tensor.record_stream(current)
        return tensor
