"""What routing needs to know of the coarse attention of a few heads: row statistics, sharpness, context saliency.

The coarse logits of the heads in work are the only block × block array; their softmax is never stored.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .select import kth_largest, sortable


def coarse_statistics(logits: torch.Tensor, target_blocks: int, top: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """logits [G, N, N] fp32 -> (saliency [G, N - target_blocks], sharpness [G, N]), both fp32.

    saliency: sum over target rows of the softmax, per context column.
    sharpness: variance of the softmax over the target's columns, or the sum of its `top` >= 1 largest there unless that is None.
    """
    heads, blocks, _ = logits.shape
    sharpness = torch.empty(heads, blocks, device=logits.device, dtype=torch.float32)
    norm = torch.empty_like(sharpness)
    _rows[(blocks, heads)](
        logits, sharpness, norm, blocks, target_blocks, top or 0,
        BLOCKS_PAD=triton.next_power_of_2(blocks), TOP_MASS=top is not None, num_warps=4,
    )  # fmt: skip
    saliency = torch.empty(heads, blocks - target_blocks, device=logits.device, dtype=torch.float32)
    if saliency.numel():
        columns = 32
        grid = (triton.cdiv(blocks - target_blocks, columns), heads)
        _columns[grid](logits, norm, saliency, blocks, target_blocks, ROWS=64, COLUMNS=columns, num_warps=4)
    return saliency, sharpness


@triton.jit
def _rows(
    logits, sharpness, norm, blocks, target_blocks, top, BLOCKS_PAD: tl.constexpr, TOP_MASS: tl.constexpr
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCKS_PAD)
    score = tl.load(logits + (head * blocks + row) * blocks + column, mask=column < blocks, other=float("-inf"))
    highest = tl.max(score, axis=0)
    weight = tl.exp(score - highest)
    total = tl.sum(weight, axis=0)
    share = tl.where(column < target_blocks, weight / total, 0.0)
    if TOP_MASS:
        key = tl.where(column < target_blocks, sortable(share), -(2**31))
        least = kth_largest(key, top)
        above = key > least
        ties = top - tl.sum(above.to(tl.int32), axis=0)
        tied = tl.max(tl.where(key == least, share, 0.0), axis=0)
        result = tl.sum(tl.where(above, share, 0.0), axis=0) + ties * tied
    else:
        mean = tl.sum(share, axis=0) / target_blocks
        centred = tl.where(column < target_blocks, share - mean, 0.0)
        result = tl.sum(centred * centred, axis=0) / target_blocks
    tl.store(sharpness + head * blocks + row, result)
    tl.store(norm + head * blocks + row, highest + tl.log(total))


@triton.jit
def _columns(logits, norm, saliency, blocks, target_blocks, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    head = tl.program_id(1).to(tl.int64)
    context = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = context < blocks - target_blocks
    total = tl.zeros([COLUMNS], tl.float32)
    for first in range(0, target_blocks, ROWS):
        row = first + tl.arange(0, ROWS)
        valid = row < target_blocks
        score = tl.load(
            logits + (head * blocks + row)[:, None] * blocks + target_blocks + context[None],
            mask=valid[:, None] & inside[None],
            other=float("-inf"),
        )
        log_sum = tl.load(norm + head * blocks + row, mask=valid, other=0.0)
        total += tl.sum(tl.exp(score - log_sum[:, None]), axis=0)
    tl.store(saliency + head * (blocks - target_blocks) + context, total, mask=inside)
