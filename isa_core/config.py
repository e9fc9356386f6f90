"""The user's settings of In-context Sparse Attention (ISA)."""

from __future__ import annotations

import math
from dataclasses import dataclass

ISA, ERROR_AWARE, SEGMENT_TOP_K = POLICIES = "isa", "error_aware", "segment_top_k"
SHARPNESS_METRICS = ("variance", "top_mass")
CONTEXT_TAILS = ("drop", "taylor")
TAIL_ORDERS = (0, 2)


@dataclass(frozen=True)
class ISAConfig:
    """Routing parameters of ISA; the defaults are the paper's (arXiv 2605.04569, section 4.1).

    keep_ratio: share of the context KV blocks each head keeps (paper: select ratio), 0..1.
    dense_query_ratio: share of query blocks, the sharpest, that attend exactly (paper: flat ratio), 0..1.
    exact_ratio: share of its KV list that a sparse query block attends exactly (paper: no-sparsity ratio), 0..1; with
        "error_aware" the mean of these shares, with "segment_top_k" the share of each segment's blocks.
    sharpness: "variance" (the paper's metric) or "top_mass" (what the released weights run with).
    sharpness_threshold: when set, replaces `dense_query_ratio`: a query block is dense if its sharpness exceeds it.
    context_tail: what context blocks that were not kept contribute: "drop" nothing (paper), "taylor" their block mean.
    block_size: tokens per block.
    policy: "isa", the paper's; "error_aware": no query block is dense, and the (query block, KV block) pairs that are attended
        exactly are those, over all heads of a call, for which a mean is expected to be the worst stand-in; or "segment_top_k": no
        query block is dense, and each attends exactly, in the target and in each context alike, to the `exact_ratio` of the
        segment's blocks that get most of its attention; all others count by their means. `keep_ratio`, `sharpness` and
        `context_tail` have no part in it.
    error_threshold: of "error_aware": a pair is exact if its expected error is at least this; None for the `exact_ratio` of all
        pairs that have the largest.
    tail_order: order of the Taylor expansion by which a sparse query block weighs a block it does not attend exactly: 0
        looks at the mean of its keys (paper), 2 at their variance too, channel by channel: more exact for little time.

    A ratio is rounded up to whole blocks, so that a positive ratio always keeps at least one.

    Raises ValueError naming the field, its range and the value given.
    """

    keep_ratio: float = 0.125
    dense_query_ratio: float = 0.5
    exact_ratio: float = 0.0625
    sharpness: str = "variance"
    sharpness_threshold: float | None = None
    context_tail: str = "drop"
    block_size: int = 64
    tail_order: int = 0
    policy: str = ISA
    error_threshold: float | None = None

    def __post_init__(self):
        for name in ("keep_ratio", "dense_query_ratio", "exact_ratio"):
            _require_number(name, getattr(self, name), 0.0, 1.0)
        if self.sharpness_threshold is not None:
            _require_number("sharpness_threshold", self.sharpness_threshold, 0.0, 1.0)
        if self.error_threshold is not None:
            _require_number("error_threshold", self.error_threshold, 0.0, math.inf)
        _require_choice("policy", self.policy, POLICIES)
        _require_choice("sharpness", self.sharpness, SHARPNESS_METRICS)
        _require_choice("context_tail", self.context_tail, CONTEXT_TAILS)
        if type(self.tail_order) is not int or self.tail_order not in TAIL_ORDERS:
            raise ValueError(f"tail_order must be one of {', '.join(map(str, TAIL_ORDERS))}; got {self.tail_order!r}.")
        if not isinstance(self.block_size, int) or isinstance(self.block_size, bool) or self.block_size < 1:
            raise ValueError(f"block_size must be a whole number of tokens, at least 1; got {self.block_size!r}.")

    @property
    def no_dense_queries(self) -> bool:
        """Whether every query block is sparse, whatever the tensors hold."""
        return self.policy != ISA or (self.sharpness_threshold is None and self.dense_query_ratio == 0)


def blocks_for(ratio: float, total: int) -> int:
    """`ratio` of `total` blocks, rounded up to whole blocks (the slack absorbs 0.1 * 10 > 1)."""
    return min(total, math.ceil(ratio * total - 1e-9))


def _require_number(name, value, low, high):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}; got {value!r}.")


def _require_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")


TRAINING_FREE = ISAConfig(exact_ratio=0.28, policy=SEGMENT_TOP_K)
"""For models that were not trained with ISA: at the arithmetic of the paper's ratios the nearest to full attention (docs/fidelity.md)."""
