"""Attention of composite tokens, several means to a block, summed over pairs of blocks; and the fewest blocks that hold a share of a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .select import sortable

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


def fewest(shares: torch.Tensor, groups: torch.Tensor, share: float, longest: int) -> torch.Tensor:
    """shares [G, R, N] fp32, at least 0 -> [G, R, N] int8: 1 at the fewest largest of each row and group that hold `share` of the group's sum.

    groups: [K + 1] int32, first block of each of K groups and the end; the longest has `longest` blocks. Equal values are taken
    or left together. A block is always taken for itself.
    """
    heads, rows, blocks = shares.shape
    chosen = torch.empty(heads, rows, blocks, device=shares.device, dtype=torch.int8)
    _fewest[(rows, heads, len(groups) - 1)](
        shares, groups, chosen, share, rows, blocks, LENGTH_PAD=triton.next_power_of_2(longest), num_warps=4
    )
    return chosen


@triton.jit(do_not_specialize=["share", "rows", "blocks"])
def _fewest(shares, groups, chosen, share, rows, blocks, LENGTH_PAD: tl.constexpr):
    row, head, group = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    block = tl.load(groups + group) + tl.arange(0, LENGTH_PAD)
    inside = block < tl.load(groups + group + 1)
    value = tl.load(shares + (head * rows + row) * blocks + block, mask=inside, other=0.0)
    wanted = share * tl.sum(value, axis=0)
    key = tl.where(inside, sortable(value), 0)
    # The highest key whose equals and betters hold enough, bit by bit.
    least = tl.full([], 0, tl.uint32)
    for step in range(32):
        candidate = least | (tl.full([], 0x80000000, tl.uint32) >> step)
        enough = tl.sum(tl.where(key >= candidate, value, 0.0), axis=0) >= wanted
        least = tl.where(enough, candidate, least)
    taken = (key >= least) | (block == row)
    tl.store(chosen + (head * rows + row) * blocks + block, taken.to(tl.int8), mask=inside)
