"""Inside the network: ISA's error in every attention call, and the paper's two premises of ISA."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import spearmanr

from ...data.procedural.stream import EditBatch
from ...isa_core import SHARPNESS_METRICS, ISAConfig, TokenLayout, in_context_sparse_attention
from ...isa_core.layout import block_table
from ...isa_core.plan import Coarse, RoutingPlan, coarse_scores
from ...isa_core.policies.paper import route
from ...isa_core.pool import pool_blocks
from ..attention.errors import relative
from ..editor import Call, Editor, watch
from .settings import Setting, attend

ERRORS = ("taylor", "routed")
"""Of a query block: with all of its KV list as means, and as ISA's sparse group attends, the best blocks exactly."""

SAMPLE = 400
"""Number of query blocks in the scatter plot."""


def attention_errors(editor: Editor, batch: EditBatch, steps: int, chosen: dict[str, Setting]) -> dict[str, dict]:
    """{setting: {"target", "all": [step][network block]}}: relative L2 error to full attention on the same q, k, v.

    Along the trajectory of full attention, so that no error adds to another. Of the target's queries, and of all.
    """
    found = {name: {"target": [], "all": []} for name in chosen}

    def look(call: Call):
        for name, setting in chosen.items():
            out = attend(setting, call.q, call.k, call.v, call.layout, call.grid)[0]
            for queries, tokens in (("target", call.layout.target), ("all", call.layout.total)):
                rows = found[name][queries]
                if call.block == 0:
                    rows.append([])
                rows[-1].append(float(f"{relative(out[:, :tokens], call.full[:, :tokens]):.3g}"))

    watch(editor, batch, steps, look)
    return found


