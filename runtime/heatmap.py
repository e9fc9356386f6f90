"""Heat maps of what is attended exactly, kept context, sharpness and dense query blocks: reduced on the GPU, encoded on the CPU."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch

from ..isa_core import ISAStats
from .read_back import ReadBack

OFF, THUMBNAIL, EVERY_BLOCK = "off", "thumbnail", "every transformer block"
DETAILS = (OFF, THUMBNAIL, EVERY_BLOCK)

MEAN = -1
"""In place of a transformer block's number: the mean of the sampled blocks."""

HEADS, BLOCKS = 8, 4
"""Number of blocks and heads that are sampled, evenly spread; enough for a picture of a model with 40 and 40."""

MOST_BLOCKS = 16_384
"""Longer sequences (a million tokens) have no heat map, because it would be most of the page's traffic."""


@dataclass(frozen=True)
class EncodedMap:
    """One heat map in bytes: four rows of as many bytes as the sequence has blocks.

    kept: share of heads that kept a context block. dense: share of heads in which a query block attended exactly.
    sharpness: its logarithm, from `sharpness_range[0]` as 0 to `sharpness_range[1]` as 255.
    attended: share of the query blocks, over the heads, that attend exactly to a block, from 0 to `most_attended` as 255.
    """

    kept: bytes
    dense: bytes
    sharpness: bytes
    attended: bytes
    sharpness_range: tuple[float, float]
    most_attended: float


class HeatMaps:
    """Collects the calls of one evaluation of the model. Reads nothing back from the device by itself."""

    def __init__(self, detail: str):
        self.detail = detail
        self._sums: dict[int, torch.Tensor] = {}
        self._calls: dict[int, int] = defaultdict(int)

    def wants(self, transformer_block: int, of_blocks: int, blocks: int) -> bool:
        """Whether a call of this transformer block over so many blocks of tokens is part of a map. Its statistics must count what is attended."""
        sampled = self.detail == THUMBNAIL and _is_sampled(transformer_block, of_blocks)
        return (self.detail == EVERY_BLOCK or sampled) and blocks <= MOST_BLOCKS

    def add(self, stats: ISAStats, transformer_block: int, of_blocks: int) -> None:
        blocks = stats.sharpness.shape[2]
        if not self.wants(transformer_block, of_blocks, blocks):
            return
        sampled = _is_sampled(transformer_block, of_blocks)
        found = _reduce(stats, blocks)
        for key in [transformer_block] * (self.detail == EVERY_BLOCK) + [MEAN] * sampled:
            # Calls may have run on several GPUs.
            self._sums[key] = self._sums[key] + found.to(self._sums[key].device) if key in self._sums else found
            self._calls[key] += 1

    def take(self) -> tuple[list[int], ReadBack] | None:
        """(transformer block or MEAN of each, their [4, blocks] maps, being copied to the CPU). Clears the collection."""
        if not self._sums:
            return None
        keys = sorted(self._sums)
        device = self._sums[keys[0]].device
        maps = torch.stack([self._sums[key].to(device) / self._calls[key] for key in keys])
        self._sums, self._calls = {}, defaultdict(int)
        return keys, ReadBack(maps)


def _is_sampled(transformer_block: int, of_blocks: int) -> bool:
    return transformer_block % max(1, of_blocks // BLOCKS) == 0


def _reduce(stats: ISAStats, blocks: int) -> torch.Tensor:
    """[4, blocks]: kept, dense, sharpness, attended; means over batch and sampled heads."""
    assert stats.attended is not None
    every = max(1, stats.sharpness.shape[1] // HEADS)
    dense, sharpness, chosen = (each[:, ::every] for each in (stats.dense_queries, stats.sharpness, stats.kept_context))
    lists = chosen.flatten(0, 1)
    ones = torch.ones((), device=lists.device).expand(lists.numel())
    kept = torch.zeros(blocks, device=lists.device).scatter_add_(0, lists.flatten().long(), ones) / len(lists)
    attended = stats.attended[:, ::every, :blocks].mean((0, 1))
    return torch.stack([kept, dense.float().mean((0, 1)), sharpness.float().mean((0, 1)), attended])


def encode(maps: torch.Tensor) -> EncodedMap:
    """[4, blocks] float on the CPU -> bytes."""
    kept, dense, sharpness, attended = maps
    most = max(float(attended.max()), 1e-6)
    # Sharpness is at most 1. The variance of uniform attention is 0.
    levels = sharpness.clamp_min(1e-12).log10()
    low, high = float(levels.min()), float(levels.max())
    scaled = (levels - low) / max(high - low, 1e-6)
    rows = [(row.clamp(0, 1) * 255).round().to(torch.uint8).numpy().tobytes() for row in (kept, dense, scaled, attended / most)]
    return EncodedMap(rows[0], rows[1], rows[2], rows[3], (low, high), most)
