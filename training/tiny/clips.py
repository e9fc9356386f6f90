"""The clips that VAE and decoder learn from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ...data.procedural.footage import FootageStream, read_library
from ...data.procedural.stream import EditStream
from ..processes import own_seed


@dataclass(frozen=True)
class Sources:
    """What the parts have besides procedural clips; all may be missing."""

    pictures: Path | None = None
    """A folder for `data.procedural.footage`: for all parts."""
    vgg: Path | None = None
    """Weights for `Perceptual`: for VAE and decoder."""
    edition: Path | None = None
    """A folder with the three files of an earlier run, whose editor goes on with this run's VAE."""


class Clips:
    """Training clips by step, of the settings' seed, size and number: three steps of footage, then one of procedural edits.

    Drawing many at once takes the CPU hardly longer than one.
    """

    def __init__(self, settings, device, pictures: Path | None = None, pairs: int = 8):
        shape = (settings.frames, settings.size)
        self.edits = EditStream(own_seed(settings.seed), pairs, *shape, settings.size, device)
        self.footage = FootageStream(own_seed(settings.seed), settings.clips, *shape, device, read_library(pictures))
        self.parts = 2 * pairs // settings.clips
        self.drawn = (-1, None)

    def __call__(self, step: int) -> torch.Tensor:
        """[clips, 3, T, H, W] in 0..1."""
        round_, kind = divmod(step, 4)
        if kind < 3:
            return self.footage[step]
        number, part = divmod(round_, self.parts)
        if self.drawn[0] != number:
            self.drawn = number, both(self.edits[number])
        return self.drawn[1][part :: self.parts]


def both(batch) -> torch.Tensor:
    """Sources, then targets."""
    return torch.cat([batch.source, batch.target])
