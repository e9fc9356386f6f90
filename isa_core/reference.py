"""The oracle: ISA in fp64, one query block at a time, written to be read beside section 3 of arXiv 2605.04569.

Shares no code with the fast path except `ISAConfig`, `TokenLayout` and the rounding rule `blocks_for`. Slow on purpose.
"""

from __future__ import annotations

import math
from typing import TypedDict

import torch

from .config import ERROR_AWARE, SEGMENT_TOP_K, ISAConfig, blocks_for
from .layout import TokenLayout


class HeadLists(TypedDict, total=False):
    """One head's decisions, as numbers of blocks."""

    kv: list[int]
    """KV blocks to which every query block may attend."""
    dense: set[int]
    """Query blocks that attend all of `kv` exactly."""
    exact: dict[int, list[int]]
    """KV blocks to which each sparse query block attends exactly."""

    means: dict[int, list[int]]
    """KV blocks that each sparse query block meets through their means, where a caller says so; else `tail` of `kv` decides."""


Routing = dict[tuple[int, int], HeadLists]
"""By batch element and head."""


def reference_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout, config: ISAConfig,
    coarse_gate: torch.Tensor | None = None, lists: Routing | None = None,
) -> tuple[torch.Tensor, Routing]:  # fmt: skip
    """k, v [B, S, H, D], q like them, without the context's tokens, or the target's alone, gate [B, tokens of q, 1, 1] or None -> (out like q in fp64, lists).

    Tokens stay where the layout has them: a block is a slice of the sequence. Blocks are numbered targets first, then contexts,
    then exact ones; a list holds numbers.
    lists: pass them in to fix the routing and compare only the arithmetic.
    """
    q, k, v = (x.double() for x in (q, k, v))
    blocks, kinds = cut_into_blocks(layout, config.block_size)
    rows = next(each for each in (layout, layout.without_context, layout.alone("target")) if each.total == q.shape[1])
    of_rows, kinds_of_rows = cut_into_blocks(rows, config.block_size)
    queries = of_rows[: len(of_rows) - kinds_of_rows.count("exact")]
    out = torch.zeros_like(q)
    used: Routing = {}
    for b in range(q.shape[0]):
        budget = error_budget(q[b], k[b], queries, blocks, kinds, config) if config.policy == ERROR_AWARE else None
        for h in range(q.shape[2]):
            head_q, head_k, head_v = q[b, :, h], k[b, :, h], v[b, :, h]
            mean_q = torch.stack([head_q[block].mean(0) for block in queries])
            mean_k, mean_v = (torch.stack([x[block].mean(0) for block in blocks]) for x in (head_k, head_v))
            variance_k = torch.stack([((head_k[block] - head_k[block].mean(0)) ** 2).mean(0) for block in blocks])
            scores = mean_q @ mean_k.T / math.sqrt(q.shape[-1])
            probabilities = torch.softmax(scores, dim=1)
            routing = lists[b, h] if lists else route_head(scores, probabilities, blocks, kinds, config)
            if budget is not None and not lists:
                routing = {"kv": routing["kv"], "dense": set(), "exact": budget[h]}
            if config.policy == SEGMENT_TOP_K and not lists:
                every = list(range(len(blocks)))
                routing = {
                    "kv": every,
                    "dense": set(),
                    "exact": top_of_segments(head_q, head_k, queries, blocks, kinds, layout, config),
                }
            used[b, h] = routing
            for block in of_rows[len(queries) :]:
                row = torch.softmax(head_q[block] @ head_k.T / math.sqrt(q.shape[-1]), dim=1)
                out[b, block, h] = row @ head_v
                if coarse_gate is not None:
                    coarse = torch.softmax(head_q[block].mean(0) @ mean_k.T / math.sqrt(q.shape[-1]), dim=0) @ mean_v
                    out[b, block, h] += coarse_gate.double()[b, block, 0] * coarse
            for i, block in enumerate(queries):
                exact = routing["kv"] if i in routing["dense"] else routing["exact"][i]
                tail = set(range(len(blocks))) if config.context_tail == "taylor" else set(routing["kv"])
                if i in routing["dense"] and config.context_tail == "drop":
                    tail = set()
                if "means" in routing:
                    tail = set(routing["means"][i])
                out[b, block, h] = attend_block(
                    head_q[block], head_k, head_v, mean_k, mean_v, blocks, exact, sorted(tail - set(exact)),
                    variance_k if config.tail_order == 2 and i not in routing["dense"] else None,
                )  # fmt: skip
                if coarse_gate is not None:
                    out[b, block, h] += coarse_gate.double()[b, block, 0] * (probabilities[i] @ mean_v)
    return out, used


