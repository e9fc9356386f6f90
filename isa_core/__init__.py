"""In-context Sparse Attention without any host program. Read in this order:

layout (token groups, blocks) -> pool (block means) -> plan (who meets whom; `policies` decide) -> attend (dense and sparse
query blocks) -> residual (gated coarse output). `call` ties them together, `attention` is the door, `gpu` has the same steps
on Triton kernels, and `reference` states them in fp64 loops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .attend import dense_attention
from .backend import BACKENDS, DENSE_BACKENDS, BackendUnavailable, resolve_backend, resolve_dense
from .config import CONTEXT_TAILS, POLICIES, SHARPNESS_METRICS, TRAINING_FREE, ISAConfig
from .layout import TokenLayout
from .plan import RoutingMasks
from .residual import add_coarse_residual, coarse_gate
from .stats import ISAStats, estimate_cost

if TYPE_CHECKING:
    from .attention import in_context_sparse_attention

__all__ = [
    "BACKENDS",
    "CONTEXT_TAILS",
    "DENSE_BACKENDS",
    "POLICIES",
    "SHARPNESS_METRICS",
    "TRAINING_FREE",
    "BackendUnavailable",
    "ISAConfig",
    "ISAStats",
    "RoutingMasks",
    "TokenLayout",
    "add_coarse_residual",
    "coarse_gate",
    "dense_attention",
    "estimate_cost",
    "in_context_sparse_attention",
    "resolve_backend",
    "resolve_dense",
]


def __getattr__(name: str) -> object:
    # Imported on access: it needs torch's compiler, whose import takes seconds, and settings do not.
    if name != "in_context_sparse_attention":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .attention import in_context_sparse_attention

    globals()[name] = in_context_sparse_attention
    return in_context_sparse_attention
