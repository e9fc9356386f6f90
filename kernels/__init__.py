"""Triton kernels of ISA: pure functions over tensors, without policy. Import the submodules lazily: triton may be missing.

Sizes that depend on a sequence's length are not specialised where this costs no speed (`do_not_specialize`), so that
another length compiles few kernels.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from .hardware import shared_memory

OLDEST_TRITON = (3, 4)
"""The first version with tensor descriptors created on the host."""

MISCOMPILES = (
    # (compute capability, first bad Triton, first good one or None, report): loops of dots give varying results.
    ((10, 0), (3, 4), (3, 7), "triton-lang/triton#9871"),
    ((10, 3), (3, 4), None, "triton-lang/triton#10590"),
)


LARGEST_BLOCK, LARGEST_DIM = 128, 128
"""Tokens of a block and channels of a head whose 16-bit tiles fit the shared memory of every GPU from Ampere on.

Gradients of blocks of more than 64 tokens need more shared memory than consumer GPUs have; Triton raises an error there.
"""

EIGHT_BIT_LISTS_BLOCK = 64
"""The only block size of `sparse_8bit`, in tokens: half of a `quantize.TILE`, which shares scales."""

FP32_BYTES = 140_000
"""Shared memory for fp32 tiles of more than 64 channels, rounded up from what they take."""


def unavailable_reason(
    device: torch.device, dtype: torch.dtype | None = None, dim: int | None = None, block_size: int | None = None
) -> str | None:
    """Why the kernels cannot run on tensors like these, or None when they can. Arguments of None are not checked."""
    if device.type != "cuda":
        return f"Triton needs a GPU, not '{device.type}'"
    if dtype not in (None, torch.float16, torch.bfloat16, torch.float32):
        return f"the kernels take fp16, bf16 and fp32, not {dtype}"
    if (dim or 0) > LARGEST_DIM:
        return f"the kernels take heads of up to {LARGEST_DIM} channels, not {dim}"
    if (block_size or 0) > LARGEST_BLOCK:
        return f"the kernels take blocks of up to {LARGEST_BLOCK} tokens, not {block_size}"
    if dtype == torch.float32 and (dim or 0) > 64 and shared_memory(device) < FP32_BYTES:
        return f"{torch.cuda.get_device_name(device)} has too little shared memory for fp32 heads of more than 64 channels"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is older than Ampere"
    return _unfit_triton(None if torch.version.hip else torch.cuda.get_device_capability(device)) or _cannot_start()


def eight_bit_unavailable_reason(device: torch.device) -> str | None:
    """Why the 8-bit kernels cannot run on a device on which the others can, or None when they can."""
    if device.type != "cuda" or torch.version.hip or torch.cuda.get_device_capability(device) < (8, 9):
        return "it needs an NVIDIA GPU with FP8, of Ada's generation or newer"
    return None


@lru_cache
def _unfit_triton(capability: tuple[int, int] | None) -> str | None:
    try:
        # Checking the installation is not enough: on Windows, or after an update of torch, Triton may be installed and not load.
        import triton

        name = triton.__version__
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "triton"
        return "Triton is not installed" if absent else f"Triton cannot be imported ({_first_line(error)})"
    number = tuple(int(part) for part in name.split("+")[0].split(".")[:2])
    if number < OLDEST_TRITON:
        return f"Triton {name} is older than {'.'.join(map(str, OLDEST_TRITON))}"
    for affected, first_bad, first_good, report in MISCOMPILES:
        if capability == affected and first_bad <= number and (first_good is None or number < first_good):
            return f"Triton {name} is known to miscompile loops like ours on this GPU ({report})"
    return None


@lru_cache
def _cannot_start() -> str | None:
    """Triton builds its driver with this machine's C compiler, which may be missing."""
    import triton

    try:
        triton.runtime.driver.active.get_current_target()
    except Exception as error:
        return f"Triton {triton.__version__} cannot start ({_first_line(error)})"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
