"""Attention of composite tokens, several means to a block, summed over pairs of blocks; and the largest of each segment."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .select import largest

TILE = 64


def composite_shares(means_q: torch.Tensor, means_k: torch.Tensor, log_tokens: torch.Tensor, per_block: int) -> torch.Tensor:
    """means_q [G, R·C, D], means_k [G, N·C, D], C = `per_block` composite tokens of every block -> [G, R, N] fp32.

    Each row of composite queries is a softmax over all composite keys, which weigh as many tokens as they stand for; a cell is
    the sum over a pair of blocks. log_tokens: [N·C] fp32, natural; -inf where a ragged block has fewer. Queries are the first
    blocks of all. The logits are computed twice instead of stored. C is a power of two, at most 64.
    """
    heads, rows, dim = means_q.shape
    columns = means_k.shape[1]
    norms = torch.empty(heads, rows, device=means_q.device, dtype=torch.float32)
    shares = torch.empty(heads, rows // per_block, columns // per_block, device=means_q.device, dtype=torch.float32)
    options = dict(DIM=dim, DIM_PAD=max(16, triton.next_power_of_2(dim)), TILE=TILE, num_warps=4)
    tiles = triton.cdiv(rows, TILE)
    _norms[(tiles, heads)](means_q, means_k, log_tokens, norms, dim**-0.5, rows, columns, **options)
    _shares[(triton.cdiv(columns, TILE), tiles, heads)](
        means_q, means_k, log_tokens, norms, shares, dim**-0.5, rows, columns, PER_BLOCK=per_block, **options
    )
    return shares


@triton.jit
def _loaded(x, head, item, count, DIM: tl.constexpr, DIM_PAD: tl.constexpr):
    channel = tl.arange(0, DIM_PAD)
    inside = (item < count)[:, None] & (channel < DIM)[None]
    return tl.load(x + (head * count + item)[:, None] * DIM + channel[None], mask=inside, other=0.0)


@triton.jit
def _scores(query, k, log_tokens, head, column, columns, scale, DIM: tl.constexpr, DIM_PAD: tl.constexpr):
    """[TILE, TILE] logits, with the logarithm of the key's tokens; -inf past the last."""
    key = _loaded(k, head, column, columns, DIM, DIM_PAD)
    weight = tl.load(log_tokens + column, mask=column < columns, other=float("-inf"))
    return tl.dot(query, key.T, input_precision="tf32x3") * scale + weight[None]


@triton.jit(do_not_specialize=["rows", "columns"])
def _norms(q, k, log_tokens, norms, scale, rows, columns, DIM: tl.constexpr, DIM_PAD: tl.constexpr, TILE: tl.constexpr):
    head, row = tl.program_id(1).to(tl.int64), tl.program_id(0) * TILE + tl.arange(0, TILE)
    query = _loaded(q, head, row, rows, DIM, DIM_PAD)
    peak = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    for first in tl.range(0, columns, TILE):
        score = _scores(query, k, log_tokens, head, first + tl.arange(0, TILE), columns, scale, DIM, DIM_PAD)
        higher = tl.maximum(peak, tl.max(score, axis=1))
        total = total * tl.exp(peak - higher) + tl.sum(tl.exp(score - higher[:, None]), axis=1)
        peak = higher
    tl.store(norms + head * rows + row, peak + tl.log(total), mask=row < rows)


@triton.jit(do_not_specialize=["rows", "columns"])
def _shares(
    q, k, log_tokens, norms, shares, scale, rows, columns,
    PER_BLOCK: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(2).to(tl.int64)
    row, column = (tl.program_id(1) * TILE + tl.arange(0, TILE)), (tl.program_id(0) * TILE + tl.arange(0, TILE))
    query = _loaded(q, head, row, rows, DIM, DIM_PAD)
    score = _scores(query, k, log_tokens, head, column, columns, scale, DIM, DIM_PAD)
    norm = tl.load(norms + head * rows + row, mask=row < rows, other=0.0)
    # A composite query that stands for no token has no say.
    stands = tl.load(log_tokens + row, mask=row < rows, other=float("-inf")) > float("-inf")
    share = tl.where(stands[:, None], tl.exp(score - norm[:, None]), 0.0)
    BLOCKS: tl.constexpr = TILE // PER_BLOCK
    cell = tl.sum(tl.sum(tl.reshape(share, [BLOCKS, PER_BLOCK, BLOCKS, PER_BLOCK]), axis=3), axis=1)
    block_row = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    inside = (block_row < rows // PER_BLOCK)[:, None] & (block < columns // PER_BLOCK)[None]
    address = shares + (head * (rows // PER_BLOCK) + block_row)[:, None] * (columns // PER_BLOCK) + block[None]
    tl.store(address, cell, mask=inside)


def keep_largest(shares: torch.Tensor, bounds: torch.Tensor, counts: torch.Tensor, longest: int) -> torch.Tensor:
    """shares [G, R, N] fp32, at least 0: in their place -1 at all but the largest of each row and segment; ties go to the earlier.

    bounds [K + 1] int32: first block of each of K segments, and the end; counts [K] int32: how many of each stay; the longest
    segment has `longest` blocks.
    """
    heads, rows, blocks = shares.shape
    _largest[(rows, heads, len(counts))](
        shares, bounds, counts, rows, blocks, LENGTH_PAD=triton.next_power_of_2(longest), num_warps=4
    )
    return shares


@triton.jit(do_not_specialize=["rows", "blocks"])
def _largest(shares, bounds, counts, rows, blocks, LENGTH_PAD: tl.constexpr):
    row, head, segment = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    block = tl.load(bounds + segment) + tl.arange(0, LENGTH_PAD)
    inside = block < tl.load(bounds + segment + 1)
    address = shares + (head * rows + row) * blocks + block
    chosen = largest(tl.load(address, mask=inside, other=0.0), inside, tl.load(counts + segment))
    tl.store(address, -1.0, mask=inside & (chosen == 0))
