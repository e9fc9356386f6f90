"""In-context Sparse Attention without any host program. Read in this order:

layout (token groups, blocks) -> pool (block means) -> plan (who meets whom; `policies` decide) -> attend (dense and sparse
query blocks) -> residual (gated coarse output). `call` ties them together, `attention` is the door, `gpu` has the same steps
on Triton kernels, and `reference` states them in fp64 loops.
"""

from .attend import dense_attention
from .attention import in_context_sparse_attention
from .backend import BACKENDS, DENSE_BACKENDS, BackendUnavailable, resolve_backend, resolve_dense
from .config import CONTEXT_TAILS, POLICIES, SHARPNESS_METRICS, ISAConfig
from .layout import TokenLayout
from .plan import RoutingMasks
from .residual import add_coarse_residual, coarse_gate
from .stats import ISAStats, estimate_cost

__all__ = [
    "BACKENDS",
    "CONTEXT_TAILS",
    "DENSE_BACKENDS",
    "POLICIES",
    "SHARPNESS_METRICS",
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
