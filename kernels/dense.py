"""Exact attention on compact queries, keys and values: the portable kernel of the dense group, in 16 or 32 or in 8 bits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .hardware import bulk_copied, shared_memory, takes_bulk_copies
from .quantize import TILE
from .softmax import LOG2E, biased_step, step


def dense_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, unbiased: torch.Tensor
) -> torch.Tensor:
    """Softmax attention of C heads: q [Sq, C, D], k and v [Sk, C, D] -> [Sq, C, D] in q's dtype.

    bias [C, P] fp32, P = Sk rounded up to whole TILEs, is added to the logits in units of log 2; unbiased [C] int32:
    it is 0 for that many leading keys, for which the kernel does not read it.
    """
    (rows, heads, dim), keys = q.shape, k.shape[0]
    out = torch.empty(rows, heads, dim, device=q.device, dtype=q.dtype)
    tile = 128 if q.element_size() < 4 else 64
    tma = all(takes_bulk_copies(x) for x in (q, k, v))
    operands = (bulk_copied(x, [tile, 1, dim]) if tma else x for x in (q, k, v))
    # Three stages hold two tiles of keys and two of values.
    three_stages = tma and shared_memory(q.device) > 4 * tile * dim * q.element_size() + 1024
    _dense[(triton.cdiv(rows, tile), heads)](
        *operands, bias, unbiased, out, *(stride for x in (q, k, v) for stride in x.stride()), dim**-0.5 * LOG2E.value,
        rows, keys, heads, bias.shape[1],
        TMA=tma, DIM=dim, DIM_PAD=max(16, triton.next_power_of_2(dim)), ROWS=tile, KEYS=tile,
        num_warps=8, num_stages=3 if three_stages else 2,
    )  # fmt: skip
    return out


def dense_attention_8bit(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, q_scale: torch.Tensor, k_scale: torch.Tensor, v_scale: torch.Tensor,
    v_centre: torch.Tensor, bias: torch.Tensor, unbiased: torch.Tensor, dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """The same on the outputs of kernels/quantize.py: q, k [T, C, D] int8, v [C, D, Sk] fp8 -> [Sq, C, D] in `dtype`.

    q_scale [C, Sq], k_scale and v_scale [C, Sk / TILE], v_centre [C, D], all fp32.
    """
    (rows, heads, dim), keys = q.shape, k.shape[0]
    out = torch.empty(rows, heads, dim, device=q.device, dtype=dtype)
    # Weights are multiplied by the scale of their values. The largest becomes 2^8, because FP8 ends at 448.
    largest = v_scale.amax(1) / 256
    weight_scale = (v_scale / largest[:, None]).clamp_min(2.0**-24)
    block = 64
    tma = all(takes_bulk_copies(x) for x in (q, k)) and takes_bulk_copies(v[..., :TILE])
    shapes = ([block, 1, dim], [TILE, 1, dim], [1, dim, TILE])
    operands = (bulk_copied(x, shape) if tma else x for x, shape in zip((q, k, v), shapes))
    _dense_8bit[(triton.cdiv(rows, block), heads)](
        *operands, q_scale, k_scale, weight_scale, largest, v_centre, bias, unbiased, out, dim**-0.5 * LOG2E.value,
        rows, keys, heads,
        TMA=tma, DIM=dim, DIM_PAD=max(32, triton.next_power_of_2(dim)), ROWS=block, KEYS=TILE,
        num_warps=4, num_stages=3 if tma else 2,
    )  # fmt: skip
    return out


@triton.jit
def _rows(x, head, first, limit, stride_s, stride_h, stride_d, channel, real, TMA: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr):  # fmt: skip
    """[ROWS, DIM] of one head, zeros past `limit`; x [.., heads, DIM] is a descriptor with TMA, else a pointer."""
    if TMA:
        tile = tl.reshape(x.load([first, head, 0]), [ROWS, DIM])
    else:
        row = first + tl.arange(0, ROWS)
        address = x + row.to(tl.int64)[:, None] * stride_s + head.to(tl.int64) * stride_h + channel[None] * stride_d
        tile = tl.load(address, mask=(row < limit)[:, None] & real[None], other=0.0)
    return tile


@triton.jit(do_not_specialize=["rows", "keys"])
def _dense(
    q, k, v, bias, unbiased, out, qs, qh, qd, ks, kh, kd, vs, vh, vd, scale, rows, keys, heads, biases,
    TMA: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    first, head = tl.program_id(0) * ROWS, tl.program_id(1)
    channel = tl.arange(0, DIM_PAD)
    real = channel < DIM
    query = _rows(q, head, first, rows, qs, qh, qd, channel, real, TMA, ROWS, DIM)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, DIM_PAD], tl.float32)
    plain = tl.load(unbiased + head) // KEYS * KEYS
    for at in range(0, plain, KEYS):
        key = _rows(k, head, at, keys, ks, kh, kd, channel, real, TMA, KEYS, DIM)
        value = _rows(v, head, at, keys, vs, vh, vd, channel, real, TMA, KEYS, DIM)
        peak, total, acc = step(query, key, value, scale, peak, total, acc)
    for at in tl.range(plain, keys, KEYS, num_stages=1):
        key = _rows(k, head, at, keys, ks, kh, kd, channel, real, TMA, KEYS, DIM)
        value = _rows(v, head, at, keys, vs, vh, vd, channel, real, TMA, KEYS, DIM)
        added = tl.load(bias + head.to(tl.int64) * biases + at + tl.arange(0, KEYS))
        peak, total, acc = biased_step(query, key, value, scale, added, peak, total, acc)
    row = first + tl.arange(0, ROWS)
    address = out + (row.to(tl.int64)[:, None] * heads + head) * DIM + channel[None]
    tl.store(address, (acc / total[:, None]).to(out.dtype.element_ty), mask=(row < rows)[:, None] & real[None])


INTEGER_OFFSET = tl.constexpr(12582912.0)
"""1.5 * 2^23 as fp32: an int32 added to its bits appears in the last mantissa bits."""


@triton.jit
def _softmax_8bit(score, scale, bias, weight_scale, peak, total, acc, ROWS: tl.constexpr, KEYS: tl.constexpr, BIASED: tl.constexpr):  # fmt: skip
    """score: INTEGER_OFFSET + int32 logits; one tile of the online softmax. Weights are multiplied by weight_scale and returned as FP8."""
    if BIASED:
        score = score - INTEGER_OFFSET
        logit = score * scale[:, None] + bias[None]
        highest = tl.maximum(tl.maximum(peak, tl.max(logit, axis=1)), -1e30)
        weight = tl.exp2(logit - (highest - tl.log2(weight_scale))[:, None])
    else:
        highest = tl.maximum(peak, (tl.max(score, axis=1) - INTEGER_OFFSET) * scale)
        offset = tl.log2(weight_scale) - highest - INTEGER_OFFSET * scale
        shape: tl.constexpr = [ROWS, KEYS]
        # One fused multiply-add turns the bits of an integer into an exponent. Triton does not fuse it by itself.
        weight = tl.exp2(tl.fma(score, tl.broadcast_to(scale[:, None], shape), tl.broadcast_to(offset[:, None], shape)))
    shrink = tl.exp2(peak - highest)
    total = total * shrink + tl.sum(weight, axis=1) / weight_scale
    weight = weight.to(tl.float8e4nv)
    # Columns in the order of `quantize_values`, which is the order in a thread's registers.
    weight = tl.reshape(tl.permute(tl.reshape(weight, [ROWS, KEYS // 16, 2, 4, 2]), [0, 1, 3, 2, 4]), [ROWS, KEYS])
    return weight, highest, total, acc * shrink[:, None]


@triton.jit
def _dense_8bit(
    q, k, v, q_scale, k_scale, weight_scale, largest, v_centre, bias, unbiased, out, scale, rows, keys, heads,
    TMA: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    first, head = tl.program_id(0) * ROWS, tl.program_id(1)
    channel, slot = tl.arange(0, DIM_PAD), tl.arange(0, KEYS)
    real = channel < DIM
    row = first + tl.arange(0, ROWS)
    query = _rows(q, head, first, rows, heads * DIM, DIM, 1, channel, real, TMA, ROWS, DIM)
    scale = tl.load(q_scale + head * rows + row, mask=row < rows, other=0.0) * scale
    k_scale += head * (keys // KEYS)
    weight_scale += head * (keys // KEYS)
    values = v if TMA else v + head.to(tl.int64) * DIM * keys
    peak = tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, DIM_PAD], tl.float32)
    # Integer logits are added to the bits of INTEGER_OFFSET, which converts them to fp32 without an operation: |logit| <= 127 * 127 * 256 < 2^22.
    whole = tl.full([ROWS, KEYS], 0x4B400000, tl.int32)
    plain = tl.load(unbiased + head) // KEYS * KEYS
    for at in range(0, plain, KEYS):
        key = _rows(k, head, at, keys, heads * DIM, DIM, 1, channel, real, TMA, KEYS, DIM)
        value = _columns(values, head, at, keys, slot, channel, real, TMA, KEYS, DIM)
        score = tl.dot(query, key.T, acc=whole, out_dtype=tl.int32).to(tl.float32, bitcast=True)
        weight, peak, total, acc = _softmax_8bit(
            score,
            scale * tl.load(k_scale + at // KEYS),
            scale,
            tl.load(weight_scale + at // KEYS),
            peak,
            total,
            acc,
            ROWS,
            KEYS,
            False,
        )
        acc = tl.dot(weight, value.T, acc)
    for at in tl.range(plain, keys, KEYS, num_stages=1):
        key = _rows(k, head, at, keys, heads * DIM, DIM, 1, channel, real, TMA, KEYS, DIM)
        value = _columns(values, head, at, keys, slot, channel, real, TMA, KEYS, DIM)
        score = tl.dot(query, key.T, acc=whole, out_dtype=tl.int32).to(tl.float32, bitcast=True)
        added = tl.load(bias + head.to(tl.int64) * keys + at + slot)
        weight, peak, total, acc = _softmax_8bit(
            score,
            scale * tl.load(k_scale + at // KEYS),
            added,
            tl.load(weight_scale + at // KEYS),
            peak,
            total,
            acc,
            ROWS,
            KEYS,
            True,
        )
        acc = tl.dot(weight, value.T, acc)
    acc = acc * (tl.load(largest + head) / total)[:, None]
    acc += tl.load(v_centre + head * DIM + channel, mask=real, other=0.0)[None]
    address = out + (row.to(tl.int64)[:, None] * heads + head) * DIM + channel[None]
    tl.store(address, acc.to(out.dtype.element_ty), mask=(row < rows)[:, None] & real[None])


@triton.jit
def _columns(v, head, first, keys, slot, channel, real, TMA: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr):
    """[DIM, KEYS] of v [heads, DIM, keys]: a descriptor with TMA, else the pointer of one head."""
    if TMA:
        tile = tl.reshape(v.load([head, 0, first]), [DIM, KEYS])
    else:
        tile = tl.load(v + channel.to(tl.int64)[:, None] * keys + first + slot[None], mask=real[:, None], other=0.0)
    return tile
