"""Routers, one per file. Each turns coarse attention into a RoutingPlan and does not depend on kernels or backends."""

from __future__ import annotations

import torch

from ..config import ERROR_AWARE, SEGMENT_TOP_K, ISAConfig
from ..layout import BlockTable
from ..plan import Coarse, RoutingPlan
from . import error_aware, paper, segment_top_k


def route(coarse: Coarse, table: BlockTable, config: ISAConfig, threshold: torch.Tensor | None = None) -> RoutingPlan:
    """The plan of `config.policy`. threshold: a scalar, the least error that "error_aware" takes exactly, else None. No gradient flows through it."""
    if config.policy == ERROR_AWARE:
        assert threshold is not None
        return error_aware.route(coarse, table, config, threshold)
    if config.policy == SEGMENT_TOP_K:
        return segment_top_k.route(coarse, table, config)
    return paper.route(coarse, table, config)
