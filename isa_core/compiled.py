"""ISA as one operator, so that torch.compile keeps it in a graph without looking inside."""

from dataclasses import fields

import torch

from .call import run_call
from .config import ISAConfig
from .layout import TokenLayout

FIELDS = tuple(field.name for field in fields(ISAConfig))


def compiled_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, coarse_gate: torch.Tensor | None, layout: TokenLayout,
    config: ISAConfig, backend: str, dense: str,
) -> torch.Tensor:  # fmt: skip
    """`in_context_sparse_attention` without gradients and statistics, in a graph under compilation."""
    chosen = [getattr(config, name) for name in FIELDS]
    return _attention(
        q,
        k,
        v,
        coarse_gate,
        [segment.tokens for segment in layout.in_memory],
        " ".join(segment.kind for segment in layout.in_memory),
        *chosen,
        backend,
        dense,
    )


@torch.library.custom_op("liveditor_isa::attention", mutates_args=())
def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, coarse_gate: torch.Tensor | None, segments: list[int], kinds: str,
    keep_ratio: float, dense_query_ratio: float, exact_ratio: float, sharpness: str, sharpness_threshold: float | None,
    context_tail: str, block_size: int, tail_order: int, policy: str, error_threshold: float | None, backend: str, dense: str,
) -> torch.Tensor:  # fmt: skip
    config = ISAConfig(
        keep_ratio,
        dense_query_ratio,
        exact_ratio,
        sharpness,
        sharpness_threshold,
        context_tail,
        block_size,
        tail_order,
        policy,
        error_threshold,
    )
    layout = TokenLayout.of(*zip(kinds.split(), segments))
    out = run_call(q, k, v, layout, config, coarse_gate, backend, dense, needs_grad=False, return_stats=False)
    assert isinstance(out, torch.Tensor)
    return out


@_attention.register_fake
def _(q, k, v, *others, **more):
    return torch.empty_like(q, memory_format=torch.contiguous_format)
