"""Inputs of routing from the coarse attention of a few heads: row statistics, sharpness, context saliency.

The coarse logits of the heads in work are the only block × block array; their softmax is never stored.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .select import kth_largest, sortable


def coarse_logits(pooled_q: torch.Tensor, pooled_k: torch.Tensor) -> torch.Tensor:
    """fp32 block means [G, R, D] and [G, N, D] -> [G, R, N] fp32 `Qc Kcᵀ / √D`, on tensor cores if the GPU has them.

    Three products of TF32 parts are as exact as fp32. In bf16, ties would favour early blocks.
    """
    heads, rows, dim = pooled_q.shape
    blocks = pooled_k.shape[1]
    logits = torch.empty(heads, rows, blocks, device=pooled_q.device, dtype=torch.float32)
    _logits[(triton.cdiv(blocks, 64), triton.cdiv(rows, 64), heads)](
        pooled_q, pooled_k, logits, dim**-0.5, rows, blocks,
        DIM=dim, DIM_PAD=max(16, triton.next_power_of_2(dim)), TILE=64, STEP=32 if dim % 32 == 0 else 16, num_warps=4,
    )  # fmt: skip
    return logits


@triton.jit
def tile_of_products(
    a, b, head, row, column, rows, blocks, DIM: tl.constexpr, DIM_PAD: tl.constexpr, TILE: tl.constexpr, STEP: tl.constexpr
):  # fmt: skip
    """[TILE, TILE] of a bᵀ for a [G, rows, DIM] and b [G, blocks, DIM] in fp32, as exact as fp32."""
    total = tl.zeros([TILE, TILE], tl.float32)
    for first in range(0, DIM_PAD, STEP):
        channel = first + tl.arange(0, STEP)
        real = (channel < DIM)[None]
        left = tl.load(a + (head * rows + row)[:, None] * DIM + channel[None], mask=(row < rows)[:, None] & real, other=0.0)
        right = tl.load(
            b + (head * blocks + column)[:, None] * DIM + channel[None], mask=(column < blocks)[:, None] & real, other=0.0
        )
        total = tl.dot(left, right.T, total, input_precision="tf32x3")
    return total


@triton.jit
def _logits(
    q, k, logits, scale, rows, blocks, DIM: tl.constexpr, DIM_PAD: tl.constexpr, TILE: tl.constexpr, STEP: tl.constexpr
):  # fmt: skip
    row = tl.program_id(1) * TILE + tl.arange(0, TILE)
    column = tl.program_id(0) * TILE + tl.arange(0, TILE)
    head = tl.program_id(2).to(tl.int64)
    score = tile_of_products(q, k, head, row, column, rows, blocks, DIM, DIM_PAD, TILE, STEP)
    address = logits + (head * rows + row)[:, None] * blocks + column[None]
    tl.store(address, score * scale, mask=(row < rows)[:, None] & (column < blocks)[None])


def coarse_statistics(
    logits: torch.Tensor, target_blocks: int, top: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """logits [G, R, N] fp32 -> (saliency [G, N - target_blocks], sharpness [G, R], norm [G, R]), all fp32; the first rows are the target's.

    saliency: sum over target rows of the softmax, per context column.
    sharpness: variance of the softmax over the target's columns, or the sum of its `top` >= 1 largest there unless that is None.
    norm: logarithm of each row's sum of exponentials.
    """
    heads, rows, blocks = logits.shape
    sharpness = torch.empty(heads, rows, device=logits.device, dtype=torch.float32)
    norm = torch.empty_like(sharpness)
    _rows[(rows, heads)](
        logits, sharpness, norm, rows, blocks, target_blocks, top or 0,
        BLOCKS_PAD=triton.next_power_of_2(blocks), TOP_MASS=top is not None, num_warps=4,
    )  # fmt: skip
    saliency = torch.empty(heads, blocks - target_blocks, device=logits.device, dtype=torch.float32)
    if saliency.numel():
        columns = 32
        grid = (triton.cdiv(blocks - target_blocks, columns), heads)
        _columns[grid](logits, norm, saliency, rows, blocks, target_blocks, ROWS=64, COLUMNS=columns, num_warps=4)
    return saliency, sharpness, norm


@triton.jit
def _rows(
    logits, sharpness, norm, rows, blocks, target_blocks, top, BLOCKS_PAD: tl.constexpr, TOP_MASS: tl.constexpr
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCKS_PAD)
    score = tl.load(logits + (head * rows + row) * blocks + column, mask=column < blocks, other=float("-inf"))
    highest = tl.max(score, axis=0)
    weight = tl.exp(score - highest)
    total = tl.sum(weight, axis=0)
    share = tl.where(column < target_blocks, weight / total, 0.0)
    if TOP_MASS:
        key = tl.where(column < target_blocks, sortable(share), 0)
        least = kth_largest(key, top)
        above = key > least
        ties = top - tl.sum(above.to(tl.int32), axis=0)
        tied = tl.max(tl.where(key == least, share, 0.0), axis=0)
        result = tl.sum(tl.where(above, share, 0.0), axis=0) + ties * tied
    else:
        mean = tl.sum(share, axis=0) / target_blocks
        centred = tl.where(column < target_blocks, share - mean, 0.0)
        result = tl.sum(centred * centred, axis=0) / target_blocks
    tl.store(sharpness + head * rows + row, result)
    tl.store(norm + head * rows + row, highest + tl.log(total))


@triton.jit
def _columns(logits, norm, saliency, rows, blocks, target_blocks, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    head = tl.program_id(1).to(tl.int64)
    context = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = context < blocks - target_blocks
    total = tl.zeros([COLUMNS], tl.float32)
    for first in range(0, target_blocks, ROWS):
        row = first + tl.arange(0, ROWS)
        valid = row < target_blocks
        score = tl.load(
            logits + (head * rows + row)[:, None] * blocks + target_blocks + context[None],
            mask=valid[:, None] & inside[None],
            other=float("-inf"),
        )
        log_sum = tl.load(norm + head * rows + row, mask=valid, other=0.0)
        total += tl.sum(tl.exp(score - log_sum[:, None]), axis=0)
    tl.store(saliency + head * (blocks - target_blocks) + context, total, mask=inside)
