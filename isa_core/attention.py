"""In-context Sparse Attention, the public function: layout -> pool -> plan -> attend -> residual."""

from __future__ import annotations

from typing import Literal, overload

import torch

from .attend import DenseAttention
from .call import run_call
from .compiled import compiled_attention
from .config import ISAConfig
from .layout import TokenLayout
from .plan import RoutingMasks
from .stats import ISAStats


@overload
def in_context_sparse_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, layout: TokenLayout, config: ISAConfig = ...,
    coarse_gate: torch.Tensor | None = ..., backend: str = ..., dense: DenseAttention | str = ...,
    masks: RoutingMasks | None = ..., return_stats: Literal[False] = ..., count_attended: bool = ...,
) -> torch.Tensor: ...  # fmt: skip
@overload
def in_context_sparse_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, layout: TokenLayout, config: ISAConfig = ...,
    coarse_gate: torch.Tensor | None = ..., backend: str = ..., dense: DenseAttention | str = ...,
    masks: RoutingMasks | None = ..., return_stats: Literal[True], count_attended: bool = ...,
) -> tuple[torch.Tensor, ISAStats]: ...  # fmt: skip
@overload
def in_context_sparse_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, layout: TokenLayout, config: ISAConfig = ...,
    coarse_gate: torch.Tensor | None = ..., backend: str = ..., dense: DenseAttention | str = ...,
    masks: RoutingMasks | None = ..., return_stats: bool, count_attended: bool = ...,
) -> torch.Tensor | tuple[torch.Tensor, ISAStats]: ...  # fmt: skip
def in_context_sparse_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    layout: TokenLayout,
    config: ISAConfig = ISAConfig(),
    coarse_gate: torch.Tensor | None = None,
    backend: str = "auto",
    dense: DenseAttention | str = "auto",
    masks: RoutingMasks | None = None,
    return_stats: bool = False,
    count_attended: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, ISAStats]:
    """ISA (arXiv 2605.04569, section 3) for one self-attention over target and context tokens.

    q, k, v: [B, S, H, D], floating point, S = layout.total, any strides, in the layout's order. q may hold all but the context's tokens
        (`layout.without_context`), or the target's alone, of several targets in memory order, as where the keys and values of the context are
        kept from an earlier call; then only they are computed.
    coarse_gate: [B, T, 1, 1], for the T tokens of q, factor of the coarse residual, or None for no residual.
    backend: "auto", "triton" or "torch"; "torch" runs on any device and dtype.
    dense: what attends for dense query blocks: a function, e.g. the attention the user of a host program chose,
        "sdpa" (PyTorch's), "triton", "8bit" (INT8 scores, FP8 values; docs/kernels.md states its error) or "auto".
        A function is not used with context_tail="taylor", which needs a bias per key.
    masks: which blocks meet, decided by the caller (`policies` has some that do); of `config` only `block_size` and
        `tail_order` count then.
    count_attended: whether the statistics say how many query blocks attend exactly to each KV block, which takes a pass over all lists.
    Returns a tensor like q, with `return_stats` also an ISAStats.

    No S × S tensor exists: beyond inputs and output it needs about `memory.WORKSPACE_BYTES`.

    Raises ValueError for tensors that do not match each other or the layout; BackendUnavailable.
    """
    needs_grad = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, coarse_gate))
    if torch.compiler.is_compiling() and isinstance(dense, str) and not (needs_grad or return_stats or masks):
        return compiled_attention(q, k, v, coarse_gate, layout, config, backend, dense)
    return run_call(q, k, v, layout, config, coarse_gate, backend, dense, needs_grad, return_stats, masks, count_attended)