def cut_into_blocks(layout: TokenLayout, size: int) -> tuple[list[slice], list[str]]:
    """Token ranges of all blocks, segment by segment, and the kind of each; targets first, then contexts, then exact ones."""
    found, start = [], 0
    for kind, length in layout.in_memory:
        for offset in range(0, length, size):
            found.append(
                (("target", "context", "exact").index(kind), slice(start + offset, start + min(offset + size, length)), kind)
            )
        start += length
    found.sort(key=lambda block: block[0])
    return [block for _, block, _ in found], [kind for *_, kind in found]


def route_head(
    scores: torch.Tensor, probabilities: torch.Tensor, blocks: list[slice], kinds: list[str], config: ISAConfig
) -> HeadLists:
    """One head's decisions from its coarse logits and their softmax, [R, N] each."""
    target, context, always = (
        [j for j, kind in enumerate(kinds) if kind == wanted] for wanted in ("target", "context", "exact")
    )
    saliency = probabilities[target].sum(0)
    # Every head keeps the ragged end of a context, so that all lists have the same number of tokens.
    ragged = [j for j in context if blocks[j].stop - blocks[j].start < config.block_size]
    whole = sorted((j for j in context if j not in ragged), key=lambda j: -saliency[j])
    wanted = max(blocks_for(config.keep_ratio, len(context)), len(ragged)) if config.keep_ratio > 0 else 0
    chosen = target + sorted((ragged + whole)[:wanted])

    sharpness = []
    for row in probabilities[:, target]:
        if config.sharpness == "variance":
            sharpness.append(((row - row.mean()) ** 2).mean().item())
        else:
            sharpness.append(sum(sorted(row.tolist(), reverse=True)[: max(1, blocks_for(config.exact_ratio, len(target)))]))
    queries = range(len(scores))
    if config.sharpness_threshold is not None:
        dense = {i for i in queries if sharpness[i] > config.sharpness_threshold}
    else:
        dense = set(sorted(queries, key=lambda i: -sharpness[i])[: blocks_for(config.dense_query_ratio, len(scores))])

    count = blocks_for(config.exact_ratio, len(chosen))
    exact = {i: sorted(sorted(chosen, key=lambda j: -scores[i, j])[:count]) + always for i in queries}
    return {"kv": chosen + always, "dense": dense, "exact": exact}


