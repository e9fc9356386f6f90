"""Block means of q, k or v, and variances within blocks, computed from strided tokens without a copy."""

from __future__ import annotations

from typing import Literal, overload

import torch
import triton
import triton.language as tl


@overload
def pool_blocks(
    x: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, block_size: int, variance: Literal[False] = False
) -> torch.Tensor: ...
@overload
def pool_blocks(
    x: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, block_size: int, variance: Literal[True]
) -> tuple[torch.Tensor, torch.Tensor]: ...
def pool_blocks(
    x: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, block_size: int, variance: bool = False
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """x [B, S, H, D], starts and lengths [N] int32 -> [B*H, N, D] fp32 means over each block's true length.

    With `variance`: a pair of these means and the variances of each channel within each block.
    """
    batch, _, heads, dim = x.shape
    blocks = len(starts)
    out = torch.empty(batch * heads, blocks, dim, device=x.device, dtype=torch.float32)
    variances = torch.empty_like(out) if variance else out
    # Neighbouring heads run together, because their tokens share DRAM pages.
    _pool[(batch * heads, blocks)](
        x, out, variances, starts, lengths, x.stride(0), x.stride(1), x.stride(2), x.stride(3), heads, blocks,
        VARIANCE=variance, DIM=dim, DIM_PAD=triton.next_power_of_2(dim), SLOTS=triton.next_power_of_2(block_size),
        num_warps=1,  # a sum within one warp needs no shared memory
    )  # fmt: skip
    return (out, variances) if variance else out


@triton.jit(do_not_specialize=["heads", "blocks"])
def _pool(
    x, out, variances, starts, lengths, stride_b, stride_s, stride_h, stride_d, heads, blocks,
    VARIANCE: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    head, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    start, length = tl.load(starts + block).to(tl.int64), tl.load(lengths + block)
    slot, channel = tl.arange(0, SLOTS), tl.arange(0, DIM_PAD)
    token = (start + slot)[:, None]
    address = x + (head // heads) * stride_b + (head % heads) * stride_h + token * stride_s + channel[None] * stride_d
    inside = (slot < length)[:, None] & (channel < DIM)[None]
    tile = tl.load(address, mask=inside, other=0.0).to(tl.float32)
    # A composite token of a ragged block may hold nothing.
    mean = tl.sum(tile, axis=0) / tl.maximum(length, 1)
    tl.store(out + (head * blocks + block) * DIM + channel, mean, mask=channel < DIM)
    if VARIANCE:
        centred = tl.where(inside, tile - mean[None], 0.0)
        spread = tl.sum(centred * centred, axis=0) / length
        tl.store(variances + (head * blocks + block) * DIM + channel, spread, mask=channel < DIM)
