"""Attention overrides of ComfyUI's core, in `transformer_options`. Needs no ComfyUI."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from ..isa_core import ISAConfig, add_coarse_residual, in_context_sparse_attention
from . import decisions
from .in_context import IN_CONTEXT, InContextCall

OVERRIDE = "optimized_attention_override"
"""Core's key in `transformer_options`, which holds one override: a new one calls the one before it."""

Attend = Callable[..., torch.Tensor | None]
"""(InContextCall, q, k, v [B, S, H, D], transformer_options, full, core) -> [B, S, H, D], or None for full attention.
full: attention over such q, k, v as it would run without this override. core: core's function, if there was no override before."""


def reason_not_to_touch(call: InContextCall, q: torch.Tensor, k: torch.Tensor, mask: object, options: dict) -> str | None:
    """Why an attention of core's is none that ISA knows: "" for one that is no self-attention of all tokens, a sentence for
    a self-attention in another form, None for one that it knows. options: core's keywords."""
    if options.get("skip_reshape") or options.get("skip_output_reshape"):
        return decisions.SPLIT_HEADS if q.shape == k.shape and call.layout.total in q.shape[1:3] else ""
    if q.ndim != 3 or not q.shape[1] == k.shape[1] == call.layout.total:
        return ""
    if options.get("scale") is not None or options.get("enable_gqa"):
        return decisions.NOT_PLAIN
    return None if mask is None else decisions.MASKED


def in_context_override(
    attend: Attend, previous: Callable | None = None, refused: Callable[[str, dict], None] | None = None
) -> Callable[..., torch.Tensor]:
    """An override that has `attend` for in-context self-attention, and for all others `previous` or core's own.

    refused: is told the sentence where a self-attention is in a form that ISA does not know, and `transformer_options`.
    """

    def override(func, q, k, v, heads, mask=None, **kwargs):
        options = kwargs.get("transformer_options") or {}
        call = options.get(IN_CONTEXT)
        if call is not None:
            # An ISA further inside, behind somebody else's override, must not take what this one decided on.
            kwargs["transformer_options"] = {**options, IN_CONTEXT: None}

        def chosen(q, k, v, heads, mask=None):
            if previous is not None:
                return previous(func, q, k, v, heads, mask=mask, **kwargs)
            return func(q, k, v, heads, mask=mask, **kwargs)

        reason = "" if call is None else reason_not_to_touch(call, q, k, mask, kwargs)
        if reason is not None:
            if reason and refused is not None:
                refused(reason, options)
            return chosen(q, k, v, heads, mask)

        def full(q, k, v):
            heads = q.shape[2]
            return chosen(q.flatten(2), k.flatten(2), v.flatten(2), heads).unflatten(2, (heads, -1))

        core = func if previous is None else None
        out = attend(call, *(x.unflatten(2, (heads, -1)) for x in (q, k, v)), options, full, core)
        return chosen(q, k, v, heads, mask) if out is None else out.flatten(2)

    return override


def with_isa(config: ISAConfig) -> dict:
    """`transformer_options` by which core's attention is ISA, with a backward, and nothing is watched or decided."""

    def attend(call, q, k, v, options, full, core):
        call.residual_added = True
        return in_context_sparse_attention(q, k, v, layout=call.layout, config=config, coarse_gate=call.coarse_gate)

    return {OVERRIDE: in_context_override(attend)}


def with_residual(previous: Callable | None = None) -> Callable[..., torch.Tensor]:
    """An override that adds LIVEditor's coarse residual to in-context self-attention, unless `previous` did.

    It marks the InContextCall it finds, by which the network sees that no patch went past it.
    """

    def override(func, q, k, v, heads, *args, **kwargs):
        options = kwargs.get("transformer_options") or {}
        call = options.get(IN_CONTEXT)
        split = kwargs.get("skip_reshape") or kwargs.get("skip_output_reshape")
        attention = func if previous is None else partial(previous, func)
        if call is None or split or q.ndim != 3 or not q.shape[1] == k.shape[1] == call.layout.total:
            return attention(q, k, v, heads, *args, **kwargs)
        own = InContextCall(call.layout, call.coarse_gate)
        kwargs["transformer_options"] = {**options, IN_CONTEXT: own}
        out = attention(q, k, v, heads, *args, **kwargs)
        if not own.residual_added and own.coarse_gate is not None:
            split_out, split_q, split_k, split_v = (x.unflatten(2, (heads, -1)) for x in (out, q, k, v))
            out = add_coarse_residual(split_out, split_q, split_k, split_v, call.coarse_gate, call.layout).flatten(2)
        call.residual_added = True
        return out

    return override
