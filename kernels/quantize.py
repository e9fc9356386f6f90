"""Gather tokens of listed blocks in 8 bits: queries and keys as INT8, values as FP8, each with scales and keys and values centred.

Taking the mean of the keys away changes no softmax, and that of the values is added back to the output; what is left
is smaller and loses less (SageAttention, arXiv 2410.02367, section 4.2, and SageAttention2, arXiv 2411.10958, section 3.4).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TILE = 128
"""Tokens of one scale of keys or values."""


def quantize_queries(
    q: torch.Tensor, heads: torch.Tensor, blocks: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, block_size: int
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """q [B, S, H, D]; heads [C] int32 numbers b*H + h; blocks [C, R] int32, N for none.

    Returns [T, C, D] int8 with zeros where there is no token, and the scale of each token [C, T] fp32;
    T is R * block_size rounded up to whole TILEs.
    """
    out, scales = _outputs(q, heads, blocks, block_size, torch.int8)
    scales = torch.empty(len(heads), out.shape[0], device=q.device, dtype=torch.float32)
    _launch(q, out, scales, heads, blocks, starts, lengths, block_size, None, PER_TOKEN=True)
    return out, scales


def quantize_keys(
    k: torch.Tensor, centre: torch.Tensor, heads: torch.Tensor, blocks: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, block_size: int
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """k, heads, blocks as above, centre [C, D] fp32 -> ([T, C, D] int8, scale of each TILE [C, T / TILE] fp32)."""
    out, scales = _outputs(k, heads, blocks, block_size, torch.int8)
    _launch(k, out, scales, heads, blocks, starts, lengths, block_size, centre)
    return out, scales


def quantize_values(
    v: torch.Tensor, centre: torch.Tensor, heads: torch.Tensor, blocks: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, block_size: int
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """As `quantize_keys`, but FP8 (e4m3) and transposed, [C, D, T], as 8-bit tensor cores require.

    The 16 tokens of each group are stored in the order in which a warp holds their weights, so that the kernel does not
    have to move the weights: place 4l + 2j + i has token 8j + 2l + i.
    """
    out, scales = _outputs(v, heads, blocks, block_size, torch.float8_e4m3fn)
    out = out.view(len(heads), v.shape[3], -1)
    _launch(v, out, scales, heads, blocks, starts, lengths, block_size, centre, VALUES=True)
    return out, scales


def _outputs(x, heads, blocks, block_size, dtype):
    tokens = triton.cdiv(blocks.shape[1] * block_size, TILE) * TILE
    out = torch.empty(tokens, len(heads), x.shape[3], device=x.device, dtype=dtype)
    return out, torch.empty(len(heads), tokens // TILE, device=x.device, dtype=torch.float32)


def _launch(x, out, scales, heads, blocks, starts, lengths, block_size, centre, PER_TOKEN=False, VALUES=False):
    tokens = scales.shape[1] * (1 if PER_TOKEN else TILE)
    _quantize[(len(heads), tokens // TILE)](
        x, out, scales, heads, blocks, starts, lengths, x if centre is None else centre, *x.stride(), x.shape[2],
        blocks.shape[1], len(starts), len(heads), tokens,
        CENTRED=centre is not None, PER_TOKEN=PER_TOKEN, VALUES=VALUES, BLOCK=block_size, TILE=TILE, DIM=x.shape[3],
        DIM_PAD=triton.next_power_of_2(x.shape[3]), num_warps=4,
    )  # fmt: skip


@triton.jit(do_not_specialize=["listed", "count", "rows"])
def _quantize(
    x, out, scales, heads, blocks, starts, lengths, centre, stride_b, stride_s, stride_h, stride_d, all_heads, listed, count,
    rows, tokens,
    CENTRED: tl.constexpr, PER_TOKEN: tl.constexpr, VALUES: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    DIM: tl.constexpr, DIM_PAD: tl.constexpr,
):  # fmt: skip
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = tile * TILE + tl.arange(0, TILE)
    if VALUES:
        # The token stored at each place, see `quantize_values`.
        token = place // 16 * 16 + place % 4 // 2 * 8 + place % 16 // 4 * 2 + place % 2
    else:
        token = place
    channel = tl.arange(0, DIM_PAD)
    real = channel < DIM
    entry = token // BLOCK
    block = tl.load(blocks + row * listed + entry, mask=entry < listed, other=count)
    exists = (block < count) & (token % BLOCK < tl.load(lengths + block, mask=block < count, other=0))
    source = tl.load(starts + block, mask=block < count, other=0).to(tl.int64) + token % BLOCK
    head = tl.load(heads + row).to(tl.int64)
    address = x + (head // all_heads) * stride_b + (head % all_heads) * stride_h + source[:, None] * stride_s
    inside = exists[:, None] & real[None]
    value = tl.load(address + channel[None] * stride_d, mask=inside, other=0.0).to(tl.float32)
    if CENTRED:
        value = tl.where(inside, value - tl.load(centre + row * DIM + channel, mask=real, other=0.0)[None], 0.0)
    size = tl.max(tl.abs(value), axis=1)
    largest: tl.constexpr = 448.0 if VALUES else 127.0
    if PER_TOKEN:
        scale = tl.maximum(size, 1e-30) / largest
        tl.store(scales + row * tokens + place, scale)
        value = value / scale[:, None]
    else:
        scale = tl.maximum(tl.max(size, axis=0), 1e-30) / largest
        tl.store(scales + row * (tokens // TILE) + tile, scale)
        value = value / scale
    if VALUES:
        address = out + (row * DIM + channel[None]) * tokens + place[:, None]
        tl.store(address, value.to(tl.float8e4nv), mask=real[None])
    else:
        # Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
        value = (value + 12582912.0) - 12582912.0
        tl.store(out + (place[:, None].to(tl.int64) * rows + row) * DIM + channel[None], value.to(tl.int8), mask=real[None])
