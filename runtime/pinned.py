"""Main memory from which a GPU copies by itself, taken in few large pieces.

PyTorch rounds every piece of such (pinned) memory up to a power of two bytes, so that tensors of its own would take up to twice
their size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

LARGEST = 31
"""Exponent of the largest piece, 2 GiB, unless one tensor is larger."""

ALIGNED = 512
"""Bytes at whose multiples tensors begin."""


def piece_bytes(sizes: Sequence[int]) -> int:
    """The power of two in whose multiples tensors of so many bytes, one behind the other and none across two pieces, take the least."""
    least = max(sizes, default=1)
    smallest = (least - 1).bit_length()
    choices = [1 << exponent for exponent in range(smallest, max(LARGEST, smallest) + 1)]
    return min(choices, key=lambda piece: _taken(sizes, piece))


def taken_bytes(sizes: Sequence[int]) -> int:
    """What tensors of so many bytes take in all."""
    return _taken(sizes, piece_bytes(sizes))


def _taken(sizes: Sequence[int], piece: int) -> int:
    pieces, end = 0, piece
    for size in sizes:
        if end + size > piece:
            pieces, end = pieces + 1, 0
        end += _aligned(size)
    return pieces * piece


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


class Pinned:
    """Room for tensors of known sizes. A piece is free again once none of its tensors is left."""

    def __init__(self, sizes: Sequence[int]):
        """sizes: bytes of all tensors, in their order."""
        self.piece = piece_bytes(sizes)
        self._open, self._end = torch.empty(0, dtype=torch.uint8), 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor with undefined values. One more than was announced opens another piece; one larger than a piece has its own.

        Some systems pin a part of the memory only: beyond it, memory is taken that is not pinned.
        """
        size = math.prod(shape) * dtype.itemsize
        if self._end + size > len(self._open):
            self._open, self._end = _bytes(max(size, self.piece)), 0
        begin, self._end = self._end, self._end + _aligned(size)
        return self._open[begin : begin + size].view(dtype).view(*shape)


def _bytes(size: int) -> torch.Tensor:
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:
        return torch.empty(size, dtype=torch.uint8)
