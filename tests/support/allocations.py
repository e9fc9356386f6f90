"""Counts the memory that tensors take while code runs, on any device: on `meta` a step of the real size costs nothing."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Allocations(TorchDispatchMode):
    """`peak`: most bytes held at once by tensors that were made inside; what a fused operation holds within itself is not seen.

    device: counts that kind of device alone.
    """

    def __init__(self, device: str):
        super().__init__()
        self.device, self.held, self.peak, self._known = device, 0, 0, {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == self.device:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage):
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self.held += size
        self.peak = max(self.peak, self.held)
        self._known[key] = weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int):
        self.held -= size
        del self._known[key]
