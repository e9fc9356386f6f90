"""Block means: the coarse queries, keys and values from which all routing is decided."""

from __future__ import annotations

import torch

from .layout import BlockTable


def pool_blocks(x: torch.Tensor, table: BlockTable) -> torch.Tensor:
    """[G, S, D] tokens, any strides -> [G, N, D] means over each block's true length (section 3.2).

    Accumulates in fp32 (fp64 for fp64 input): bf16 ties would favour early blocks.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    parts = []
    for segment in x.split(table.layout.segments, dim=1):
        full = segment.shape[1] // table.block_size
        whole, ragged = segment.split([full * table.block_size, segment.shape[1] % table.block_size], dim=1)
        if full:
            parts.append(whole.unflatten(1, (full, table.block_size)).mean(2, dtype=dtype))
        if ragged.shape[1]:
            parts.append(ragged.mean(1, keepdim=True, dtype=dtype))
    return torch.cat(parts, dim=1)


def block_variances(x: torch.Tensor, pooled: torch.Tensor, table: BlockTable) -> torch.Tensor:
    """[G, S, D] tokens and their block means [G, N, D] -> [G, N, D]: each channel's variance within each block."""
    return pool_blocks((x.to(pooled.dtype) - table.spread(pooled)).square(), table)
