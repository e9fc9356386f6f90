"""When ISA acts: a share of the denoising schedule, some transformer blocks, long enough sequences."""

from __future__ import annotations

from dataclasses import dataclass

MIN_TOKENS = 12_288
"""The default of min_tokens. Shorter clips gain little speed; with LIVEditor-tiny they lose most quality (docs/fidelity.md)."""


@dataclass(frozen=True)
class Schedule:
    """Same names and meanings as ComfyUI's own sparse attention.

    start_percent, end_percent: part of the schedule in which ISA acts, 0..1.
    dense_blocks: transformer blocks that always attend fully, e.g. "0-2,-1"; negative numbers count from the end.
    min_tokens: shorter sequences attend fully.

    Raises ValueError when the range is empty or `dense_blocks` cannot be read.
    """

    start_percent: float = 0.0
    end_percent: float = 1.0
    dense_blocks: str = ""
    min_tokens: int = 0

    def __post_init__(self):
        if not 0.0 <= self.start_percent < self.end_percent <= 1.0:
            raise ValueError(
                f"start_percent must lie below end_percent, both from 0 to 1; got {self.start_percent} and {self.end_percent}."
            )
        _ranges(self.dense_blocks)

    def is_dense_block(self, index: int, total: int) -> bool:
        return any(_counted(first, total) <= index <= _counted(last, total) for first, last in _ranges(self.dense_blocks))


def _counted(number: int, total: int) -> int:
    """Block numbers counted from the start. A range may reach beyond the last block."""
    return number + total if number < 0 else number


def _ranges(text: str) -> list[tuple[int, int]]:
    """ "0-2,-1" -> [(0, 2), (-1, -1)]."""
    ranges = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = part[1:].partition("-")
        first = part[0] + first
        try:
            ranges.append((int(first), int(last if dash else first)))
        except ValueError:
            raise ValueError(
                f'dense_blocks is a list of block numbers and ranges such as "0-2,-1"; cannot read "{part}".'
            ) from None
    return ranges