def premises(editor: Editor, batch: EditBatch, steps: int, config: ISAConfig) -> tuple[dict, float]:
    """(the paper's figures 5 and 6 for our network, the median sharpness of all query blocks by `config.sharpness`).

    Of the clips with their instruction, at the first step, in the middle, and at the last.
    """
    chosen, seen = {0, steps // 2, steps - 1}, defaultdict(list)

    def look(call: Call):
        if call.step in chosen:
            # The first half: the second one is without instruction.
            q, k, v = (x[: len(x) // 2].float() for x in (call.q, call.k, call.v))
            measured = context_saliency(q, k, call.layout, config) | sharpness_and_error(q, k, v, call.layout, config)
            seen[call.block].append({name: value.cpu() for name, value in measured.items()})

    watch(editor, batch, steps, look)
    blocks = {
        block: {name: torch.stack([one[name] for one in many]) for name in many[0]} for block, many in sorted(seen.items())
    }
    together = {name: torch.stack([found[name] for found in blocks.values()]) for name in blocks[0]}
    result = {
        "steps": sorted(chosen),
        "blocks": [{"block": block, **_summary(found)} for block, found in blocks.items()],
        "all": _summary(together),
        "sample": _sample(together),
    }
    return result, together[config.sharpness].median().item()


def context_saliency(q, k, layout: TokenLayout, config: ISAConfig) -> dict[str, torch.Tensor]:
    """The distribution of the target's exact attention, q and k [B, S, H, D] -> [B, H] each:

    context_share: share of its attention on the context;
    kept_share: of that, the share on the context blocks that ISA keeps; best_share: on as many blocks, the best ones.
    """
    table = block_table(layout, config.block_size)
    mass = torch.stack([_mass(*pair, layout) for pair in zip(q, k)])  # [B, H, S]
    per_block = pool_blocks(mass.flatten(0, 1)[..., None], table)[..., 0].unflatten(0, mass.shape[:2])
    context = (per_block * table.lengths_on(q.device))[..., table.target_blocks :]
    kept = _plan(q, k, layout, config).kv_blocks[:, table.target_blocks :] - table.target_blocks
    kept = kept.unflatten(0, mass.shape[:2])
    whole = context.sum(2)
    return {
        "context_share": whole / layout.target,
        "kept_share": context.gather(2, kept).sum(2) / whole,
        "best_share": context.topk(kept.shape[2], dim=2).values.sum(2) / whole,
    }


def _mass(q, k, layout: TokenLayout) -> torch.Tensor:
    """q, k [S, H, D] -> [H, S]: attention that each token gets from the target's queries together."""
    query, key = (x.transpose(0, 1) for x in (q[: layout.target] * q.shape[2] ** -0.5, k))
    return torch.stack([(one @ other.T).softmax(1).sum(0) for one, other in zip(query, key)])


def _plan(q, k, layout: TokenLayout, config: ISAConfig) -> RoutingPlan:
    """ISA's plan for q, k [B, S, H, D], for B·H heads."""
    table = block_table(layout, config.block_size)
    scores = coarse_scores(*(pool_blocks(x.transpose(1, 2).flatten(0, 1), table) for x in (q, k)))
    return route(Coarse(scores, scores.softmax(-1)), table, config)


def sharpness_and_error(q, k, v, layout: TokenLayout, config: ISAConfig) -> dict[str, torch.Tensor]:
    """Of every query block, [B, H, N] each: its sharpness by each metric, and each of ERRORS.

    An error is against exact attention over the same KV list, in units of the head's mean output, so that heads compare.
    """
    found = {}
    for metric in SHARPNESS_METRICS:
        sharpness = _plan(q, k, layout, replace(config, sharpness=metric)).sharpness
        found[metric] = sharpness.unflatten(0, (q.shape[0], q.shape[2]))

    def output(**ratios) -> torch.Tensor:
        # Not the kernels: fp32 without exact blocks runs on PyTorch only.
        return in_context_sparse_attention(q, k, v, layout=layout, config=replace(config, **ratios), backend="torch")

    exact = output(dense_query_ratio=1)
    sparse = output(dense_query_ratio=0, exact_ratio=0), output(dense_query_ratio=0)
    scale = _per_block(exact, layout, config.block_size).square().mean(2, keepdim=True).sqrt()
    return found | {name: _per_block(out - exact, layout, config.block_size) / scale for name, out in zip(ERRORS, sparse)}


def _per_block(x: torch.Tensor, layout: TokenLayout, block_size: int) -> torch.Tensor:
    """[B, S, H, D] -> [B, H, N]: root mean square of each block's tokens."""
    squares = x.square().mean(3).transpose(1, 2)
    pooled = pool_blocks(squares.flatten(0, 1)[..., None], block_table(layout, block_size))
    return pooled[..., 0].unflatten(0, squares.shape[:2]).sqrt()


def _summary(found: dict[str, torch.Tensor]) -> dict:
    """Means of the shares and of the errors, and Spearman's correlations of sharpness and error, of tensors [.., B, H(, N)].

    Within heads, as ratios route; within heads among the target's query blocks; and of all query blocks of all heads.
    """
    shares = {name: round(found[name].mean().item(), 4) for name in ("context_share", "kept_share", "best_share")}
    errors = {name: round(found[name].square().mean().sqrt().item(), 4) for name in ERRORS}
    ranks = {"spearman": {}, "spearman_target": {}, "spearman_pooled": {}}
    for metric in SHARPNESS_METRICS:
        for error in ERRORS:
            heads = [found[name].flatten(0, -2) for name in (metric, error)]
            target = [x[:, : x.shape[1] // 2] for x in heads]  # as many blocks as the context, which is of the same size
            pooled = [x.flatten()[None] for x in heads]
            for name, pair in zip(ranks, (heads, target, pooled)):
                ranks[name][f"{metric} {error}"] = rank_correlation(*pair)
    return shares | {"error": errors} | ranks


def rank_correlation(one: torch.Tensor, other: torch.Tensor) -> float | None:
    """Spearman's, of each row of two [R, N], averaged; None if all rows are constant and have no ranks."""
    found = [spearmanr(*pair).statistic for pair in zip(one.numpy(), other.numpy()) if all(np.ptp(x) > 0 for x in pair)]
    return round(float(np.mean(found)), 3) if found else None


def _sample(together: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """Some query blocks at random: their network block, sharpness by each metric, and errors."""
    shape = together["taylor"].shape
    chosen = torch.randperm(together["taylor"].numel(), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    found = {"block": torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1)).expand(shape).flatten()[chosen].tolist()}
    for name in (*SHARPNESS_METRICS, *ERRORS):
        found[name] = [float(f"{value:.3g}") for value in together[name].flatten()[chosen].tolist()]
    return found
