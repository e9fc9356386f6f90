"""In-context Sparse Attention without any host program. Read in this order:

layout (token groups, blocks) -> pool (block means) -> route (who meets whom) -> attend (dense and sparse groups)
-> residual (gated coarse output); `attention` ties them together and `reference` states the same in fp64 loops.
"""

from .attend import dense_attention
from .attention import in_context_sparse_attention, warm_up
from .backend import BACKENDS, DENSE_BACKENDS, BackendUnavailable, resolve_backend, resolve_dense
from .config import CONTEXT_TAILS, SHARPNESS_METRICS, ISAConfig
from .layout import TokenLayout
from .residual import add_coarse_residual
from .stats import ISAStats, estimate_cost

__all__ = [
    "BACKENDS",
    "CONTEXT_TAILS",
    "DENSE_BACKENDS",
    "SHARPNESS_METRICS",
    "BackendUnavailable",
    "ISAConfig",
    "ISAStats",
    "TokenLayout",
    "add_coarse_residual",
    "dense_attention",
    "estimate_cost",
    "in_context_sparse_attention",
    "resolve_backend",
    "resolve_dense",
    "warm_up",
]