def error_budget(
    q: torch.Tensor, k: torch.Tensor, queries: list[slice], blocks: list[slice], kinds: list[str], config: ISAConfig
) -> list[dict[int, list[int]]]:  # fmt: skip
    """The exact lists of every head under one budget, q, k [S, H, D]: the pairs of largest expected error, of all heads together."""
    pairs: list[tuple[float, int, int, int]] = []
    for h in range(q.shape[1]):
        mean_q, mean_k = (torch.stack([x[block, h].mean(0) for block in cut]) for x, cut in ((q, queries), (k, blocks)))
        scores = mean_q @ mean_k.T / math.sqrt(q.shape[-1])
        probabilities = torch.softmax(scores, dim=1)
        for i, query in enumerate(queries):
            for j in route_head(scores, probabilities, blocks, kinds, config)["kv"]:
                if kinds[j] == "exact":
                    continue
                variance_k = ((k[blocks[j], h] - mean_k[j]) ** 2).mean(0)
                spread = ((q[query, h] ** 2).mean(0) * variance_k).sum() / q.shape[-1]
                tokens = blocks[j].stop - blocks[j].start
                pairs.append((float(probabilities[i, j] * tokens / config.block_size * spread.sqrt()), h, i, j))
    if config.error_threshold is None:
        exact = sorted(pairs, key=lambda pair: -pair[0])[: blocks_for(config.exact_ratio, len(pairs))]
    else:
        exact = [pair for pair in pairs if pair[0] >= config.error_threshold]
    lists: list[dict[int, list[int]]] = [{i: [] for i in range(len(queries))} for _ in range(q.shape[1])]
    for _, h, i, j in sorted(exact, key=lambda pair: pair[3]):
        lists[h][i].append(j)
    for each in lists:
        for exact_blocks in each.values():
            exact_blocks += [j for j, kind in enumerate(kinds) if kind == "exact"]
    return lists


def top_of_segments(
    q: torch.Tensor, k: torch.Tensor, queries: list[slice], blocks: list[slice], kinds: list[str], layout: TokenLayout, config: ISAConfig
) -> dict[int, list[int]]:  # fmt: skip
    """One head's exact lists, q, k [S, D]: of each segment the blocks that get most attention, among halves of blocks as tokens."""
    half = math.ceil(config.block_size / 2)

    def halves(block: slice) -> list[slice]:
        return [slice(first, min(first + half, block.stop)) for first in range(block.start, block.stop, half)]

    keys = [(j, part) for j, block in enumerate(blocks) for part in halves(block)]
    mean_k = torch.stack([k[part].mean(0) for _, part in keys])
    weight = torch.tensor([float(part.stop - part.start) for _, part in keys], dtype=k.dtype)
    exact: dict[int, list[int]] = {}
    for i, query in enumerate(queries):
        attention = torch.zeros(len(blocks), dtype=k.dtype)
        for part in halves(query):
            row = weight * torch.exp(q[part].mean(0) @ mean_k.T / math.sqrt(q.shape[1]))
            attention.index_add_(0, torch.tensor([j for j, _ in keys]), row / row.sum())
        exact[i], first = [], 0
        for length in (
            tokens for wanted in ("target", "context", "exact") for kind, tokens in layout.in_memory if kind == wanted
        ):
            segment = range(first, first + math.ceil(length / config.block_size))
            share = 1 if kinds[first] == "exact" else config.exact_ratio
            best = sorted(segment, key=lambda j: -attention[j])[: blocks_for(share, len(segment))]
            exact[i] += sorted(best)
            first = segment.stop
    return exact


def attend_block(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mean_k: torch.Tensor, mean_v: torch.Tensor, blocks: list[slice],
    exact: list[int], tail: list[int], variance_k: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Softmax of one query block over the tokens of `exact` and the length-weighted means of `tail`.

    variance_k: with it a mean weighs as much more as its block's logits vary, to second order, channels being independent.
    """
    keys = torch.cat([k[blocks[j]] for j in exact] + [mean_k[tail]])
    values = torch.cat([v[blocks[j]] for j in exact] + [mean_v[tail]])
    lengths = [blocks[j].stop - blocks[j].start for j in tail]
    weights = torch.tensor([1.0] * sum(blocks[j].stop - blocks[j].start for j in exact) + lengths, dtype=torch.float64)
    if variance_k is not None:
        more = 1 + (q**2 / q.shape[1]) @ variance_k[tail].T / 2
        weights = weights * torch.cat([torch.ones(len(q), len(weights) - len(tail), dtype=torch.float64), more], dim=1)
    logits = q @ keys.T / math.sqrt(q.shape[1])
    unnormalised = weights * torch.exp(logits - logits.max(dim=1, keepdim=True).values)
    return unnormalised / unnormalised.sum(dim=1, keepdim=True) @ values
