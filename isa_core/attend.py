"""Attention over a routing plan: the dense group exactly, the sparse group with exact blocks and a Taylor tail.

Tensors here hold G heads in blocks, [G, N, block_size, D]; pooled ones are [G, N, D].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .config import ISAConfig
from .layout import BlockTable
from .plan import RoutingPlan

DenseAttention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Exact attention: q [B, Sq, H, D], k and v [B, Sk, H, D] -> [B, Sq, H, D]."""

CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
]  # fmt: skip

GATHER_BYTES = 128 * 2**20
"""Bytes for the keys and values that one step of the sparse group gathers."""


def dense_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Exact softmax attention through torch SDPA; q [B, Sq, H, D], k and v [B, Sk, H, D] -> [B, Sq, H, D]."""
    return _sdpa(q, k, v, bias=None)


def attend_blocks(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pooled_k: torch.Tensor, pooled_v: torch.Tensor,
    variance_k: torch.Tensor | None, plan: RoutingPlan, table: BlockTable, config: ISAConfig, dense: DenseAttention,
) -> torch.Tensor:  # fmt: skip
    """ISA over G heads (algorithm steps 5 and 6 of section 3): blocks q [G, R, ...], k, v [G, N, ...] -> output blocks like q.

    variance_k: [G, N, D], needed with tail_order 2.
    """
    pooled = pooled_k.to(k.dtype), pooled_v.to(v.dtype)
    out = torch.zeros_like(q)
    _attend_dense_group(out, q, k, v, *pooled, plan, table, config, dense)
    second = variance_k if config.tail_order == 2 else None
    _attend_sparse_group(out, q, k, v, *pooled, second, plan, table, config)
    return out


def _attend_dense_group(out, q, k, v, pooled_k, pooled_v, plan, table, config, dense):
    device = q.device
    slot_is_token = table.slot_is_token(device)
    for heads in _heads_of_one_shape(plan, table):
        rows = plan.dense_queries[heads].nonzero()[:, 1].view(len(heads), -1)
        listed = plan.kv_blocks[heads]
        slots = listed[:, :, None] * table.block_size + torch.arange(table.block_size, device=device)
        slots = slots[slot_is_token[listed]].view(len(heads), -1)
        each = heads[:, None]
        # All heads go into one batch element, so that any subset of (batch, head) pairs is one plain attention call.
        query = q[each, rows].flatten(1, 2).transpose(0, 1)[None]
        key, value = (x.flatten(1, 2)[each, slots].transpose(0, 1)[None] for x in (k, v))
        if config.context_tail == "drop":
            result = dense(query, key, value)
        else:
            result = dense_with_tail(query, key, value, pooled_k[heads], pooled_v[heads], listed, table)
        out[each, rows] = result[0].transpose(0, 1).unflatten(1, (-1, table.block_size)).to(out.dtype)


def _heads_of_one_shape(plan: RoutingPlan, table: BlockTable) -> Iterator[torch.Tensor]:
    """Head indices grouped by equal numbers of dense queries and listed tokens: each group is one unmasked call."""
    tokens = table.lengths_on(plan.kv_blocks.device)[plan.kv_blocks].sum(1)
    shapes = torch.stack([plan.dense_queries.sum(1), tokens], dim=1)
    for shape in shapes.unique(dim=0):
        if shape[0] > 0:
            yield (shapes == shape).all(1).nonzero()[:, 0]


def dense_with_tail(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pooled_k: torch.Tensor, pooled_v: torch.Tensor,
    listed: torch.Tensor, table: BlockTable,
) -> torch.Tensor:  # fmt: skip
    """Exact over the listed tokens, plus the mean of every other block, in one softmax with a bias.

    query, key, value [1, tokens, heads, D]; block means pooled_k, pooled_v [heads, N, D]; listed [heads, L] blocks.
    """
    tokens = key.shape[1]
    key = torch.cat([key, pooled_k.transpose(0, 1)[None]], dim=1)
    value = torch.cat([value, pooled_v.transpose(0, 1)[None]], dim=1)
    exact, pooled = _tail_bias(table, query)
    pooled = pooled.expand(len(listed), -1).scatter(1, listed, -math.inf)
    bias = torch.cat([exact.expand(len(listed), tokens), pooled], dim=1)
    return _sdpa(query, key, value, bias[None, :, None])


def _attend_sparse_group(out, q, k, v, pooled_k, pooled_v, variance_k, plan, table, config):
    exact_bias, pooled_bias = _tail_bias(table, q)
    slot_bias = torch.where(table.slot_is_token(q.device), exact_bias, -math.inf).to(q.dtype)
    # Entry N of a list stands for no block: all of its slots are empty, and no mean is left out for it.
    slot_bias, pooled_bias = (F.pad(x, (0, 0) * (x.ndim - 1) + (0, 1), value=-math.inf) for x in (slot_bias, pooled_bias))
    if config.context_tail == "drop":
        tail_blocks = plan.kv_blocks
    else:
        tail_blocks = torch.arange(table.count, device=q.device).expand(len(plan.kv_blocks), -1)

    head, row = (~plan.dense_queries).nonzero(as_tuple=True)
    if len(head) == 0:
        return  # split() of nothing is one empty part, for which torch 2.11's CUDA attention returns None
    bytes_per_key = 2 * k.shape[-1] * k.element_size()
    for g, i, most in _rows_of_like_length(head, row, plan, table, tail_blocks.shape[1], bytes_per_key):
        exact, tail = plan.exact_blocks[g, i, :most], tail_blocks[g]
        # An exactly attended block must not contribute its mean as well.
        weight = pooled_bias.expand(len(g), -1).scatter(1, exact, -math.inf)
        if plan.by_mean is not None:
            weight = weight.masked_fill(~F.pad(plan.by_mean[g, i], (0, 1)), -math.inf)
        bias = torch.cat([slot_bias[exact].flatten(1), weight.gather(1, tail)], dim=1)
        exact = exact.clamp(max=table.count - 1)
        key = torch.cat([k[g[:, None], exact].flatten(1, 2), pooled_k[g[:, None], tail]], dim=1)
        value = torch.cat([v[g[:, None], exact].flatten(1, 2), pooled_v[g[:, None], tail]], dim=1)
        query, bias = q[g, i], bias[:, None]
        if variance_k is not None:
            more = second_order(query, variance_k[g[:, None], tail])
            bias = bias + F.pad(more, (bias.shape[2] - more.shape[2], 0)).to(bias.dtype)
        out[g, i] = _sdpa(query[:, :, None], key[:, :, None], value[:, :, None], bias[:, None])[:, :, 0]


def _rows_of_like_length(head, row, plan: RoutingPlan, table: BlockTable, tails: int, bytes_per_key: int):
    """(heads, query blocks, length of the longest list) of as many sparse query blocks as one step may gather the keys of."""
    longest = plan.exact_blocks.shape[2]
    lengths = [longest] * len(head)
    if plan.exact_counts is not None:
        counts, order = plan.exact_counts[head, row].sort(descending=True, stable=True)
        head, row, lengths = head[order], row[order], counts.tolist()
    start = 0
    while start < len(lengths):
        most = lengths[start]
        step = max(1, GATHER_BYTES // ((most * table.block_size + tails) * bytes_per_key))
        yield head[start : start + step], row[start : start + step], most
        start += step


def second_order(query: torch.Tensor, variance_k: torch.Tensor) -> torch.Tensor:
    """query [n, R, D], variance_k [n, T, D] -> [n, R, T]: the logarithm of the factor on a block's weight at second order.

    The mean of exp(q·k/√D) over a block is exp of the mean's logit times 1 + half the logits' variance, to second order.
    Their variance is taken channel by channel: with all covariances the expansion runs away (docs/kernels.md).
    """
    scaled = query.to(variance_k.dtype) * query.shape[-1] ** -0.5
    return (scaled.square() @ variance_k.transpose(1, 2) / 2).log1p()


def _tail_bias(table: BlockTable, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax biases that give a block's mean the weight of all its tokens: one for exact tokens, [N] for block means.

    They are `0` and `log(length)`, shifted together so that a full block's is exact in low precision:
    in bf16, log 64 alone would be rounded by 0.3 %, a systematic error in every pooled weight.
    """
    # On the CPU: Apple's GPUs have no fp64.
    log_lengths = torch.tensor(table.lengths, dtype=torch.float64).log()
    full = math.log(table.block_size)
    shift = torch.tensor(full, dtype=torch.float64).to(like.dtype).double() - full
    return shift.to(like.device, like.dtype), (log_lengths + shift).to(like.device, like.dtype)


def _sdpa(q, k, v, bias):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if bias is None and q.is_cuda and not torch.version.hip and torch.cuda.get_device_capability(q.device) >= (9, 0):
        # On an H200 cuDNN takes 0.6 of the time of torch's first choice, FlashAttention 2 (benchmarks/results).
        with sdpa_kernel(CUDNN_FIRST, set_priority=True):
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)
