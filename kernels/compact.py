"""Copies blocks between strided tokens and the compact sequences that a plain attention kernel takes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def gather_blocks(
    x: torch.Tensor, heads: torch.Tensor, blocks: torch.Tensor, offsets: torch.Tensor | None, tokens: int,
    starts: torch.Tensor, lengths: torch.Tensor, block_size: int,
) -> torch.Tensor:  # fmt: skip
    """Tokens of the listed blocks, one after another, per head.

    x [B, S, H, D]; heads [C] int32 numbers b*H + h; blocks [C, L] int32, N for none -> [tokens, C, D].
    offsets [C, L] int32 is the token at which a block goes; without it each block takes `block_size` places, and
    those of a ragged or missing one are zeros.
    """
    out = torch.empty(tokens, len(heads), x.shape[3], device=x.device, dtype=x.dtype)
    _gather[(len(heads), blocks.shape[1])](
        x, out, heads, blocks, blocks if offsets is None else offsets, starts, lengths, *x.stride(), x.shape[2],
        blocks.shape[1], len(starts), len(heads),
        WHOLE=offsets is None, BLOCK=block_size, DIM=x.shape[3], DIM_PAD=triton.next_power_of_2(x.shape[3]),
        SLOTS=triton.next_power_of_2(block_size), num_warps=4,
    )  # fmt: skip
    return out


def scatter_blocks(
    compact: torch.Tensor, out: torch.Tensor, heads: torch.Tensor, blocks: torch.Tensor, starts: torch.Tensor,
    lengths: torch.Tensor, block_size: int, gate: torch.Tensor | None = None, coarse: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None, add: bool = False,
) -> None:  # fmt: skip
    """The reverse copy, with the gated residual: compact [tokens, C, D], laid out as above, into or onto out [B, S, H, D]."""
    if compact.stride(2) != 1:
        compact = compact.contiguous()
    gated = gate is not None
    _scatter[(len(heads), blocks.shape[1])](
        compact, out, heads, blocks, blocks if offsets is None else offsets, starts, lengths, gate if gated else out, coarse if gated else out,
        *out.stride(), *compact.stride()[:2], 0 if gate is None else gate.stride(0), 0 if gate is None else gate.stride(1),
        out.shape[2], blocks.shape[1], len(starts),
        WHOLE=offsets is None, ADD=add, GATED=gated, BLOCK=block_size, DIM=out.shape[3], DIM_PAD=triton.next_power_of_2(out.shape[3]),
        SLOTS=triton.next_power_of_2(block_size), num_warps=4,
    )  # fmt: skip


@triton.jit(do_not_specialize=["listed", "count", "rows"])
def _gather(
    x, out, heads, blocks, offsets, starts, lengths, stride_b, stride_s, stride_h, stride_d, all_heads, listed, count, rows,
    WHOLE: tl.constexpr, BLOCK: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    row, entry = tl.program_id(0).to(tl.int64), tl.program_id(1)
    block = tl.load(blocks + row * listed + entry)
    exists = block < count
    head = tl.load(heads + row).to(tl.int64)
    slot, channel = tl.arange(0, SLOTS), tl.arange(0, DIM_PAD)
    real = channel < DIM
    inside = slot < tl.load(lengths + block, mask=exists, other=0)
    token = tl.load(starts + block, mask=exists, other=0).to(tl.int64) + slot
    address = x + (head // all_heads) * stride_b + (head % all_heads) * stride_h + token[:, None] * stride_s
    tile = tl.load(address + channel[None] * stride_d, mask=inside[:, None] & real[None], other=0.0)
    first = entry * BLOCK if WHOLE else tl.load(offsets + row * listed + entry)
    place = (first + slot).to(tl.int64) * rows + row
    written = (slot < BLOCK) if WHOLE else inside
    tl.store(out + place[:, None] * DIM + channel[None], tile, mask=written[:, None] & real[None])


@triton.jit(do_not_specialize=["gate_b", "listed", "count"])
def _scatter(
    compact, out, heads, blocks, offsets, starts, lengths, gate, coarse,
    stride_b, stride_s, stride_h, stride_d, stride_token, stride_row, gate_b, gate_s, all_heads, listed, count,
    WHOLE: tl.constexpr, ADD: tl.constexpr, GATED: tl.constexpr, BLOCK: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr,
    SLOTS: tl.constexpr,
):  # fmt: skip
    row, entry = tl.program_id(0).to(tl.int64), tl.program_id(1)
    block = tl.load(blocks + row * listed + entry)
    if block < count:
        head = tl.load(heads + row).to(tl.int64)
        slot, channel = tl.arange(0, SLOTS), tl.arange(0, DIM_PAD)
        inside, real = slot < tl.load(lengths + block), channel < DIM
        mask = inside[:, None] & real[None]
        token = tl.load(starts + block).to(tl.int64) + slot
        first = entry * BLOCK if WHOLE else tl.load(offsets + row * listed + entry)
        place = (first + slot).to(tl.int64)
        tile = tl.load(compact + row * stride_row + place[:, None] * stride_token + channel[None], mask=mask)
        if GATED:
            factor = tl.load(gate + (head // all_heads) * gate_b + token * gate_s, mask=inside, other=0.0).to(tl.float32)
            pooled = tl.load(coarse + (head * count + block) * DIM + channel, mask=real, other=0.0).to(tl.float32)
            tile = tile.to(tl.float32) + factor[:, None] * pooled[None]
        address = out + (head // all_heads) * stride_b + (head % all_heads) * stride_h + token[:, None] * stride_s
        address += channel[None] * stride_d
        if ADD:
            tile = tile.to(tl.float32) + tl.load(address, mask=mask).to(tl.float32)
        tl.store(address, tile.to(out.dtype.element_ty), mask=mask)
