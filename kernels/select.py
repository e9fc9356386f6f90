"""The k largest of a row, and the lists and biases that the sparse kernel walks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def sortable(x):
    """fp32 -> int32 that orders alike."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def kth_largest(key, k):
    """The k-th largest of a row of int32, k >= 1, by deciding one bit after another from the top."""
    least = tl.full([], -(2**31), tl.int64)
    for step in tl.static_range(32):
        candidate = least + (1 << (31 - step))
        enough = tl.sum((key.to(tl.int64) >= candidate).to(tl.int32), axis=0) >= k
        least = tl.where(enough, candidate, least)
    return least.to(tl.int32)


def exact_lists(
    logits: torch.Tensor, listed: torch.Tensor, dense: torch.Tensor, count: int, tail: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per sparse row the `count` listed blocks with the highest logit (ties go to the earlier one), and marks of them.

    logits [G, N, N] fp32, listed [G, L] int32 ascending, dense [G, N] bool. `tail` is L when the tail is the list
    itself, N when it is every block.
    Returns lists [G, N, count] int32 ascending, and taken [G, N, tail] uint8, 1 where a tail entry is in the row's list.
    Rows of dense query blocks hold nothing of meaning.
    """
    heads, blocks, _ = logits.shape
    length = listed.shape[1]
    lists = torch.zeros(heads, blocks, count, device=logits.device, dtype=torch.int32)
    taken = (torch.empty if tail == length else torch.zeros)(heads, blocks, tail, device=logits.device, dtype=torch.uint8)
    _lists[(blocks, heads)](
        logits, listed, dense, lists, taken, blocks, length, count, tail,
        TAIL_IS_LIST=tail == length, LENGTH_PAD=triton.next_power_of_2(length), num_warps=4,
    )  # fmt: skip
    return lists, taken


@triton.jit
def _lists(
    logits, listed, dense, lists, taken, blocks, length, count, tail, TAIL_IS_LIST: tl.constexpr, LENGTH_PAD: tl.constexpr
):
    row, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if tl.load(dense + head * blocks + row) == 0:
        position = tl.arange(0, LENGTH_PAD)
        inside = position < length
        block = tl.load(listed + head * length + position, mask=inside, other=0)
        score = tl.load(logits + (head * blocks + row) * blocks + block, mask=inside, other=0.0)
        key = tl.where(inside, sortable(score), -(2**31))
        # With nothing to choose the threshold is the highest possible key, which no score has.
        least = tl.where(count > 0, kth_largest(key, count), 2**31 - 1)
        above = (key > least) & inside
        ties = count - tl.sum(above.to(tl.int32), axis=0)
        tied = ((key == least) & inside).to(tl.int32)
        chosen = above | ((tied == 1) & (tl.cumsum(tied, axis=0) <= ties))
        place = tl.cumsum(chosen.to(tl.int32), axis=0) - 1
        tl.store(lists + (head * blocks + row) * count + place, block, mask=chosen)
        slot = position if TAIL_IS_LIST else block
        tl.store(taken + (head * blocks + row) * tail + slot, chosen.to(tl.uint8), mask=inside)
