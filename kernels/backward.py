"""Gradients of the sparse group: weights are recomputed tile by tile, and one program computes each sum (no atomics)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .softmax import LOG2E

TAIL_TILE = 64

PROGRAMS = 512
"""With fewer programs than this, the sum over query blocks for the means is split among more programs."""


def sparse_attention_backward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mean_k: torch.Tensor, mean_v: torch.Tensor, dense: torch.Tensor,
    lists: torch.Tensor, counts: torch.Tensor, taken: torch.Tensor, tail: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor,
    out: torch.Tensor, log_sum: torch.Tensor, d_out: torch.Tensor, block_size: int = 64,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of `sparse_attention` without its gated residual -> (dq, dk, dv like q, k, v; d_mean_k, d_mean_v [G, N, D] fp32).

    q, k, v, out, d_out [B, S, H, D] of any strides; mean_k, mean_v [G, N, D] in q's dtype, G = B*H; dense [G, N] bool;
    lists [G, N, E] int16 or int32 of counts [G, N] blocks each, then N; taken [G, N, T] uint8, tail [G, T] int32 distinct block numbers; starts, lengths [N] int32;
    log_sum [B, H, S] fp32, contiguous: log2 of each query's softmax denominator. Dense query blocks are not
    read, and their rows of dq are zero. The means are separate inputs: dk and dv hold only the exact part, and
    `spread_means` adds the rest once d_mean_k and d_mean_v are complete.
    """
    batch, _, heads, dim = q.shape
    blocks, longest, tails = len(starts), lists.shape[2], tail.shape[1]
    slots = max(16, triton.next_power_of_2(block_size))
    if q.element_size() == 4:
        # No tensor cores: the product is unrolled over the threads and takes half a minute to compile with few threads.
        launch = {"num_warps": min(16, slots // 4), "num_stages": 1}
    else:
        launch = {"num_warps": 4 if slots <= 64 else 8, "num_stages": 3}
    tile = {"DIM": dim, "DIM_PAD": max(16, triton.next_power_of_2(dim)), "SLOTS": slots, **launch}
    mean_k, mean_v = mean_k.contiguous(), mean_v.contiguous()
    queries = q, d_out, log_sum
    query_strides = *q.stride(), *d_out.stride()
    sizes = dim**-0.5, q.shape[1], heads, blocks

    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    delta = torch.empty(log_sum.shape, device=q.device, dtype=torch.float32)
    _queries[(blocks, batch * heads)](
        *queries, delta, out, k, v, mean_k, mean_v, dense, lists, counts, taken, tail, starts, lengths, dq,
        *query_strides, *out.stride(), *k.stride(), *v.stride(), *dq.stride(), *sizes, longest, tails,
        TAIL_TILE=TAIL_TILE, **tile,
    )  # fmt: skip
    _keys[(blocks, batch * heads)](
        *queries, delta, k, v, *_listed_by(lists, dense), starts, lengths, dk, dv,
        *query_strides, *k.stride(), *v.stride(), *dk.stride(), *dv.stride(), *sizes, **tile,
    )  # fmt: skip

    tiles = triton.cdiv(tails, TAIL_TILE)
    parts = min(triton.cdiv(blocks, 8), triton.cdiv(PROGRAMS, max(1, tiles * batch * heads)))
    d_means = torch.zeros(2, parts, batch * heads, blocks, dim, device=q.device, dtype=torch.float32)
    if tails:
        _means[(tiles, batch * heads, parts)](
            *queries, delta, mean_k, mean_v, *_sparse_rows(dense), taken, tail, starts, lengths, *d_means,
            *query_strides, *sizes, tails, TAIL_TILE=TAIL_TILE, **tile,
        )  # fmt: skip
    d_mean_k, d_mean_v = d_means[:, 0] if parts == 1 else d_means.sum(1)
    return dq, dk, dv, d_mean_k, d_mean_v


def spread_means(
    d_mean: torch.Tensor, d_x: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, block_size: int = 64
) -> None:
    """The gradient of `pool_blocks`: adds d_mean [G, N, D] fp32 to d_x [B, S, H, D], distributed equally over the tokens of each block."""
    batch, _, heads, dim = d_x.shape
    blocks = len(starts)
    _spread[(blocks, batch * heads)](
        d_mean.contiguous(), d_x, starts, lengths, *d_x.stride(), heads, blocks,
        DIM=dim, DIM_PAD=triton.next_power_of_2(dim), SLOTS=triton.next_power_of_2(block_size), num_warps=4,
    )  # fmt: skip


def _listed_by(lists: torch.Tensor, dense: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of the lists of sparse rows, without a read-back -> (rows [G*N*E] int32, ends [G*N + 1] int64).

    Block j of head g is in the lists of rows[ends[g*N + j] : ends[g*N + j + 1]], in ascending order.
    """
    heads, blocks, longest = lists.shape
    head = torch.arange(heads, device=lists.device, dtype=torch.int32)[:, None, None]
    # Dense rows have no list: their entries are sorted behind all others, as those past the end of a list.
    block = (lists + head * blocks).masked_fill(dense[:, :, None] | (lists == blocks), heads * blocks)
    block, entry = block.flatten().sort(stable=True)
    ends = torch.searchsorted(block, torch.arange(heads * blocks + 1, device=lists.device, dtype=torch.int32))
    return (entry // max(1, longest) % blocks).int(), ends


def _sparse_rows(dense: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """dense [G, N] -> (rows [G, N] int32 with each head's sparse ones first, ascending; their count [G] int32)."""
    rows = dense.to(torch.uint8).sort(dim=1, stable=True).indices.int()
    return rows, (~dense).sum(1, dtype=torch.int32)


@triton.jit
def _tile(x, token, channel, token_stride, channel_stride, real):
    """Tokens of one head as a matrix; padded channels are zeros."""
    return tl.load(x + token[:, None] * token_stride + channel[None] * channel_stride, mask=real[None], other=0.0)


@triton.jit
def _query_tile(q, d_out, log_sum, delta, start, length, slot, channel, real, qs, qd, gs, gd):
    """A query block of one head: (queries, their outputs' gradients, log_sum, delta)."""
    # Slots past a ragged block read its last token again; an infinite sum sets their weight to 0.
    token = start.to(tl.int64) + tl.minimum(slot, length - 1)
    query, grad = _tile(q, token, channel, qs, qd, real), _tile(d_out, token, channel, gs, gd, real)
    sums = tl.load(log_sum + token, mask=slot < length, other=float("inf"))
    return query, grad, sums, tl.load(delta + token)


@triton.jit
def _query_step(query, grad, log_sum, delta, key, value, bias, scale, d_query):
    """The contribution of one tile of keys to the gradient of queries, without the factor `scale`. bias: one per key, in powers of two."""
    score = tl.dot(query, tl.trans(key), input_precision="ieee") * (scale * LOG2E) + bias[None]
    weight = tl.exp2(score - log_sum[:, None])
    d_weight = tl.dot(grad, tl.trans(value), input_precision="ieee")
    d_score = weight * (d_weight - delta[:, None])
    return tl.dot(d_score.to(key.dtype), key, d_query, input_precision="ieee")


@triton.jit
def _key_step(query, grad, log_sum, delta, key, value, bias, scale, d_key, d_value):
    """The contribution of one tile of queries to the gradients of keys and values, without the factor `scale` of the keys'.

    Weights are made with keys as rows: transposing an accumulator for the products with them is miscompiled (Triton <= 3.7).
    """
    score = tl.dot(key, tl.trans(query), input_precision="ieee") * (scale * LOG2E) + bias[:, None]
    weight = tl.exp2(score - log_sum[None])
    d_value = tl.dot(weight.to(grad.dtype), grad, d_value, input_precision="ieee")
    d_weight = tl.dot(value, tl.trans(grad), input_precision="ieee")
    d_score = weight * (d_weight - delta[None])
    return tl.dot(d_score.to(query.dtype), query, d_key, input_precision="ieee"), d_value


@triton.jit
def _queries(
    q, d_out, log_sum, delta, out, k, v, mean_k, mean_v, dense, lists, counts, taken, tail, starts, lengths, dq,
    qb, qs, qh, qd, gb, gs, gh, gd, ob, os, oh, od, kb, ks, kh, kd, vb, vs, vh, vd, dqb, dqs, dqh, dqd,
    scale, tokens, heads, blocks, longest, tails,
    TAIL_TILE: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """dq of one query block, and its queries' delta: the sum of output times gradient, which the other kernels need."""
    row, group = tl.program_id(0), tl.program_id(1).to(tl.int64)
    b, h = group // heads, group % heads
    slot, channel = tl.arange(0, SLOTS), tl.arange(0, DIM_PAD)
    real = channel < DIM
    start, length = tl.load(starts + row).to(tl.int64), tl.load(lengths + row)
    inside = slot < length
    rows = inside[:, None] & real[None]
    token = (start + slot)[:, None]
    acc = tl.zeros([SLOTS, DIM_PAD], tl.float32)
    if tl.load(dense + group * blocks + row) == 0:
        query = tl.load(q + b * qb + h * qh + token * qs + channel[None] * qd, mask=rows, other=0.0)
        grad = tl.load(d_out + b * gb + h * gh + token * gs + channel[None] * gd, mask=rows, other=0.0)
        result = tl.load(out + b * ob + h * oh + token * os + channel[None] * od, mask=rows, other=0.0)
        change = tl.sum(result.to(tl.float32) * grad.to(tl.float32), axis=1)
        tl.store(delta + group * tokens + start + slot, change, mask=inside)
        sums = tl.load(log_sum + group * tokens + start + slot, mask=inside, other=float("inf"))

        k_head, v_head = k + b * kb + h * kh, v + b * vb + h * vh
        for entry in range(tl.load(counts + group * blocks + row)):
            block = tl.load(lists + (group * blocks + row) * longest + entry)
            first, size = tl.load(starts + block), tl.load(lengths + block)
            # Slots past a ragged block read its last token again; the bias removes them.
            at = first.to(tl.int64) + tl.minimum(slot, size - 1)
            bias = tl.where(slot < size, 0.0, float("-inf"))
            key, value = _tile(k_head, at, channel, ks, kd, real), _tile(v_head, at, channel, vs, vd, real)
            acc = _query_step(query, grad, sums, change, key, value, bias, scale, acc)

        for tile in range(0, tails, TAIL_TILE):
            item = tile + tl.arange(0, TAIL_TILE)
            listed = item < tails
            pooled = tl.load(tail + group * tails + item, mask=listed, other=0)
            used = tl.load(taken + (group * blocks + row) * tails + item, mask=listed, other=1)
            bias = tl.where(used == 0, tl.log2(tl.load(lengths + pooled).to(tl.float32)), float("-inf"))
            mean = group * blocks + pooled
            key, value = _tile(mean_k, mean, channel, DIM, 1, real), _tile(mean_v, mean, channel, DIM, 1, real)
            acc = _query_step(query, grad, sums, change, key, value, bias, scale, acc)
    tl.store(dq + b * dqb + h * dqh + token * dqs + channel[None] * dqd, (acc * scale).to(dq.dtype.element_ty), mask=rows)


@triton.jit
def _keys(
    q, d_out, log_sum, delta, k, v, listed_by, ends, starts, lengths, dk, dv,
    qb, qs, qh, qd, gb, gs, gh, gd, kb, ks, kh, kd, vb, vs, vh, vd, dkb, dks, dkh, dkd, dvb, dvs, dvh, dvd,
    scale, tokens, heads, blocks,
    DIM: tl.constexpr, DIM_PAD: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """dk and dv of one KV block: a sum over the query blocks that list it."""
    block, group = tl.program_id(0), tl.program_id(1).to(tl.int64)
    b, h = group // heads, group % heads
    slot, channel = tl.arange(0, SLOTS), tl.arange(0, DIM_PAD)
    real = channel < DIM
    first, size = tl.load(starts + block).to(tl.int64), tl.load(lengths + block)
    # Slots past a ragged block compute its last token's gradient again, which is not stored.
    at = first + tl.minimum(slot, size - 1)
    key, value = _tile(k + b * kb + h * kh, at, channel, ks, kd, real), _tile(v + b * vb + h * vh, at, channel, vs, vd, real)
    d_key, d_value = tl.zeros([SLOTS, DIM_PAD], tl.float32), tl.zeros([SLOTS, DIM_PAD], tl.float32)
    bias = tl.zeros([SLOTS], tl.float32)

    q_head, grad_head = q + b * qb + h * qh, d_out + b * gb + h * gh
    sum_head, delta_head = log_sum + group * tokens, delta + group * tokens
    begin = tl.load(ends + group * blocks + block)
    listings = (tl.load(ends + group * blocks + block + 1) - begin).to(tl.int32)
    for entry in range(listings):
        row = tl.load(listed_by + begin + entry)
        start, length = tl.load(starts + row), tl.load(lengths + row)
        query, grad, sums, change = _query_tile(
            q_head, grad_head, sum_head, delta_head, start, length, slot, channel, real, qs, qd, gs, gd
        )
        d_key, d_value = _key_step(query, grad, sums, change, key, value, bias, scale, d_key, d_value)

    written, token = (slot < size)[:, None] & real[None], (first + slot)[:, None]
    place = b * dkb + h * dkh + token * dks + channel[None] * dkd
    tl.store(dk + place, (d_key * scale).to(dk.dtype.element_ty), mask=written)
    place = b * dvb + h * dvh + token * dvs + channel[None] * dvd
    tl.store(dv + place, d_value.to(dv.dtype.element_ty), mask=written)


@triton.jit
def _means(
    q, d_out, log_sum, delta, mean_k, mean_v, sparse, sparse_count, taken, tail, starts, lengths, d_mean_k, d_mean_v,
    qb, qs, qh, qd, gb, gs, gh, gd, scale, tokens, heads, blocks, tails,
    TAIL_TILE: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """One part of the sum over sparse query blocks that is the gradient of a tile of the tail's means."""
    group, part, parts = tl.program_id(1).to(tl.int64), tl.program_id(2), tl.num_programs(2)
    b, h = group // heads, group % heads
    slot, channel = tl.arange(0, SLOTS), tl.arange(0, DIM_PAD)
    real = channel < DIM
    item = tl.program_id(0) * TAIL_TILE + tl.arange(0, TAIL_TILE)
    listed = item < tails
    pooled = tl.load(tail + group * tails + item, mask=listed, other=0)
    weight = tl.log2(tl.load(lengths + pooled).to(tl.float32))
    mean = group * blocks + pooled
    key, value = _tile(mean_k, mean, channel, DIM, 1, real), _tile(mean_v, mean, channel, DIM, 1, real)
    d_key, d_value = tl.zeros([TAIL_TILE, DIM_PAD], tl.float32), tl.zeros([TAIL_TILE, DIM_PAD], tl.float32)

    q_head, grad_head = q + b * qb + h * qh, d_out + b * gb + h * gh
    sum_head, delta_head = log_sum + group * tokens, delta + group * tokens
    for turn in range(part, tl.load(sparse_count + group), parts):
        row = tl.load(sparse + group * blocks + turn)
        used = tl.load(taken + (group * blocks + row) * tails + item, mask=listed, other=1)
        bias = tl.where(used == 0, weight, float("-inf"))
        start, length = tl.load(starts + row), tl.load(lengths + row)
        query, grad, sums, change = _query_tile(
            q_head, grad_head, sum_head, delta_head, start, length, slot, channel, real, qs, qd, gs, gd
        )
        d_key, d_value = _key_step(query, grad, sums, change, key, value, bias, scale, d_key, d_value)

    place = (part.to(tl.int64) * tl.num_programs(1) * blocks + mean)[:, None] * DIM + channel[None]
    tl.store(d_mean_k + place, d_key * scale, mask=listed[:, None] & real[None])
    tl.store(d_mean_v + place, d_value, mask=listed[:, None] & real[None])


@triton.jit
def _spread(
    d_mean, d_x, starts, lengths, stride_b, stride_s, stride_h, stride_d, heads, blocks,
    DIM: tl.constexpr, DIM_PAD: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    block, group = tl.program_id(0), tl.program_id(1).to(tl.int64)
    slot, channel = tl.arange(0, SLOTS), tl.arange(0, DIM_PAD)
    real = channel < DIM
    start, length = tl.load(starts + block).to(tl.int64), tl.load(lengths + block)
    share = tl.load(d_mean + (group * blocks + block) * DIM + channel, mask=real, other=0.0) / length
    address = d_x + (group // heads) * stride_b + (group % heads) * stride_h
    address += (start + slot)[:, None] * stride_s + channel[None] * stride_d
    written = (slot < length)[:, None] & real[None]
    total = tl.load(address, mask=written, other=0.0).to(tl.float32) + share[None]
    tl.store(address, total.to(d_x.dtype.element_ty), mask=written)
