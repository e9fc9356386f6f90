"""Block means: the coarse queries, keys and values from which all routing is decided."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .layout import BlockTable


def pool_blocks(x: torch.Tensor, table: BlockTable) -> torch.Tensor:
    """[G, S, D] tokens, any strides -> [G, N, D] means over each block's true length (section 3.2).

    Accumulates in fp32 (fp64 for fp64 input): bf16 ties would favour early blocks.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    parts = []
    for segment in table.parts(x):
        full = segment.shape[1] // table.block_size
        whole, ragged = segment.split([full * table.block_size, segment.shape[1] % table.block_size], dim=1)
        if full:
            parts.append(whole.unflatten(1, (full, table.block_size)).mean(2, dtype=dtype))
        if ragged.shape[1]:
            parts.append(ragged.mean(1, keepdim=True, dtype=dtype))
    return torch.cat(parts, dim=1)


def pool_composites(x: torch.Tensor, table: BlockTable, per_block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[G, S, D] tokens -> ([G, N·C, D] means of C = `per_block` composite tokens of each block, [N·C] the tokens of each).

    Composite tokens of a ragged block that hold nothing have a mean of zero.
    """
    lengths = torch.tensor(composite_lengths(table, per_block), device=x.device)
    slots = table.to_blocks(x.to(torch.promote_types(x.dtype, torch.float32)))
    size = composite_size(table, per_block)
    sums = F.pad(slots, (0, 0, 0, per_block * size - table.block_size)).unflatten(2, (per_block, size)).sum(3)
    return sums.flatten(1, 2) / lengths.clamp_min(1)[:, None], lengths


def composite_size(table: BlockTable, per_block: int) -> int:
    """Tokens of a composite token of a full block."""
    return -(-table.block_size // per_block)


def composite_lengths(table: BlockTable, per_block: int) -> list[int]:
    """[N·C] tokens of every composite token, 0 where a block has fewer than C."""
    size = composite_size(table, per_block)
    return [min(max(length - part * size, 0), size) for length in table.lengths for part in range(per_block)]


def block_variances(x: torch.Tensor, pooled: torch.Tensor, table: BlockTable) -> torch.Tensor:
    """[G, S, D] tokens and their block means [G, N, D] -> [G, N, D]: each channel's variance within each block."""
    return pool_blocks((x.to(pooled.dtype) - table.spread(pooled)).square(), table)
