"""Settings that the fidelity study compares with full attention: the paper's, sweeps of one parameter, and combinations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ...isa_core import ISAConfig, TokenLayout, add_coarse_residual, in_context_sparse_attention
from ...isa_core.policies.tiles import tile_order
from ...runtime.core_attention import in_context_override
from ..attention.peers import TOP_K, peers, rankings

FULL, PAPER, ALL_DENSE = "full", "isa-paper", "isa-all-dense"


@dataclass(frozen=True)
class Setting:
    """A way to attend; without config and policy, full attention.

    tiles: blocks are cut from compact tiles of tokens instead of from raster order.
    tiled_residual: so are those of the coarse residual, which otherwise stays as the weights were trained with it.
    policy: a function of q, k, v, layout and grid that returns the attention and its share of full attention's arithmetic.
    """

    config: ISAConfig | None = None
    tiles: bool = False
    tiled_residual: bool = False
    policy: Callable | None = None


def settings(threshold: float, block_size: int = 64) -> dict[str, Setting]:
    """{name: Setting}, full attention first. threshold: the sharpness above which "isa-threshold" has a query block dense."""
    isa = partial(ISAConfig, block_size=block_size)
    keep_all = partial(isa, keep_ratio=1)
    error_aware = partial(keep_all, policy="error_aware")
    # Settings of equal cost have fewer dense query blocks than the paper's half, to pay for their additions.
    with_tail = isa(dense_query_ratio=0.47, context_tail="taylor")
    second_order = keep_all(dense_query_ratio=0.125, exact_ratio=0.17, tail_order=2)
    return {
        FULL: Setting(),
        PAPER: Setting(isa()),
        ALL_DENSE: Setting(isa(keep_ratio=1, dense_query_ratio=1)),
        **{f"isa-keep-{ratio:g}": Setting(isa(keep_ratio=ratio)) for ratio in (0.0625, 0.25, 0.5, 1)},
        **{f"isa-dense-{ratio:g}": Setting(isa(dense_query_ratio=ratio)) for ratio in (0, 0.25, 0.75, 1)},
        **{f"isa-exact-{ratio:g}": Setting(isa(exact_ratio=ratio)) for ratio in (0.03125, 0.125, 0.25)},
        "isa-top-mass": Setting(isa(sharpness="top_mass")),
        "isa-threshold": Setting(isa(sharpness_threshold=threshold)),
        "isa-taylor-tail": Setting(isa(context_tail="taylor")),
        "isa-second-order": Setting(isa(tail_order=2)),
        "isa-tiles": Setting(isa(), tiles=True),
        "isa-tiles-residual": Setting(isa(), tiles=True, tiled_residual=True),
        "isa-equal-taylor-tail": Setting(with_tail),
        "isa-equal-taylor-tail-tiles": Setting(with_tail, tiles=True),
        "isa-equal-keep-half": Setting(isa(keep_ratio=0.5, dense_query_ratio=0.31, exact_ratio=0.125)),
        "isa-equal-keep-all": Setting(keep_all(dense_query_ratio=0.125, exact_ratio=0.1875)),
        "isa-equal-keep-all-second-order": Setting(second_order),
        "isa-equal-keep-all-second-order-tiles": Setting(second_order, tiles=True),
        "isa-equal-keep-all-no-dense": Setting(keep_all(dense_query_ratio=0, exact_ratio=0.28)),
        "isa-half-keep-all-no-dense": Setting(keep_all(dense_query_ratio=0, exact_ratio=0.125)),
        **{f"isa-error-aware-{ratio:g}": Setting(error_aware(exact_ratio=ratio)) for ratio in (0.125, 0.28, 0.4, 0.49)},
        **{f"isa-segment-top-k-{ratio:g}": Setting(isa(exact_ratio=ratio, policy="segment_top_k")) for ratio in TOP_K},
        "isa-segment-top-k-0.28-second-order": Setting(isa(exact_ratio=0.27, policy="segment_top_k", tail_order=2)),
        "isa-error-aware-0.28-second-order": Setting(error_aware(exact_ratio=0.27, tail_order=2)),
        **{name: Setting(policy=policy) for name, policy in (peers(block_size) | rankings(block_size)).items()},
    }


def attend(setting: Setting, q, k, v, layout: TokenLayout, grid: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A setting's sparse attention, without the residual: q, k, v [B, S, H, D] in raster order -> (alike, FLOP ratio)."""
    if setting.policy is not None:
        return setting.policy(q, k, v, layout, grid)
    order = tile_order(grid, layout, q.device) if setting.tiles else slice(None)
    out, stats = in_context_sparse_attention(
        *(x[:, order] for x in (q, k, v)), layout=layout, config=setting.config, return_stats=True
    )
    return (out[:, order.argsort()] if isinstance(order, torch.Tensor) else out), stats.mean_flop_ratio


class Override:
    """An attention override for core's `transformer_options`: in-context self-attention as a setting says, and what it costs.

    The network adds its own residual, so that a setting differs from full attention by its attention alone.
    """

    def __init__(self, setting: Setting):
        self.setting = setting
        self._override = in_context_override(self._attend)
        self.flop_ratios: list[torch.Tensor] = []
        """Statistics of every sparse call, on the device."""

    def __call__(self, *args, **kwargs):
        return self._override(*args, **kwargs)

    def _attend(self, call, q, k, v, options, full, core):
        if self.setting.config is None and self.setting.policy is None:
            return None
        tokens, grid = [q, k, v], tuple(options["grid_sizes"])
        out, flop_ratio = attend(self.setting, *tokens, call.layout, grid)
        self.flop_ratios.append(flop_ratio)
        if self.setting.tiled_residual:
            order = tile_order(grid, call.layout, q.device)
            out, *tokens, gate = (x[:, order] for x in (out, *tokens, call.coarse_gate))
            out = add_coarse_residual(out, *tokens, gate, call.layout)[:, order.argsort()]
            call.residual_added = True
        return out

    @property
    def flop_ratio(self) -> float:
        """Multiply-adds of attention's matrix products / those of full attention, averaged over all calls so far."""
        return float(torch.stack(self.flop_ratios).mean()) if self.flop_ratios else 1.0
