"""The sparse kernel with exact blocks in 8 bits: INT8 scores, FP8 values, block means in the tokens' own type."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import EIGHT_BIT_LISTS_BLOCK as BLOCK
from .dense import INTEGER_OFFSET
from .hardware import bulk_copied, takes_bulk_copies
from .quantize import TILE
from .softmax import LOG2E
from .sparse import TAIL_TILE, gated_residual, over_means


def sparse_attention_8bit(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, k_scale: torch.Tensor, v_scale: torch.Tensor, v_centre: torch.Tensor,
    mean_k: torch.Tensor, mean_v: torch.Tensor, log_lengths: torch.Tensor, first: int, lists: torch.Tensor, full: torch.Tensor,
    counts: torch.Tensor, taken: torch.Tensor, row_starts: torch.Tensor, lengths: torch.Tensor, out: torch.Tensor,
    gate: torch.Tensor | None = None, coarse: torch.Tensor | None = None, variance_k: torch.Tensor | None = None,
) -> None:  # fmt: skip
    """As `sparse.sparse_attention`, for the C heads from `first` on, of which no query block is dense.

    k [T, C, D] int8 and v [C, D, T] fp8 with their scales [C, T / TILE] by kernels/quantize.py, of all blocks in turn, after
    the centres of their heads were taken away; so they were from mean_k, mean_v [G, T, D]; v_centre [C, D] is added again.
    """
    batch, tokens, heads, dim = q.shape
    rows, longest, tails, some = counts.shape[1], lists.shape[2], taken.shape[2], k.shape[1]
    largest = v_scale.amax(1) / 256
    weight_scale = (v_scale / largest[:, None]).clamp_min(2.0**-24)
    second = variance_k is not None
    pooled = mean_k, mean_v, mean_k if variance_k is None else variance_k
    tma = takes_bulk_copies(k) and takes_bulk_copies(v[..., :TILE]) and all(takes_bulk_copies(x) for x in pooled) and tails > 0
    keys, values = (bulk_copied(x, shape) if tma else x for x, shape in ((k, [BLOCK, 1, dim]), (v, [1, dim, BLOCK])))
    means = (bulk_copied(x, [1, TAIL_TILE, dim]) if tma else x for x in pooled)
    _sparse_8bit[(rows, some)](
        q, keys, values, k_scale, weight_scale, largest, v_centre, *means, log_lengths, lists, full, counts, taken, row_starts, lengths, out,
        gate if gate is not None else q, coarse if gate is not None else q,
        *q.stride(), *out.stride(), 0 if gate is None else gate.stride(0), 0 if gate is None else gate.stride(1),
        dim**-0.5 * LOG2E.value, first, heads, some, k.shape[0], rows, longest, tails,
        TMA=tma, GATED=gate is not None, SECOND_ORDER=second, DIM=dim, DIM_PAD=max(32, triton.next_power_of_2(dim)), SLOTS=BLOCK,
        TAIL_TILE=TAIL_TILE, STAGES=2, TAIL_STAGES=1, num_warps=4, maxnreg=168,  # so that three programs share an SM
    )  # fmt: skip


@triton.jit
def _keys(k, c, block, some, slot, channel, real, TMA: tl.constexpr, SLOTS: tl.constexpr, DIM: tl.constexpr):
    """[SLOTS, DIM] of k [T, C, D]."""
    if TMA:
        tile = tl.reshape(k.load([block * SLOTS, c, 0]), [SLOTS, DIM])
    else:
        token = (block * SLOTS + slot).to(tl.int64)
        tile = tl.load(k + (token * some + c)[:, None] * DIM + channel[None], mask=real[None], other=0)
    return tile


@triton.jit
def _values(v, c, block, total, slot, channel, real, TMA: tl.constexpr, SLOTS: tl.constexpr, DIM: tl.constexpr):
    """[DIM, SLOTS] of v [C, D, T]."""
    if TMA:
        tile = tl.reshape(v.load([c, 0, block * SLOTS]), [DIM, SLOTS])
    else:
        address = v + (c.to(tl.int64) * DIM + channel)[:, None] * total + (block * SLOTS + slot)[None]
        tile = tl.load(address, mask=real[:, None], other=0.0)
    return tile


@triton.jit
def _in_register_order(weight, ROWS: tl.constexpr, KEYS: tl.constexpr):
    """Weights as FP8, columns in the order of `quantize_values`, which is the order in a thread's registers."""
    weight = tl.reshape(weight.to(tl.float8e4nv), [ROWS, KEYS // 16, 2, 4, 2])
    return tl.reshape(tl.permute(weight, [0, 1, 3, 2, 4]), [ROWS, KEYS])


@triton.jit
def _weights(score, scale, offset, SLOTS: tl.constexpr):
    """exp2(score · scale + offset), score [SLOTS, SLOTS] with INTEGER_OFFSET in it, which `offset` takes away again."""
    shape: tl.constexpr = [SLOTS, SLOTS]
    # One fused multiply-add turns the bits of an integer into an exponent. Triton does not fuse it by itself.
    return tl.exp2(tl.fma(score, tl.broadcast_to(scale[:, None], shape), tl.broadcast_to(offset[:, None], shape)))


@triton.jit(do_not_specialize=["gb", "first_head", "total_keys", "row_count", "longest", "tails"])
def _sparse_8bit(
    q, k, v, k_scale, weight_scale, largest, v_centre, mean_k, mean_v, variance_k, log_lengths, lists, full, counts, taken, row_starts,
    lengths, out, gate, coarse, qb, qs, qh, qd, ob, os, oh, od, gb, gs,
    scale, first_head, heads, some, total_keys, row_count, longest, tails,
    TMA: tl.constexpr, GATED: tl.constexpr, SECOND_ORDER: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr,
    SLOTS: tl.constexpr, TAIL_TILE: tl.constexpr, STAGES: tl.constexpr, TAIL_STAGES: tl.constexpr,
):  # fmt: skip
    row, c = tl.program_id(0), tl.program_id(1)
    group = (first_head + c).to(tl.int64)
    b, h = group // heads, group % heads
    slot, channel = tl.arange(0, SLOTS), tl.arange(0, DIM_PAD)
    real = channel < DIM
    start, length = tl.load(row_starts + row).to(tl.int64), tl.load(lengths + row)
    rows = (slot < length)[:, None] & real[None]
    token = start + slot
    query = tl.load(q + b * qb + h * qh + token[:, None] * qs + channel[None] * qd, mask=rows, other=0.0)
    highest = tl.maximum(tl.max(tl.abs(query.to(tl.float32)), axis=1), 1e-20)
    # Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    whole_query = ((query.to(tl.float32) * (127 / highest)[:, None] + INTEGER_OFFSET) - INTEGER_OFFSET).to(tl.int8)
    row_scale = highest / 127 * scale

    k_scale += c * (total_keys // (2 * SLOTS))
    weight_scale += c * (total_keys // (2 * SLOTS))
    peak = tl.full([SLOTS], -1e30, tl.float32)
    total = tl.zeros([SLOTS], tl.float32)
    acc = tl.zeros([SLOTS, DIM_PAD], tl.float32)
    # Integer logits are added to the bits of INTEGER_OFFSET, which converts them to fp32 without an operation.
    zero = tl.full([SLOTS, SLOTS], 0x4B400000, tl.int32)
    mine = lists + (group * row_count + row) * longest
    all_full, count = tl.load(full + group * row_count + row), tl.load(counts + group * row_count + row)

    for entry in tl.range(0, all_full, num_stages=STAGES):
        block = tl.load(mine + entry).to(tl.int32)
        row_and_key, factor = row_scale * tl.load(k_scale + block // 2), tl.load(weight_scale + block // 2)
        key = _keys(k, c, block, some, slot, channel, real, TMA, SLOTS, DIM)
        value = _values(v, c, block, total_keys, slot, channel, real, TMA, SLOTS, DIM)
        score = tl.dot(whole_query, key.T, acc=zero, out_dtype=tl.int32).to(tl.float32, bitcast=True)
        top = tl.maximum(peak, (tl.max(score, axis=1) - INTEGER_OFFSET) * row_and_key)
        shrink = tl.exp2(peak - top)
        peak = top
        weight = _weights(score, row_and_key, tl.log2(factor) - top - INTEGER_OFFSET * row_and_key, SLOTS)
        total = total * shrink + tl.sum(weight, axis=1) / factor
        acc = tl.dot(_in_register_order(weight, SLOTS, SLOTS), value.T, acc * shrink[:, None])

    # At most one block a token group is ragged.
    for entry in tl.range(all_full, count, num_stages=1):
        block = tl.load(mine + entry).to(tl.int32)
        factor = tl.load(weight_scale + block // 2)
        key = _keys(k, c, block, some, slot, channel, real, TMA, SLOTS, DIM)
        value = _values(v, c, block, total_keys, slot, channel, real, TMA, SLOTS, DIM)
        score = tl.dot(whole_query, key.T, acc=zero, out_dtype=tl.int32).to(tl.float32, bitcast=True) - INTEGER_OFFSET
        logit = score * (row_scale * tl.load(k_scale + block // 2))[:, None]
        logit += tl.where(slot < tl.load(lengths + block), 0.0, float("-inf"))[None]
        top = tl.maximum(peak, tl.max(logit, axis=1))
        shrink = tl.exp2(peak - top)
        peak = top
        weight = tl.exp2(logit - (top - tl.log2(factor))[:, None])
        total = total * shrink + tl.sum(weight, axis=1) / factor
        acc = tl.dot(_in_register_order(weight, SLOTS, SLOTS), value.T, acc * shrink[:, None])

    acc = acc * tl.load(largest + c)
    peak, total, acc = over_means(
        query, mean_k, mean_v, variance_k, log_lengths, taken, group, row, row_count, tails, scale, channel, real, peak, total, acc,
        TMA, SECOND_ORDER, TAIL_TILE, TAIL_STAGES, DIM,
    )  # fmt: skip
    acc = acc / total[:, None] + tl.load(v_centre + c * DIM + channel, mask=real, other=0.0)[None]
    if GATED:
        acc += gated_residual(gate + b * gb, coarse, group * row_count + row, token, slot < length, channel, real, gs, DIM)
    tl.store(out + b * ob + h * oh + token[:, None] * os + channel[None] * od, acc.to(out.dtype.element_ty), mask=rows)
