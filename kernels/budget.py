"""A budget over heads: expected errors of all pairs of blocks, the least that is exact, and lists of those that reach it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .coarse import tile_of_products
from .select import sortable


def expected_errors(
    logits: torch.Tensor, norm: torch.Tensor, square_q: torch.Tensor, variance_k: torch.Tensor, listed: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:  # fmt: skip
    """`policies.error_aware.listed_error` from logits [G, R, N], in whose place they are returned.

    norm [G, R]: the logarithm of each row's sum of exponentials; square_q [G, R, D], variance_k [G, N, D]: means of squared
    queries and variances of keys of each block; listed [G, N] bool; weight [N]: tokens of a block over those of a full one. fp32.
    """
    heads, rows, blocks = logits.shape
    dim = square_q.shape[2]
    _errors[(triton.cdiv(blocks, 64), triton.cdiv(rows, 64), heads)](
        logits, norm, square_q, variance_k, listed, weight, rows, blocks,
        DIM=dim, DIM_PAD=max(16, triton.next_power_of_2(dim)), TILE=64, STEP=32 if dim % 32 == 0 else 16, num_warps=4,
    )  # fmt: skip
    return logits


@triton.jit(do_not_specialize=["rows", "blocks"])
def _errors(
    logits, norm, square_q, variance_k, is_listed, weight, rows, blocks,
    DIM: tl.constexpr, DIM_PAD: tl.constexpr, TILE: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1) * TILE + tl.arange(0, TILE)
    column = tl.program_id(0) * TILE + tl.arange(0, TILE)
    head = tl.program_id(2).to(tl.int64)
    spread = tile_of_products(square_q, variance_k, head, row, column, rows, blocks, DIM, DIM_PAD, TILE, STEP)
    inside = (row < rows)[:, None] & (column < blocks)[None]
    address = logits + (head * rows + row)[:, None] * blocks + column[None]
    log_sum = tl.load(norm + head * rows + row, mask=row < rows, other=0.0)
    tokens = tl.load(weight + column, mask=column < blocks, other=0.0)
    listed = tl.load(is_listed + head * blocks + column, mask=column < blocks, other=0)
    share = tl.exp(tl.load(address, mask=inside, other=0.0) - log_sum[:, None]) * tokens[None]
    error = share * tl.sqrt(tl.maximum(spread, 0.0) / DIM)
    tl.store(address, tl.where((listed != 0)[None], error, -1.0), mask=inside)


DIGIT = 8
"""Bits that one pass over all numbers decides."""


def kth_of_all(values: torch.Tensor, count: int) -> torch.Tensor:
    """values [B, M] fp32 -> [B] fp32, the `count` largest one of each row, 1 <= count <= M < 2^31.

    A radix selection: each pass counts the next bits of the numbers that begin like the one sought.
    """
    batch, total = values.shape
    found = torch.zeros(batch, device=values.device, dtype=torch.int32)
    left = torch.full_like(found, count)
    tile, tiles = 1024, 16
    for shift in range(32 - DIGIT, -1, -DIGIT):
        counts = torch.zeros(batch, 2**DIGIT, device=values.device, dtype=torch.int32)
        _count[(triton.cdiv(total, tile * tiles), batch)](
            values, found, counts, total, SHIFT=shift, DIGIT=DIGIT, TILE=tile, TILES=tiles, num_warps=4
        )
        _decide[(batch,)](counts, found, left, SHIFT=shift, DIGIT=DIGIT, num_warps=4)
    result = torch.empty(batch, device=values.device, dtype=torch.float32)
    _unsortable[(batch,)](found, result)
    return result


@triton.jit(do_not_specialize=["total"])
def _count(values, found, counts, total, SHIFT: tl.constexpr, DIGIT: tl.constexpr, TILE: tl.constexpr, TILES: tl.constexpr):
    batch = tl.program_id(1).to(tl.int64)
    known = tl.load(found + batch).to(tl.uint32, bitcast=True)
    histogram = tl.zeros([1 << (DIGIT + 1)], tl.int32)
    for turn in range(TILES):
        place = (tl.program_id(0).to(tl.int64) * TILES + turn) * TILE + tl.arange(0, TILE)
        key = sortable(tl.load(values + batch * total + place, mask=place < total, other=0.0))
        digit = (key >> SHIFT) & ((1 << DIGIT) - 1)
        alike = place < total
        if SHIFT < 32 - DIGIT:
            alike = alike & (key >> (SHIFT + DIGIT) == known >> (SHIFT + DIGIT))
        # Numbers that are out of the running go to a bin that nobody reads.
        histogram += tl.histogram(tl.where(alike, digit, 1 << DIGIT).to(tl.int32), 1 << (DIGIT + 1))
    bin = tl.arange(0, 1 << (DIGIT + 1))
    tl.atomic_add(counts + batch * (1 << DIGIT) + bin, histogram, mask=(bin < 1 << DIGIT) & (histogram > 0), sem="relaxed")


@triton.jit
def _decide(counts, found, left, SHIFT: tl.constexpr, DIGIT: tl.constexpr):
    """The largest digit that, with all larger ones, covers what is left; it joins what is found."""
    batch = tl.program_id(0)
    bin = tl.arange(0, 1 << DIGIT)
    count = tl.load(counts + batch * (1 << DIGIT) + bin)
    wanted = tl.load(left + batch)
    at_least = tl.cumsum(count, axis=0, reverse=True)
    digit = tl.max(tl.where(at_least >= wanted, bin, 0), axis=0)
    larger = tl.sum(tl.where(bin > digit, count, 0), axis=0)
    tl.store(found + batch, tl.load(found + batch) | (digit << SHIFT))
    tl.store(left + batch, wanted - larger)


@triton.jit
def _unsortable(found, result):
    """The fp32 number that `sortable` made a number of."""
    bits = tl.load(found + tl.program_id(0)).to(tl.uint32, bitcast=True)
    bits = tl.where(bits >> 31 == 1, bits & 0x7FFFFFFF, bits ^ 0xFFFFFFFF)
    tl.store(result + tl.program_id(0), bits.to(tl.float32, bitcast=True))


def lists_above(
    errors: torch.Tensor, threshold: torch.Tensor, listed: torch.Tensor, lengths: torch.Tensor, block_size: int, tail: int,
    longest: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Per row the listed blocks whose error [G, R, N] is at least the threshold [B] of the head's batch element, and marks of them.

    listed [G, L] int32 ascending, lengths [N] int32; `tail` is L when the tail is the list itself, N when it is every block; no
    row has more than `longest`, L where None.
    Returns lists [G, R, longest] int32 (int16 where it holds N), full blocks first and ragged ones last, both ascending, then N; full,
    counts and tokens [G, R] int32: its full blocks (0 where a block does not fill the sparse kernel's tile), all blocks,
    and their tokens; and taken [G, R, tail] uint8, 1 where a tail entry is in the row's list.
    """
    heads, rows, blocks = errors.shape
    length = listed.shape[1]
    longest = length if longest is None else longest
    lists = torch.full(
        (heads, rows, longest), blocks, device=errors.device, dtype=torch.int16 if blocks < 2**15 else torch.int32
    )
    full, counts, tokens = (torch.empty(heads, rows, device=errors.device, dtype=torch.int32) for _ in range(3))
    taken = (torch.empty if tail == length else torch.zeros)(heads, rows, tail, device=errors.device, dtype=torch.uint8)
    _above[(rows, heads)](
        errors, threshold, listed, lengths, lists, full, counts, tokens, taken, heads // len(threshold), rows, blocks, length, longest, tail,
        TAIL_IS_LIST=tail == length, FULL=max(16, triton.next_power_of_2(block_size)), LENGTH_PAD=triton.next_power_of_2(length), num_warps=4,
    )  # fmt: skip
    return lists, full, counts, tokens, taken


