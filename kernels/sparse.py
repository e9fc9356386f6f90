"""Exact attention over each query block's list and Taylor attention over the rest, in one softmax."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .hardware import bulk_copied, takes_bulk_copies
from .softmax import LOG2E, biased_step, scored_step, step

LARGEST_FP16 = tl.constexpr(65504.0)


def sparse_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mean_k: torch.Tensor, mean_v: torch.Tensor, log_lengths: torch.Tensor,
    dense: torch.Tensor, lists: torch.Tensor, full: torch.Tensor, counts: torch.Tensor, taken: torch.Tensor, starts: torch.Tensor,
    lengths: torch.Tensor, out: torch.Tensor, gate: torch.Tensor | None = None, coarse: torch.Tensor | None = None,
    block_size: int = 64, log_sum: torch.Tensor | None = None, variance_k: torch.Tensor | None = None, row_starts: torch.Tensor | None = None,
) -> None:  # fmt: skip
    """Fill `out` for the query blocks that are not `dense` (step 6 of section 3, and its residual).

    k, v [B, S, H, D], q, out like them or with the tokens of the first R blocks alone, of any strides; mean_k, mean_v [G, T, D] in q's dtype, G = B*H, the means of the tail's
    blocks; log_lengths [G, T] fp32, log2 of their tokens; dense [G, R] bool; lists [G, R, E] int16 or int32 with full blocks
    first, full [G, R] int32 of them, counts [G, R] int32 of all of the list; taken [G, R, T] uint8; starts, lengths [N] int32; row_starts like starts, where the
    blocks start in q and out if it is elsewhere than in k and v;
    gate [B, T, 1, 1] of q's tokens with coarse [G, R, D], or neither; log_sum [G, T] fp32, when given, receives log2 of the softmax's
    denominator, for the backward pass; variance_k like mean_k, when given, makes the expansion one of second order.
    """
    batch, tokens, heads, dim = q.shape
    rows, longest, tails = dense.shape[1], lists.shape[2], taken.shape[2]
    strides = [stride for x in (q, k, v, out) for stride in x.stride()]
    second = variance_k is not None
    pooled = mean_k, mean_v, mean_k if variance_k is None else variance_k
    tma = all(takes_bulk_copies(x) for x in (k, v, *pooled)) and block_size in (16, 32, 64, 128) and tails > 0
    keys, values = (bulk_copied(x, [1, block_size, 1, dim]) if tma else x for x in (k, v))
    means = (bulk_copied(x, [1, TAIL_TILE, dim]) if tma else x for x in pooled)
    _sparse[(rows, batch * heads)](
        q, keys, values, *means, log_lengths, dense, lists, full, counts, taken, starts if row_starts is None else row_starts, starts, lengths, out,
        gate if gate is not None else q, coarse if gate is not None else q, log_sum if log_sum is not None else q,
        *strides, 0 if gate is None else gate.stride(0), 0 if gate is None else gate.stride(1),
        dim**-0.5 * LOG2E.value, heads, tokens, rows, longest, tails,
        TMA=tma, GATED=gate is not None, SUMS=log_sum is not None, SECOND_ORDER=second, DIM=dim, DIM_PAD=max(16, triton.next_power_of_2(dim)),
        SLOTS=max(16, triton.next_power_of_2(block_size)), TAIL_TILE=TAIL_TILE,
        STAGES=3 if q.element_size() < 4 else 1, TAIL_STAGES=2 if block_size <= 64 and not second else 1, num_warps=4,
    )  # fmt: skip


TAIL_TILE = 64


@triton.jit
def _tile(x, b, h, first, row_stride, column_stride, slot, last, channel, real, TMA: tl.constexpr, SLOTS: tl.constexpr, DIM: tl.constexpr):  # fmt: skip
    """[SLOTS, DIM] tokens from `first` on; x is a descriptor with TMA, else the pointer of one head."""
    if TMA:
        # Slots past a ragged block hold the next group's tokens, or zeros past the end; the caller masks them.
        tile = tl.reshape(x.load([b, first, h, 0]), [SLOTS, DIM])
    else:
        # Slots past a ragged block hold its last token again, so that no load needs a mask over tokens.
        at = first.to(tl.int64) + tl.minimum(slot, last)
        tile = tl.load(x + at[:, None] * row_stride + channel[None] * column_stride, mask=real[None], other=0.0)
    return tile


@triton.jit
def _means(x, group, first, item, tails, channel, real, TMA: tl.constexpr, TAIL_TILE: tl.constexpr, DIM: tl.constexpr):
    """[TAIL_TILE, DIM] rows of x [G, T, DIM] from `first` on; the caller masks rows past the last."""
    if TMA:
        tile = tl.reshape(x.load([group.to(tl.int32), first, 0]), [TAIL_TILE, DIM])
    else:
        address = x + ((group * tails + item) * DIM)[:, None] + channel[None]
        tile = tl.load(address, mask=(item < tails)[:, None] & real[None], other=0.0)
    return tile


@triton.jit
def over_means(
    query, mean_k, mean_v, variance_k, log_lengths, taken, group, row, row_count, tails, scale, channel, real, peak, total, acc,
    TMA: tl.constexpr, SECOND_ORDER: tl.constexpr, TAIL_TILE: tl.constexpr, TAIL_STAGES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """The online softmax of a query block goes on over the means of the blocks that it did not attend exactly."""
    if SECOND_ORDER:
        natural = query.to(tl.float32) * (scale / LOG2E)
        half_square = natural * natural / 2
        if query.dtype == tl.float16:
            half_square = tl.minimum(half_square, LARGEST_FP16)
        half_square = half_square.to(query.dtype)
    for tile in tl.range(0, tails, TAIL_TILE, num_stages=TAIL_STAGES):
        item = tile + tl.arange(0, TAIL_TILE)
        listed = item < tails
        used = tl.load(taken + (group * row_count + row) * tails + item, mask=listed, other=1)
        weight = tl.load(log_lengths + group * tails + item, mask=listed, other=0.0)
        key = _means(mean_k, group, tile, item, tails, channel, real, TMA, TAIL_TILE, DIM)
        value = _means(mean_v, group, tile, item, tails, channel, real, TMA, TAIL_TILE, DIM)
        bias = tl.where(used == 0, weight, float("-inf"))
        score = tl.dot(query, key.T, input_precision="ieee") * scale + bias[None]
        if SECOND_ORDER:
            variance = _means(variance_k, group, tile, item, tails, channel, real, TMA, TAIL_TILE, DIM)
            score += tl.log2(1 + tl.dot(half_square, variance.T, input_precision="ieee"))
        peak, total, acc = scored_step(score, value, peak, total, acc)
    return peak, total, acc


@triton.jit
def gated_residual(gate, coarse, row, token, inside, channel, real, gate_stride, DIM: tl.constexpr):
    """What is added to the outputs of one query block, [SLOTS, DIM_PAD]; gate: of a batch element; row: of coarse [.., DIM]."""
    factor = tl.load(gate + token * gate_stride, mask=inside, other=0.0).to(tl.float32)
    residual = tl.load(coarse + row * DIM + channel, mask=real, other=0.0).to(tl.float32)
    return factor[:, None] * residual[None]


@triton.jit(do_not_specialize=["gb", "tokens", "row_count", "longest", "tails"])
def _sparse(
    q, k, v, mean_k, mean_v, variance_k, log_lengths, dense, lists, full, counts, taken, row_starts, starts, lengths, out, gate, coarse, log_sum,
    qb, qs, qh, qd, kb, ks, kh, kd, vb, vs, vh, vd, ob, os, oh, od, gb, gs,
    scale, heads, tokens, row_count, longest, tails,
    TMA: tl.constexpr, GATED: tl.constexpr, SUMS: tl.constexpr, SECOND_ORDER: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr,
    SLOTS: tl.constexpr, TAIL_TILE: tl.constexpr, STAGES: tl.constexpr, TAIL_STAGES: tl.constexpr,
):  # fmt: skip
    row, group = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if tl.load(dense + group * row_count + row) == 0:
        b, h = group // heads, group % heads
        slot, channel = tl.arange(0, SLOTS), tl.arange(0, DIM_PAD)
        real = channel < DIM
        start, length = tl.load(row_starts + row).to(tl.int64), tl.load(lengths + row)
        rows = (slot < length)[:, None] & real[None]
        token = start + slot
        query = tl.load(q + b * qb + h * qh + token[:, None] * qs + channel[None] * qd, mask=rows, other=0.0)
        peak = tl.full([SLOTS], float("-inf"), tl.float32)
        total = tl.zeros([SLOTS], tl.float32)
        acc = tl.zeros([SLOTS, DIM_PAD], tl.float32)

        b32, h32 = b.to(tl.int32), h.to(tl.int32)
        if not TMA:
            k, v = k + b * kb + h * kh, v + b * vb + h * vh
        mine = lists + (group * row_count + row) * longest
        all_full, count = tl.load(full + group * row_count + row), tl.load(counts + group * row_count + row)
        for entry in tl.range(0, all_full, num_stages=STAGES):
            first = tl.load(starts + tl.load(mine + entry))
            key = _tile(k, b32, h32, first, ks, kd, slot, SLOTS, channel, real, TMA, SLOTS, DIM)
            value = _tile(v, b32, h32, first, vs, vd, slot, SLOTS, channel, real, TMA, SLOTS, DIM)
            peak, total, acc = step(query, key, value, scale, peak, total, acc)

        # At most one block a token group is ragged.
        for entry in tl.range(all_full, count, num_stages=1):
            block = tl.load(mine + entry)
            first, last = tl.load(starts + block), tl.load(lengths + block) - 1
            key = _tile(k, b32, h32, first, ks, kd, slot, last, channel, real, TMA, SLOTS, DIM)
            value = _tile(v, b32, h32, first, vs, vd, slot, last, channel, real, TMA, SLOTS, DIM)
            bias = tl.where(slot <= last, 0.0, float("-inf"))
            peak, total, acc = biased_step(query, key, value, scale, bias, peak, total, acc)

        peak, total, acc = over_means(
            query, mean_k, mean_v, variance_k, log_lengths, taken, group, row, row_count, tails, scale, channel, real, peak, total, acc,
            TMA, SECOND_ORDER, TAIL_TILE, TAIL_STAGES, DIM,
        )  # fmt: skip
        if SUMS:
            tl.store(log_sum + group * tokens + token, peak + tl.log2(total), mask=slot < length)
        acc = acc / total[:, None]
        if GATED:
            acc += gated_residual(gate + b * gb, coarse, group * row_count + row, token, slot < length, channel, real, gs, DIM)
        tl.store(out + b * ob + h * oh + token[:, None] * os + channel[None] * od, acc.to(out.dtype.element_ty), mask=rows)
