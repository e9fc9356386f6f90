"""Asynchronous copies of numbers from the device to the CPU."""

from __future__ import annotations

import torch


class ReadBack:
    """A tensor's values, as soon as the device has them."""

    def __init__(self, tensor: torch.Tensor):
        self._tensor, self._event = tensor, None
        if tensor.is_cuda:
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._tensor.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))

    def here(self, wait: bool = False) -> bool:
        if self._event is not None and wait:
            self._event.synchronize()
        return self._event is None or self._event.query()

    def tensor(self) -> torch.Tensor:
        """On the CPU; waits."""
        self.here(wait=True)
        return self._tensor.cpu()  # already on the CPU, except from devices without CUDA's events
