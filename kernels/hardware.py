"""Features of a GPU that the kernels use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from triton.tools.tensor_descriptor import TensorDescriptor


def takes_bulk_copies(x: torch.Tensor) -> bool:
    """Hopper's and later bulk copies: contiguous channels, a power of two of them, every other stride a multiple of 16 bytes."""
    if x.device.type != "cuda" or torch.version.hip or torch.cuda.get_device_capability(x.device) < (9, 0):
        return False
    aligned = x.data_ptr() % 16 == 0 and all(stride * x.element_size() % 16 == 0 for stride in x.stride()[:-1])
    return x.stride(-1) == 1 and aligned and x.shape[-1] in (16, 32, 64, 128)


def bulk_copied(x: torch.Tensor, tile: list[int]) -> TensorDescriptor:
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor(x, list(x.shape), list(x.stride()), tile)


def shared_memory(device: torch.device) -> int:
    """Bytes that one program may use: 232,448 on Hopper, 101,376 on consumer GPUs of Ampere, Ada and Blackwell."""
    if device.type != "cuda":
        return 0
    # Missing in torch's type stub.
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin  # type: ignore[attr-defined]
