"""Correcting the colours of an edit by those of its source: a gain and an offset for each frame and channel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from .composite import Samples, bicubic, resize
from .geometry import CropBox
from .region import Region

CELLS = 64
"""Cells along the longer side of the grid on which colours are compared. A VAE loses finer detail, which is not colour."""

CONTRAST = 0.05
"""Standard deviation, of 0..1, at which a frame and the estimate before it have equal weight for the gain."""

FLAT = 1 / 255
"""Standard deviation below which a frame is uniform and its spread carries no information."""

MOST_GAIN = 1.25
"""Of a correction of drift; a contrast that changes more has other causes, such as a fade."""

REMEMBERED = 16
"""Frames over which drift is averaged."""

Pairs = Iterable[tuple[torch.Tensor, torch.Tensor]]
"""Frames of an edit, [h, w, 3], each with its source's, [H, W, 3], in 0..1."""


Grid = tuple[Samples, Samples]
"""Rows and columns at which to read a frame."""


class Correction(NamedTuple):
    """colour · gain + offset, [3] each."""

    gain: torch.Tensor
    offset: torch.Tensor


NONE = Correction(torch.ones(3), torch.zeros(3))


def match_colours(pairs: Pairs, region: Region, crop: CropBox) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The pairs, with the edit's colours corrected.

    Where a mask or a box restricts the edit, what the model saw around it is the same scene in both, and its colours
    become the source's: `Surroundings`. Otherwise the edit may have new colours on purpose, which stay what they are at
    its start: `Drift`.
    """
    match = Surroundings() if region.restricted else Drift()
    grids: tuple[Grid, Grid] | None = None
    for index, (edited, original) in enumerate(pairs):
        if grids is None:
            grids = _grids(edited.shape, original.shape, crop)
        grid, source_grid = grids
        cells, source_cells = (
            resize(frame, *places).flatten(0, 1) for frame, places in ((edited, grid), (original, source_grid))
        )
        if region.restricted:
            touched = (region.weights(index)[1] > 0).float()[..., None]
            untouched = resize(touched, *source_grid).flatten() < 0.01
            cells, source_cells = cells[untouched], source_cells[untouched]
        gain, offset = match(cells, source_cells)
        yield (edited * gain + offset).clamp(0, 1), original


class Surroundings:
    """Makes cells that show the same scene have the same colours: robust least squares, frame by frame.

    Called with the cells of a frame, [N, 3], and its source's. What a frame does not tell (it is dark or even, or the
    region covers all of it) stays as in the frame before, at the start: no correction. Cells that differ by more than
    colour, as where the edit reaches beyond its region, are outliers.
    """

    def __init__(self):
        self.last = NONE

    def __call__(self, cells: torch.Tensor, source_cells: torch.Tensor) -> Correction:
        if len(cells):
            self.last = _fit(cells, source_cells, self.last)
        return self.last


class Drift:
    """Holds the relation between the colours of an edit and its source at what it was in the first frames.

    Called with the cells of a frame, [N, 3], and its source's. The relation is the straight line, and the scatter around
    it, by which the edit's colours follow the source's: where an edit darkens, or turns light into dark, and the scene gets
    brighter, that is no drift. It is averaged over about REMEMBERED frames, so the correction is smooth; in the first
    REMEMBERED frames there is none.
    """

    def __init__(self):
        self.frames = 0
        self.average = self.start = torch.zeros(())

    def __call__(self, cells: torch.Tensor, source_cells: torch.Tensor) -> Correction:
        now = torch.stack(_moments(cells, source_cells))
        self.frames += 1
        # A plain average at first.
        self.average = self.average + (now - self.average) / min(self.frames, REMEMBERED)
        if self.frames <= REMEMBERED:
            self.start = self.average
            return NONE
        mean, source_mean, square, source_square, _ = self.average
        start_mean, start_source_mean, start_square, start_source_square, product = self.start
        slope = product / start_source_square.clamp(min=FLAT**2)
        scatter = (start_square - slope * product).clamp(min=0)
        wanted = slope.square() * source_square + scatter
        gain = ((wanted + FLAT**2) / (square + FLAT**2)).sqrt().clamp(1 / MOST_GAIN, MOST_GAIN)
        return Correction(gain, start_mean + slope * (source_mean - start_source_mean) - gain * mean)


def _moments(cells: torch.Tensor, source_cells: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Means and variances of both, then their covariance, [3] each."""
    mean, source_mean = cells.mean(0), source_cells.mean(0)
    off, source_off = cells - mean, source_cells - source_mean
    return mean, source_mean, off.square().mean(0), source_off.square().mean(0), (off * source_off).mean(0)


def _fit(cells: torch.Tensor, wanted: torch.Tensor, before: Correction) -> Correction:
    """Tukey's biweight by reweighted least squares, per channel. CONTRAST sets the weight of `before`."""
    gain, offset = before.gain, (wanted - cells * before.gain).median(0).values
    for _ in range(10):
        residual = wanted - cells * gain - offset
        scale = 1.4826 * residual.abs().median(0).values.clamp(min=1 / 255)
        weight = (1 - (residual / (4.685 * scale)).square()).clamp(min=0).square()
        total = weight.sum(0)
        mean, wanted_mean = (weight * cells).sum(0) / total, (weight * wanted).sum(0) / total
        product = (weight * (cells - mean) * (wanted - wanted_mean)).sum(0) / total
        square = (weight * (cells - mean).square()).sum(0) / total
        gain = (product + CONTRAST**2 * before.gain) / (square + CONTRAST**2)
        offset = wanted_mean - gain * mean
    return Correction(gain, offset)


def _grids(edit: torch.Size, source: torch.Size, crop: CropBox) -> tuple[Grid, Grid]:
    """Where to read an edit, and a source, for the same grid of cells over the crop."""
    scale = CELLS / max(edit[:2])
    down, across = (max(1, round(side * scale)) for side in edit[:2])
    own = bicubic(edit[0], 0, edit[0], down), bicubic(edit[1], 0, edit[1], across)
    its = bicubic(source[0], crop.top, crop.height, down), bicubic(source[1], crop.left, crop.width, across)
    return own, its
