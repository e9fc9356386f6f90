"""Splits a call into groups of heads, so that memory does not grow with the number of heads."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .layout import BlockTable

WORKSPACE_BYTES = 768 * 2**20
"""Bytes of copies for the heads processed at a time, or the copies of one head if they are larger."""


def heads_at_once(heads: int, bytes_per_head: int, workspace: int | None = None) -> int:
    """How many of `heads` to process at a time: the fewest groups that fit, of about equal size.

    workspace: bytes, WORKSPACE_BYTES where None.
    """
    turns = -(-heads // max(1, (WORKSPACE_BYTES if workspace is None else workspace) // bytes_per_head))
    return max(1, -(-heads // max(1, turns)))


def head_chunks(k: torch.Tensor, table: BlockTable) -> Iterator[slice]:
    """Slices of heads over k [B, S, H, D], for one batch element at a time.

    Counted per head: blocks of q, k, v, the output twice, gathered lists, and three N × N coarse matrices.
    """
    _, tokens, heads, dim = k.shape
    step = heads_at_once(heads, 8 * tokens * dim * k.element_size() + 3 * 4 * table.count**2)
    for start in range(0, heads, step):
        yield slice(start, min(start + step, heads))