@triton.jit
def _above(
    errors, threshold, listed, lengths, lists, full, counts, tokens, taken, heads, rows, blocks, length, longest, tail,
    TAIL_IS_LIST: tl.constexpr, FULL: tl.constexpr, LENGTH_PAD: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    position = tl.arange(0, LENGTH_PAD)
    inside = position < length
    block = tl.load(listed + head * length + position, mask=inside, other=0)
    error = tl.load(errors + (head * rows + row) * blocks + block, mask=inside, other=-1.0)
    chosen = inside & (error >= tl.maximum(tl.load(threshold + head // heads), 0.0))
    size = tl.where(chosen, tl.load(lengths + block, mask=inside, other=0), 0)
    is_full = (size == FULL).to(tl.int32)
    ragged = chosen.to(tl.int32) - is_full
    all_full = tl.sum(is_full, axis=0)
    place = tl.where(is_full == 1, tl.cumsum(is_full, axis=0), all_full + tl.cumsum(ragged, axis=0)) - 1
    tl.store(lists + (head * rows + row) * longest + place, block.to(lists.dtype.element_ty), mask=chosen)
    tl.store(full + head * rows + row, all_full)
    tl.store(counts + head * rows + row, tl.sum(chosen.to(tl.int32), axis=0))
    tl.store(tokens + head * rows + row, tl.sum(size, axis=0))
    slot = position if TAIL_IS_LIST else block
    tl.store(taken + (head * rows + row) * tail + slot, chosen.to(tl.uint8), mask=inside)
