"""Exact attention over each query block's list and 0-th order Taylor attention over the rest, in one softmax."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = 1.4426950408889634


def sparse_attention(
    q, k, v, mean_k, mean_v, dense, lists, taken, tail, starts, lengths, out, gate=None, coarse=None, block_size: int = 64
):  # fmt: skip
    """Fill `out` for the query blocks that are not `dense` (step 6 of section 3, and its residual).

    q, k, v, out [B, S, H, D] of any strides; mean_k, mean_v [G, N, D] in q's dtype, G = B*H; dense [G, N] bool;
    lists [G, N, E] int32, taken [G, N, T] uint8, tail [G, T] int32 block numbers; starts, lengths [N] int32;
    gate [B, S, 1, 1] with coarse [G, N, D], or neither.
    """
    batch, _, heads, dim = q.shape
    blocks, count, tails = len(starts), lists.shape[2], tail.shape[1]
    strides = [stride for x in (q, k, v, out) for stride in x.stride()]
    _sparse[(blocks, batch * heads)](
        q, k, v, mean_k, mean_v, dense, lists, taken, tail, starts, lengths, out,
        gate if gate is not None else q, coarse if gate is not None else mean_v,
        *strides, 0 if gate is None else gate.stride(0), 0 if gate is None else gate.stride(1),
        dim**-0.5 * LOG2E, heads, blocks, count, tails,
        GATED=gate is not None, DIM=dim, DIM_PAD=triton.next_power_of_2(dim), SLOTS=triton.next_power_of_2(block_size),
        TAIL_TILE=64, num_warps=4, num_stages=3 if q.element_size() < 4 else 1,
    )  # fmt: skip


@triton.jit
def _step(q, key, value, bias, scale, peak, total, acc):
    """One tile of the online softmax, in powers of two; bias is added to the scaled logits."""
    score = tl.dot(q, key) * scale + bias
    highest = tl.maximum(peak, tl.max(score, axis=1))
    shrink = tl.exp2(peak - highest)
    weight = tl.exp2(score - highest[:, None])
    acc = tl.dot(weight.to(value.dtype), value, acc * shrink[:, None])
    return highest, total * shrink + tl.sum(weight, axis=1), acc


@triton.jit
def _sparse(
    q, k, v, mean_k, mean_v, dense, lists, taken, tail, starts, lengths, out, gate, coarse,
    qb, qs, qh, qd, kb, ks, kh, kd, vb, vs, vh, vd, ob, os, oh, od, gb, gs,
    scale, heads, blocks, count, tails,
    GATED: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr, SLOTS: tl.constexpr, TAIL_TILE: tl.constexpr,
):  # fmt: skip
    row, group = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if tl.load(dense + group * blocks + row) == 0:
        b, h = group // heads, group % heads
        slot, channel = tl.arange(0, SLOTS), tl.arange(0, DIM_PAD)
        real = channel < DIM
        start, length = tl.load(starts + row).to(tl.int64), tl.load(lengths + row)
        rows = (slot < length)[:, None] & real[None]
        token = (start + slot)[:, None]
        query = tl.load(q + b * qb + h * qh + token * qs + channel[None] * qd, mask=rows, other=0.0)
        peak = tl.full([SLOTS], float("-inf"), tl.float32)
        total = tl.zeros([SLOTS], tl.float32)
        acc = tl.zeros([SLOTS, DIM_PAD], tl.float32)

        k_head, v_head = k + b * kb + h * kh, v + b * vb + h * vh
        for entry in range(count):
            block = tl.load(lists + (group * blocks + row) * count + entry)
            first, tokens = tl.load(starts + block).to(tl.int64), tl.load(lengths + block)
            inside = slot < tokens
            at = first + slot
            key = tl.load(k_head + at[None] * ks + channel[:, None] * kd, mask=inside[None] & real[:, None], other=0.0)
            value = tl.load(v_head + at[:, None] * vs + channel[None] * vd, mask=inside[:, None] & real[None], other=0.0)
            bias = tl.where(inside, 0.0, float("-inf"))[None]
            peak, total, acc = _step(query, key, value, bias, scale, peak, total, acc)

        for tile in range(0, tails, TAIL_TILE):
            item = tile + tl.arange(0, TAIL_TILE)
            listed = item < tails
            pooled = tl.load(tail + group * tails + item, mask=listed, other=0)
            used = tl.load(taken + (group * blocks + row) * tails + item, mask=listed, other=1)
            weight = tl.log2(tl.load(lengths + pooled).to(tl.float32))
            bias = tl.where(used == 0, weight, float("-inf"))[None]
            mean = (group * blocks + pooled) * DIM
            key = tl.load(mean_k + mean[None] + channel[:, None], mask=real[:, None], other=0.0)
            value = tl.load(mean_v + mean[:, None] + channel[None], mask=real[None], other=0.0)
            peak, total, acc = _step(query, key, value, bias, scale, peak, total, acc)

        acc = acc / total[:, None]
        if GATED:
            factor = tl.load(gate + b * gb + (start + slot) * gs, mask=slot < length, other=0.0).to(tl.float32)
            residual = tl.load(coarse + (group * blocks + row) * DIM + channel, mask=real, other=0.0).to(tl.float32)
            acc += factor[:, None] * residual[None]
        tl.store(out + b * ob + h * oh + token * os + channel[None] * od, acc.to(out.dtype.element_ty), mask=rows)
