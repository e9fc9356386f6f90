"""Exact attention over each query block's list and 0-th order Taylor attention over the rest, in one softmax."""

from __future__ import annotations

import torch
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
    tma = _takes_bulk_copies(k) and _takes_bulk_copies(v) and block_size in (16, 32, 64, 128)
    if tma:
        from triton.tools.tensor_descriptor import TensorDescriptor

        shape = [1, block_size, 1, dim]
        keys, values = (TensorDescriptor(x, list(x.shape), list(x.stride()), shape) for x in (k, v))
    else:
        keys, values = k, v
    _sparse[(blocks, batch * heads)](
        q, keys, values, mean_k, mean_v, dense, lists, taken, tail, starts, lengths, out,
        gate if gate is not None else q, coarse if gate is not None else mean_v,
        *strides, 0 if gate is None else gate.stride(0), 0 if gate is None else gate.stride(1),
        dim**-0.5 * LOG2E, heads, blocks, count, tails,
        TMA=tma, GATED=gate is not None, DIM=dim, DIM_PAD=max(16, triton.next_power_of_2(dim)), SLOTS=max(16, triton.next_power_of_2(block_size)),
        TAIL_TILE=64, num_warps=4, num_stages=2 if tma or q.element_size() == 4 else 3,
    )  # fmt: skip


def _takes_bulk_copies(x: torch.Tensor) -> bool:
    """Hopper's and later bulk copies: contiguous channels, a power of two of them, every other stride a multiple of 16 bytes."""
    if x.device.type != "cuda" or torch.version.hip or torch.cuda.get_device_capability(x.device) < (9, 0):
        return False
    aligned = x.data_ptr() % 16 == 0 and all(stride * x.element_size() % 16 == 0 for stride in x.stride()[:3])
    return x.stride(3) == 1 and aligned and x.shape[3] in (16, 32, 64, 128, 256)


@triton.jit
def _step(q, key, value, bias, scale, peak, total, acc):
    """One tile of the online softmax, in powers of two; bias is added to the scaled logits."""
    score = tl.dot(q, key, input_precision="ieee") * scale + bias
    highest = tl.maximum(peak, tl.max(score, axis=1))
    shrink = tl.exp2(peak - highest)
    weight = tl.exp2(score - highest[:, None])
    acc = tl.dot(weight.to(value.dtype), value, acc * shrink[:, None], input_precision="ieee")
    return highest, total * shrink + tl.sum(weight, axis=1), acc


@triton.jit
def _sparse(
    q, k, v, mean_k, mean_v, dense, lists, taken, tail, starts, lengths, out, gate, coarse,
    qb, qs, qh, qd, kb, ks, kh, kd, vb, vs, vh, vd, ob, os, oh, od, gb, gs,
    scale, heads, blocks, count, tails,
    TMA: tl.constexpr, GATED: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr, SLOTS: tl.constexpr, TAIL_TILE: tl.constexpr,
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

        b32, h32 = b.to(tl.int32), h.to(tl.int32)
        if not TMA:
            k_head, v_head = k + b * kb + h * kh, v + b * vb + h * vh
        for entry in range(count):
            block = tl.load(lists + (group * blocks + row) * count + entry)
            first, tokens = tl.load(starts + block), tl.load(lengths + block)
            bias = tl.where(slot < tokens, 0.0, float("-inf"))[None]
            if TMA:
                # Slots past a ragged block read the next group's tokens, or zeros past the end; the bias removes them.
                key = tl.reshape(k.load([b32, first, h32, 0]), [SLOTS, DIM]).T
                value = tl.reshape(v.load([b32, first, h32, 0]), [SLOTS, DIM])
            else:
                # Slots past a ragged block read its last token again, so that no load needs a mask.
                at = first.to(tl.int64) + tl.minimum(slot, tokens - 1)
                key = tl.load(k_head + at[None] * ks + channel[:, None] * kd, mask=real[:, None], other=0.0)
                value = tl.load(v_head + at[:, None] * vs + channel[None] * vd, mask=real[None], other=0.0)
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
