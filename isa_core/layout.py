"""The positions of target and context tokens in the sequence, and the blocks of each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
import torch.nn.functional as F

from .config import blocks_for


@dataclass(frozen=True)
class TokenLayout:
    """Token groups of one in-context self-attention, in memory order: the target, then every context.

    target: tokens being denoised, at least 1.
    context: tokens of each context group (the video to edit, then references); may be empty.

    Raises ValueError when a length is not a whole number of at least 1.
    """

    target: int
    context: tuple[int, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "context", tuple(self.context))
        for length in (self.target, *self.context):
            if not isinstance(length, int) or isinstance(length, bool) or length < 1:
                raise ValueError(
                    f"a token group must hold a whole number of tokens, at least 1; got {length!r} "
                    f"in target={self.target!r}, context={self.context!r}."
                )

    @property
    def segments(self) -> tuple[int, ...]:
        return (self.target, *self.context)

    @property
    def total(self) -> int:
        return sum(self.segments)


@dataclass(frozen=True)
class BlockTable:
    """A layout cut into blocks, segment by segment, so that no block mixes two groups.

    Only the last block of a segment may be ragged (shorter than `block_size`). The public release cuts the
    concatenated sequence instead, which lets one block straddle target and context.
    """

    layout: TokenLayout
    block_size: int
    lengths: tuple[int, ...]
    """True length in tokens of every block."""
    target_blocks: int
    """Blocks 0 .. target_blocks-1 are the target's; all later ones belong to a context."""

    @property
    def count(self) -> int:
        return len(self.lengths)

    def of_queries(self, tokens: int) -> BlockTable:
        """The blocks of `tokens` queries: of all tokens, or of the target's alone, which are the first rows of this table."""
        return self if tokens == self.layout.total else block_table(TokenLayout(self.layout.target), self.block_size)

    @property
    def context_blocks(self) -> int:
        return self.count - self.target_blocks

    def lengths_on(self, device: torch.device | str) -> torch.Tensor:
        """[N] block lengths as int64; one tensor per device, which callers must not change."""
        return _lengths_on(self, torch.device(device))

    @property
    def ragged_context(self) -> tuple[int, ...]:
        """Numbers of the ragged context blocks, at most one per context."""
        return tuple(i for i in range(self.target_blocks, self.count) if self.lengths[i] < self.block_size)

    def kept_blocks(self, keep_ratio: float) -> int:
        """Context blocks that each head keeps: a share of all. It includes every ragged block unless it is zero.

        So all heads list equally many tokens: they attend in one call, of a size that the host knows without asking the GPU.
        """
        return max(blocks_for(keep_ratio, self.context_blocks), len(self.ragged_context)) if keep_ratio > 0 else 0

    def listed_tokens(self, keep_ratio: float) -> int:
        """Tokens of each head's KV list: the target's and those of the kept context blocks."""
        kept = self.kept_blocks(keep_ratio)
        missing = sum(self.block_size - self.lengths[i] for i in self.ragged_context) if kept else 0
        return self.layout.target + kept * self.block_size - missing

    def ragged_first(self, device: torch.device | str) -> torch.Tensor:
        """[context blocks] fp32 to add to the saliency: for ragged blocks, a number above every saliency."""
        return _ragged_first(self, torch.device(device))

    @property
    def segment_blocks(self) -> list[int]:
        """Blocks of each segment."""
        return [-(-tokens // self.block_size) for tokens in self.layout.segments]

    def exact_per_segment(self, exact_ratio: float) -> list[int]:
        """How many blocks of each segment a query block attends exactly under "segment_top_k"."""
        return [blocks_for(exact_ratio, blocks) for blocks in self.segment_blocks]

    @property
    def starts(self) -> tuple[int, ...]:
        """First token of every block."""
        return (0, *accumulate(self.lengths))[:-1]

    def slot_is_token(self, device: torch.device | str) -> torch.Tensor:
        """[N, block_size] bool: False on the padding of a ragged block."""
        return torch.arange(self.block_size, device=device) < self.lengths_on(device)[:, None]

    def to_blocks(self, x: torch.Tensor) -> torch.Tensor:
        """[G, S, D] tokens -> [G, N, block_size, D], ragged blocks padded with zeros."""
        parts = [F.pad(part, (0, 0, 0, -part.shape[1] % self.block_size)) for part in x.split(self.layout.segments, dim=1)]
        return torch.cat(parts, dim=1).unflatten(1, (self.count, self.block_size))

    def to_tokens(self, blocks: torch.Tensor) -> torch.Tensor:
        """[G, N, block_size, D] -> [G, S, D]: the inverse of `to_blocks`."""
        slots, parts, start = blocks.flatten(1, 2), [], 0
        for length in self.layout.segments:
            parts.append(slots[:, start : start + length])
            start += length + -length % self.block_size
        return torch.cat(parts, dim=1)

    def spread(self, per_block: torch.Tensor) -> torch.Tensor:
        """[G, N, D], one row per block -> [G, S, D], each row repeated for each token of its block."""
        # Not repeat_interleave: its gradient sums tokens with atomics, which is very slow in bf16.
        return self.to_tokens(per_block[:, :, None].expand(-1, -1, self.block_size, -1))


@lru_cache(maxsize=64)
def block_table(layout: TokenLayout, block_size: int) -> BlockTable:
    """Cut `layout` into blocks of `block_size` tokens."""
    lengths, target_blocks = [], 0
    for index, tokens in enumerate(layout.segments):
        full, rest = divmod(tokens, block_size)
        lengths += [block_size] * full + [rest] * (rest > 0)
        if index == 0:
            target_blocks = len(lengths)
    return BlockTable(layout, block_size, tuple(lengths), target_blocks)


@lru_cache(maxsize=64)
def _lengths_on(table: BlockTable, device: torch.device) -> torch.Tensor:
    return upload(table.lengths, device)


@lru_cache(maxsize=64)
def _ragged_first(table: BlockTable, device: torch.device) -> torch.Tensor:
    ragged = set(table.ragged_context)
    return upload([float(i in ragged) * 1e30 for i in range(table.target_blocks, table.count)], device, torch.float32)


def upload(values: Sequence, device: torch.device | str, dtype: torch.dtype | None = None) -> torch.Tensor:
    """`values` as a tensor on `device`, without the host waiting for work queued there."""
    # An inference tensor, kept for later calls, could not be saved for a backward pass.
    with torch.inference_mode(False):
        tensor = torch.tensor(values, dtype=dtype)
        if torch.device(device).type != "cuda":
            return tensor.to(device)
        return tensor.pin_memory().to(device, non_blocking=True)
