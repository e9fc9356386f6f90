"""The k largest of a row, and the lists over which the sparse kernel loops."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def sortable(x):
    """fp32 -> uint32 above 0 in the same order."""
    bits = x.to(tl.uint32, bitcast=True)
    return tl.where(bits >> 31 == 1, bits ^ 0xFFFFFFFF, bits | 0x80000000)


@triton.jit
def kth_largest(key, k):
    """The k-th largest of a row of uint32, k >= 1, found bit by bit from the highest."""
    least = tl.full([], 0, tl.uint32)
    # Not unrolled: an unrolled loop would compile for seconds at every new length.
    for step in range(32):
        candidate = least | (tl.full([], 0x80000000, tl.uint32) >> step)
        enough = tl.sum((key >= candidate).to(tl.int32), axis=0) >= k
        least = tl.where(enough, candidate, least)
    return least


@triton.jit
def largest(value, inside, count):
    """True at the `count` largest values among those `inside` a row; ties go to the earlier."""
    key = tl.where(inside, sortable(value), 0)
    # With a count of 0 the threshold is the highest possible key, which no finite value has.
    least = tl.where(count > 0, kth_largest(key, count), 0xFFFFFFFF)
    above = (key > least) & inside
    ties = count - tl.sum(above.to(tl.int32), axis=0)
    tied = ((key == least) & inside).to(tl.int32)
    return above | ((tied == 1) & (tl.cumsum(tied, axis=0) <= ties))


def top_blocks(values: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """values [G, M] fp32 -> (mask [G, M] bool of the `count` largest of each row, their positions [G, count] int32, ascending)."""
    heads, length = values.shape
    mask = torch.empty(heads, length, device=values.device, dtype=torch.bool)
    positions = torch.empty(heads, count, device=values.device, dtype=torch.int32)
    if length:
        _top[(heads,)](values, mask, positions, length, count, LENGTH_PAD=triton.next_power_of_2(length), num_warps=4)
    return mask, positions


@triton.jit(do_not_specialize=["length", "count"])
def _top(values, mask, positions, length, count, LENGTH_PAD: tl.constexpr):
    head = tl.program_id(0).to(tl.int64)
    position = tl.arange(0, LENGTH_PAD)
    inside = position < length
    chosen = largest(tl.load(values + head * length + position, mask=inside, other=0.0), inside, count)
    tl.store(mask + head * length + position, chosen.to(tl.int8), mask=inside)
    place = tl.cumsum(chosen.to(tl.int32), axis=0) - 1
    tl.store(positions + head * count + place, position, mask=chosen)


def exact_lists(
    logits: torch.Tensor, listed: torch.Tensor, dense: torch.Tensor, lengths: torch.Tensor, block_size: int, count: int, tail: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Per sparse row the `count` listed blocks with the highest logit (ties go to the earlier one), and marks of them.

    logits [G, R, N] fp32, listed [G, L] int32 ascending, dense [G, R] bool, lengths [N] int32. `tail` is L when the
    tail is the list itself, N when it is every block.
    Returns lists [G, R, count] int32, full blocks first and ragged ones last, both ascending; full [G, R] int32, the
    number of full ones, 0 where a block does not fill the sparse kernel's tile; and taken [G, R, tail] uint8, 1 where a tail entry is in the row's list.
    Rows of dense query blocks hold nothing of meaning.
    """
    heads, rows, blocks = logits.shape
    length = listed.shape[1]
    lists = torch.zeros(heads, rows, count, device=logits.device, dtype=torch.int32)
    full = torch.zeros(heads, rows, device=logits.device, dtype=torch.int32)
    taken = (torch.empty if tail == length else torch.zeros)(heads, rows, tail, device=logits.device, dtype=torch.uint8)
    _lists[(rows, heads)](
        logits, listed, dense, lengths, lists, full, taken, rows, blocks, length, count, tail,
        TAIL_IS_LIST=tail == length, FULL=max(16, triton.next_power_of_2(block_size)), LENGTH_PAD=triton.next_power_of_2(length), num_warps=4,
    )  # fmt: skip
    return lists, full, taken


@triton.jit
def _lists(
    logits, listed, dense, lengths, lists, full, taken, rows, blocks, length, count, tail,
    TAIL_IS_LIST: tl.constexpr, FULL: tl.constexpr, LENGTH_PAD: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if tl.load(dense + head * rows + row) == 0:
        position = tl.arange(0, LENGTH_PAD)
        inside = position < length
        block = tl.load(listed + head * length + position, mask=inside, other=0)
        chosen = largest(tl.load(logits + (head * rows + row) * blocks + block, mask=inside, other=0.0), inside, count)
        is_full = (chosen & (tl.load(lengths + block, mask=inside, other=0) == FULL)).to(tl.int32)
        ragged = chosen.to(tl.int32) - is_full
        all_full = tl.sum(is_full, axis=0)
        place = tl.where(is_full == 1, tl.cumsum(is_full, axis=0), all_full + tl.cumsum(ragged, axis=0)) - 1
        tl.store(lists + (head * rows + row) * count + place, block, mask=chosen)
        tl.store(full + head * rows + row, all_full)
        slot = position if TAIL_IS_LIST else block
        tl.store(taken + (head * rows + row) * tail + slot, chosen.to(tl.uint8), mask=inside)
