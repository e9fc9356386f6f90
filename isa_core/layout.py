"""The positions of target, context and exact tokens in the sequence, and the blocks of each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .config import blocks_for

TARGET, CONTEXT, EXACT = KINDS = "target", "context", "exact"


class Segment(NamedTuple):
    """A run of tokens of one kind in the sequence."""

    kind: str
    tokens: int


@dataclass(frozen=True)
class TokenLayout:
    """Token groups of one in-context self-attention: the target, then every context, or in another order with `of`.

    target: tokens being denoised, at least 1; of all targets together.
    context: tokens of each context group (the video to edit, then references) in memory order; may be empty.
    order: all segments in memory order; empty where they are the target, then every context.

    Raises ValueError when a length is not a whole number of at least 1, or the order has not these groups.
    """

    target: int
    context: tuple[int, ...] = ()
    order: tuple[Segment, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "context", tuple(self.context))
        for length in (self.target, *self.context, *(segment.tokens for segment in self.order)):
            if not isinstance(length, int) or isinstance(length, bool) or length < 1:
                raise ValueError(
                    f"a token group must hold a whole number of tokens, at least 1; got {length!r} "
                    f"in target={self.target!r}, context={self.context!r}."
                )
        if self.order and (sum(self._of(TARGET)), self._of(CONTEXT)) != (self.target, self.context):
            raise ValueError(
                f"target {self.target} and context {self.context} are not the groups of {self}: use TokenLayout.of."
            )

    @classmethod
    def of(cls, *segments: tuple[str, int]) -> TokenLayout:
        """The layout of (kind, tokens) in memory order: `TokenLayout.of(("exact", 77), ("context", 4096), ("target", 4096))`.

        Kinds: "target", what is denoised and is the measure of which context matters, anywhere and as often as needed, at
        least once; "context", of which ISA keeps a part; "exact", such as text or sound: every query attends all of its
        tokens exactly, and its own queries have full attention.

        Raises ValueError for another kind, a length that is not a whole number of at least 1, or no target.
        """
        order = tuple(Segment(*segment) for segment in segments)
        for segment in order:
            if segment.kind not in KINDS:
                raise ValueError(f"a token group must be one of {', '.join(KINDS)}; got {segment.kind!r}.")
            if not isinstance(segment.tokens, int) or isinstance(segment.tokens, bool) or segment.tokens < 1:
                raise ValueError(
                    f"a token group must hold a whole number of tokens, at least 1; got {segment.tokens!r} in {segment.kind}."
                )
        kinds = [segment.kind for segment in order]
        if TARGET not in kinds:
            raise ValueError(f"a layout needs a target; got {', '.join(kinds) or 'nothing'}.")
        usual = kinds == [TARGET] + [CONTEXT] * (len(kinds) - 1)
        target, context = (tuple(tokens for kind, tokens in order if kind == wanted) for wanted in (TARGET, CONTEXT))
        return cls(sum(target), context, () if usual else order)

    @property
    def in_memory(self) -> tuple[Segment, ...]:
        """All segments in memory order."""
        return self.order or (Segment(TARGET, self.target), *(Segment(CONTEXT, tokens) for tokens in self.context))

    def _of(self, kind: str) -> tuple[int, ...]:
        return tuple(segment.tokens for segment in self.in_memory if segment.kind == kind)

    @property
    def segments(self) -> tuple[int, ...]:
        """Tokens of each segment in the order of blocks: every target, every context, every exact one."""
        return tuple(tokens for kind in KINDS for tokens in self._of(kind))

    @property
    def exact(self) -> int:
        """Tokens of all exact segments."""
        return sum(self._of(EXACT))

    @property
    def total(self) -> int:
        return sum(segment.tokens for segment in self.in_memory)

    def spans(self, *kinds: str) -> tuple[tuple[int, int], ...]:
        """(first token, tokens) of the segments of these kinds, in the order of blocks."""
        starts = accumulate((segment.tokens for segment in self.in_memory), initial=0)
        placed = [(segment.kind, start, segment.tokens) for segment, start in zip(self.in_memory, starts)]
        return tuple((start, tokens) for kind in KINDS if kind in kinds for found, start, tokens in placed if found == kind)

    @property
    def without_context(self) -> TokenLayout:
        """Of the tokens that run where keys and values of the contexts are kept from an earlier call: targets and exact ones."""
        return TokenLayout.of(*(segment for segment in self.in_memory if segment.kind != CONTEXT))

    def alone(self, kind: str) -> TokenLayout:
        """The segments of this kind one after the other, as if they were all: each of them is a target."""
        return TokenLayout.of(*((TARGET, tokens) for tokens in self._of(kind)))

    def __str__(self) -> str:
        """ "64 + 32", or with the kinds where they are not the usual ones: "exact 77 + context 32 + target 64"."""
        return " + ".join(f"{kind} {tokens}" if self.order else str(tokens) for kind, tokens in self.in_memory)


@dataclass(frozen=True)
class BlockTable:
    """Segments cut into blocks, so that no block mixes two groups. Blocks are numbered targets first, then contexts, then exact
    ones, wherever their tokens lie.

    Only the last block of a segment may be ragged (shorter than `block_size`). The public release cuts the
    concatenated sequence instead, which lets one block straddle target and context.
    """

    layout: TokenLayout
    block_size: int
    spans: tuple[tuple[int, int], ...]
    """(first token, tokens) of every segment that is cut, in the order of blocks."""
    lengths: tuple[int, ...]
    """True length in tokens of every block."""
    starts: tuple[int, ...]
    """First token of every block."""
    target_blocks: int
    """Blocks 0 .. target_blocks-1 are the target's; all later ones belong to a context or are exact."""
    exact_blocks: int
    """The last blocks, which every query attends exactly."""

    @property
    def count(self) -> int:
        return len(self.lengths)

    def of_queries(self, tokens: int) -> BlockTable:
        """The blocks of `tokens` queries that a policy decides on: of all tokens but the exact ones, or of the target's alone.

        They are the first blocks of this table. Where they start is counted in the tensor of these queries.
        """
        if tokens == self.layout.total:
            return _without_exact(self.layout, self.block_size) if self.exact_blocks else self
        return block_table(self.layout.alone(TARGET), self.block_size)

    @property
    def context_blocks(self) -> int:
        return self.count - self.target_blocks - self.exact_blocks

    @property
    def context_columns(self) -> slice:
        """Of a row of all blocks, those of contexts."""
        return slice(self.target_blocks, self.count - self.exact_blocks)

    @property
    def exact_columns(self) -> slice:
        return slice(self.count - self.exact_blocks, self.count)

    def lengths_on(self, device: torch.device | str) -> torch.Tensor:
        """[N] block lengths as int64; one tensor per device, which callers must not change."""
        return _lengths_on(self, torch.device(device))

    @property
    def ragged_context(self) -> tuple[int, ...]:
        """Numbers of the ragged context blocks, at most one per context."""
        return tuple(i for i in range(self.count)[self.context_columns] if self.lengths[i] < self.block_size)

    def kept_blocks(self, keep_ratio: float) -> int:
        """Context blocks that each head keeps: a share of all. It includes every ragged block unless it is zero.

        So all heads list equally many tokens: they attend in one call, of a size that the host knows without asking the GPU.
        """
        return max(blocks_for(keep_ratio, self.context_blocks), len(self.ragged_context)) if keep_ratio > 0 else 0

    def listed_tokens(self, keep_ratio: float) -> int:
        """Tokens of each head's KV list: the target's, the exact ones and those of the kept context blocks."""
        kept = self.kept_blocks(keep_ratio)
        missing = sum(self.block_size - self.lengths[i] for i in self.ragged_context) if kept else 0
        return self.layout.target + self.layout.exact + kept * self.block_size - missing

    def ragged_first(self, device: torch.device | str) -> torch.Tensor:
        """[context blocks] fp32 to add to the saliency: for ragged blocks, a number above every saliency."""
        return _ragged_first(self, torch.device(device))

    @property
    def segment_blocks(self) -> list[int]:
        """Blocks of each segment."""
        return [-(-tokens // self.block_size) for _, tokens in self.spans]

    def exact_per_segment(self, exact_ratio: float) -> list[int]:
        """How many blocks of each segment a query block attends exactly under "segment_top_k"."""
        chosen = len(self.layout.spans(TARGET, CONTEXT))
        return [blocks_for(exact_ratio if i < chosen else 1, blocks) for i, blocks in enumerate(self.segment_blocks)]

    def parts(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x [G, S, D] -> the tokens of each segment, in the order of blocks."""
        return [x.narrow(1, start, tokens) for start, tokens in self.spans]

    def slot_is_token(self, device: torch.device | str) -> torch.Tensor:
        """[N, block_size] bool: False on the padding of a ragged block."""
        return torch.arange(self.block_size, device=device) < self.lengths_on(device)[:, None]

    def to_blocks(self, x: torch.Tensor) -> torch.Tensor:
        """[G, S, D] tokens -> [G, N, block_size, D], ragged blocks padded with zeros."""
        parts = [F.pad(part, (0, 0, 0, -part.shape[1] % self.block_size)) for part in self.parts(x)]
        return torch.cat(parts, dim=1).unflatten(1, (self.count, self.block_size))

    def to_tokens(self, blocks: torch.Tensor) -> torch.Tensor:
        """[G, N, block_size, D] -> [G, S, D]: the inverse of `to_blocks`, with zeros where the table has no block."""
        slots, found, first = blocks.flatten(1, 2), [], 0
        for start, tokens in self.spans:
            found.append((start, slots[:, first : first + tokens]))
            first += tokens + -tokens % self.block_size
        parts, end = [], 0
        for start, part in sorted(found, key=lambda each: each[0]):
            parts += [part.new_zeros(len(part), start - end, part.shape[2])] * (start > end) + [part]
            end = start + part.shape[1]
        whole = torch.cat(parts, dim=1)
        return F.pad(whole, (0, 0, 0, self.layout.total - end)) if end < self.layout.total else whole

    def spread(self, per_block: torch.Tensor) -> torch.Tensor:
        """[G, N, D], one row per block -> [G, S, D], each row repeated for each token of its block."""
        # Not repeat_interleave: its gradient sums tokens with atomics, which is very slow in bf16.
        return self.to_tokens(per_block[:, :, None].expand(-1, -1, self.block_size, -1))


@lru_cache(maxsize=64)
def block_table(layout: TokenLayout, block_size: int) -> BlockTable:
    """Cut `layout` into blocks of `block_size` tokens."""
    return _cut(layout, block_size, KINDS)


@lru_cache(maxsize=64)
def _without_exact(layout: TokenLayout, block_size: int) -> BlockTable:
    return _cut(layout, block_size, (TARGET, CONTEXT))


def _cut(layout: TokenLayout, block_size: int, kinds: Sequence[str]) -> BlockTable:
    """The blocks of the segments of these kinds."""

    def cut(spans) -> list[tuple[int, int]]:
        return [(start + at, min(block_size, tokens - at)) for start, tokens in spans for at in range(0, tokens, block_size)]

    spans = layout.spans(*kinds)
    starts, lengths = zip(*cut(spans))
    of_target, of_exact = (len(cut(layout.spans(kind))) if kind in kinds else 0 for kind in (TARGET, EXACT))
    return BlockTable(layout, block_size, spans, lengths, starts, of_target, of_exact)


@lru_cache(maxsize=64)
def _lengths_on(table: BlockTable, device: torch.device) -> torch.Tensor:
    return upload(table.lengths, device)


@lru_cache(maxsize=64)
def _ragged_first(table: BlockTable, device: torch.device) -> torch.Tensor:
    ragged = set(table.ragged_context)
    return upload([float(i in ragged) * 1e30 for i in range(table.count)[table.context_columns]], device, torch.float32)


def upload(values: Sequence, device: torch.device | str, dtype: torch.dtype | None = None) -> torch.Tensor:
    """`values` as a tensor on `device`, without the host waiting for work queued there."""
    # An inference tensor, kept for later calls, could not be saved for a backward pass.
    with torch.inference_mode(False):
        tensor = torch.tensor(values, dtype=dtype)
        if torch.device(device).type != "cuda":
            return tensor.to(device)
        return tensor.pin_memory().to(device, non_blocking=True)
