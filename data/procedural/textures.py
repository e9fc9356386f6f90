"""Backgrounds: still panorama pictures, painted or photographed, over which the camera moves.

Every painter is a function of a `Canvas`, vectorised over clips: canvas -> [B, 3, h, w] in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from . import photos
from .scenes import PANORAMA, half_extents, rotation
from .tensors import colour, upload

LATTICE = 48
KNOBS = 10


@dataclass(frozen=True)
class Chance:
    """The random numbers behind B pictures, drawn on the CPU so that every device paints the same."""

    lattice: torch.Tensor
    """[B, LATTICE, LATTICE] uniform in 0..1: the source of all noise."""
    knobs: torch.Tensor
    """[B, KNOBS] uniform in 0..1: hues, phases, heights; each painter reads them as it likes."""

    @classmethod
    def draw(cls, batch: int, generator: torch.Generator) -> Chance:
        return cls(*(torch.rand(batch, *shape, generator=generator) for shape in ((LATTICE, LATTICE), (KNOBS,))))

    @classmethod
    def always(cls, batch: int) -> Chance:
        """The same for every picture and every call."""
        one = cls.draw(1, torch.Generator().manual_seed(1))
        return cls(*(part.expand(batch, *part.shape[1:]) for part in (one.lattice, one.knobs)))

    def of(self, clips: list[int], device: torch.device | str) -> Chance:
        return Chance(upload(self.lattice[clips], device), upload(self.knobs[clips], device))


class Canvas:
    """Coordinates and random fields for B pictures of one size."""

    def __init__(self, chance: Chance, height: int, width: int):
        """height and width are the frame's; the picture is PANORAMA times larger."""
        self.lattice, self.knobs = chance.lattice, chance.knobs
        self.size = (round(PANORAMA * height), round(PANORAMA * width))
        ends = [PANORAMA * extent for extent in half_extents(height, width)]
        self.x, self.y = (
            (torch.arange(count, device=self.knobs.device) + 0.5) * (2 * end / count) - end
            for end, count in zip(ends, reversed(self.size))
        )
        self.x, self.y = self.x.view(1, 1, 1, -1), self.y.view(1, 1, -1, 1)
        self.soft = 2 / min(height, width)
        """Length of a pixel: the width of anti-aliased edges."""

    def knob(self, index: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """[B, 1, 1, 1]."""
        return (self.knobs[:, index] * (high - low) + low).view(-1, 1, 1, 1)

    def noise(self, rows: int, columns: int, octaves: int = 4, shift: int = 0) -> torch.Tensor:
        """[B, 1, h, w] smooth noise about 0.5; its coarsest octave has rows × columns cells."""
        lattice = self.lattice.roll((shift, shift), dims=(1, 2))[:, None]
        total = torch.zeros((), device=lattice.device)
        for octave in range(octaves):
            cells = lattice[:, :, : min(LATTICE, rows << octave), : min(LATTICE, columns << octave)]
            grown = F.interpolate(cells, self.size, mode="bicubic", align_corners=True)
            total = total + (grown - 0.5) * 0.5**octave
        return 0.5 + total / 1.4

    def ridge(self, cells: int, octaves: int, shift: int) -> torch.Tensor:
        """[B, 1, 1, w] noise along x only, about 0: a skyline."""
        row = self.lattice.roll(shift, dims=1)[:, :1]
        total = torch.zeros((), device=row.device)
        for octave in range(octaves):
            part = row[..., : min(LATTICE, cells << octave)]
            total = total + (F.interpolate(part, self.size[1], mode="linear", align_corners=True) - 0.5) * 0.5**octave
        return total[:, :, None]

    def per_cell(self, column: torch.Tensor, row: torch.Tensor, shift: int = 0) -> torch.Tensor:
        """[B, 1, h, w] one random number a cell; column and row are the whole-numbered cell of each pixel."""
        column, row = torch.broadcast_tensors(column.long() % LATTICE, (row.long() + shift) % LATTICE)
        index = (row * LATTICE + column).expand(len(self.lattice), -1, *self.size)
        return self.lattice.flatten(1).gather(1, index.flatten(1)).view(index.shape)

    def above(self, edge: torch.Tensor | float) -> torch.Tensor:
        """[B, 1, h, w] 1 where y is above (smaller than) `edge`, with a soft border."""
        return ((edge - self.y) / self.soft + 0.5).clamp(0, 1)

    def colour(self, red: float, green: float, blue: float, knob: int = 9) -> torch.Tensor:
        """[B, 3, 1, 1] a colour, a little lighter or darker from clip to clip."""
        return colour(self.knobs.device, red, green, blue) * self.knob(knob, 0.92, 1.08)

    def any_colour(self, knob: int) -> torch.Tensor:
        """[B, 3, 1, 1] of any hue, neither garish nor black."""
        hue = self.knob(knob) + colour(self.knobs.device, 0, 1 / 3, 2 / 3)
        vivid, light = self.knob(knob + 1, 0.1, 0.4), self.knob(knob + 2, 0.3, 0.75)
        return light + vivid * torch.sin(math.tau * hue)


def meadow(c: Canvas) -> torch.Tensor:
    horizon = c.knob(0, -0.3, 0.1) + 0.25 * c.ridge(4, 2, 0)
    far = horizon - 0.12 - 0.3 * c.ridge(5, 2, 9)
    sky = torch.lerp(c.colour(0.35, 0.62, 0.95), c.colour(0.85, 0.94, 1.0), ((c.y + 1.5) / 1.6).clamp(0, 1))
    blades = c.noise(24, 40, 2)
    depth = ((c.y - horizon) / 1.2).clamp(0, 1)
    grass = torch.lerp(c.colour(0.50, 0.78, 0.25), c.colour(0.16, 0.50, 0.12), 0.7 * depth + 0.9 * (blades - 0.5))
    hills = torch.lerp(sky, c.colour(0.30, 0.55, 0.33), 1 - c.above(far.minimum(horizon)))
    flowers = ((c.noise(40, 48, 1, shift=7) - 0.86) * 12).clamp(0, 1) * (depth > 0.06)
    ground = torch.lerp(grass, c.colour(1.0, 0.95, 0.65), flowers)
    return torch.lerp(ground, hills, c.above(horizon))


def sea(c: Canvas) -> torch.Tensor:
    horizon = c.knob(0, -0.4, 0.1)
    sky = torch.lerp(c.colour(0.45, 0.70, 0.96), c.colour(0.90, 0.95, 0.98), ((c.y + 1.5) / 1.5).clamp(0, 1))
    depth = (c.y - horizon).clamp(min=0) + 0.04
    swell = torch.sin(9 * torch.log(depth) * math.tau / 2 + 5 * c.noise(5, 4, 3) + math.tau * c.knob(1))
    water = torch.lerp(c.colour(0.05, 0.42, 0.62), c.colour(0.02, 0.24, 0.46), (depth / 1.5).clamp(0, 1))
    foam = ((swell - 0.55) * 2.0).clamp(0, 1) * c.noise(12, 8, 2, shift=5)
    water = torch.lerp(water + 0.07 * swell, c.colour(0.92, 0.98, 1.0), foam.clamp(0, 1))
    return torch.lerp(water, sky, c.above(horizon))


def desert(c: Canvas) -> torch.Tensor:
    sky = torch.lerp(c.colour(0.42, 0.68, 0.93), c.colour(0.98, 0.92, 0.78), ((c.y + 1.5) / 1.5).clamp(0, 1))
    picture = sky
    for layer, tone in enumerate((0.80, 0.92, 1.0)):
        crest = c.knob(0, -0.35, 0.0) + 0.38 * layer + 0.5 * c.ridge(3, 2, 11 * layer)
        below = (c.y - crest).clamp(min=0)
        ripples = torch.sin(math.tau * (9 * below + 1.2 * c.x + 2 * c.noise(3, 3, 2, shift=layer)))
        sand = tone * torch.lerp(c.colour(0.97, 0.78, 0.48), c.colour(0.78, 0.52, 0.26), (below * 1.2).clamp(0, 1))
        picture = torch.lerp(sand * (1 + 0.05 * ripples), picture, c.above(crest))
    return picture


def night_sky(c: Canvas) -> torch.Tensor:
    picture = torch.lerp(c.colour(0.01, 0.01, 0.07), c.colour(0.08, 0.07, 0.26), ((c.y + 1.5) / 3).clamp(0, 1))
    picture = picture + 0.16 * c.colour(0.7, 0.5, 1.0) * (c.noise(3, 4, 4) - 0.5).clamp(0, 1)
    for layer, (cell, size) in enumerate(((0.13, 0.010), (0.30, 0.022))):
        column, row = torch.floor((c.x + 2) / cell), torch.floor((c.y + 2) / cell)
        dx = (c.x + 2) / cell - column - 0.2 - 0.6 * c.per_cell(column, row, 3 + 20 * layer)
        dy = (c.y + 2) / cell - row - 0.2 - 0.6 * c.per_cell(column, row, 11 + 20 * layer)
        bright = c.per_cell(column, row, 17 + 20 * layer)
        distance = (dx.square() + dy.square()).sqrt() * cell
        picture = picture + bright.square() * torch.exp(-((distance / max(size, 0.7 * c.soft)) ** 2))
    return picture


def snowy_mountains(c: Canvas) -> torch.Tensor:
    picture = torch.lerp(c.colour(0.30, 0.55, 0.90), c.colour(0.85, 0.93, 1.0), ((c.y + 1.5) / 1.5).clamp(0, 1))
    for layer, (height, rock) in enumerate(((-0.55, (0.52, 0.60, 0.74)), (-0.1, (0.34, 0.38, 0.48)))):
        crest = height + c.knob(layer, -0.15, 0.1) + 1.0 * c.ridge(5, 4, 13 * layer)
        below = c.y - crest
        folds = c.noise(6, 9, 4, shift=layer)
        snow = ((0.55 - below + 1.1 * (folds - 0.5)) * 5).clamp(0, 1)
        shade = 1 - 0.25 * ((folds - 0.5) * 5).clamp(0, 1)
        slope = torch.lerp(c.colour(*rock), c.colour(0.95, 0.97, 1.0) * shade, snow)
        picture = torch.lerp(slope, picture, c.above(crest))
    field = 0.75 + c.knob(2, -0.1, 0.1) + 0.3 * c.ridge(3, 2, 30)
    return torch.lerp(c.colour(0.93, 0.96, 1.0) * (1 - 0.10 * c.noise(5, 4, 3)), picture, c.above(field))


def brick_wall(c: Canvas) -> torch.Tensor:
    high = 0.17
    wide = 2.4 * high
    row = torch.floor((c.y + 3) / high)
    along = (c.x + 3 + c.knob(0)) / wide + 0.5 * (row % 2)
    column = torch.floor(along)
    gap = torch.minimum(
        torch.minimum(along - column, 1 - (along - column)) * wide,
        torch.minimum((c.y + 3) / high - row, 1 - (c.y + 3) / high + row) * high,
    )
    inside = ((gap - 0.012) / c.soft + 0.5).clamp(0, 1)
    brick = torch.lerp(c.colour(0.52, 0.20, 0.14), c.colour(0.74, 0.36, 0.25), c.per_cell(column, row))
    brick = brick * (0.8 + 0.4 * c.noise(12, 12, 3))
    return torch.lerp(c.colour(0.72, 0.68, 0.63), brick, inside)


def wooden_wall(c: Canvas) -> torch.Tensor:
    wide = 0.36
    along = (c.x + 3 + c.knob(0)) / wide
    column = torch.floor(along)
    tone = c.per_cell(column, torch.zeros_like(c.y))
    grain = torch.sin(math.tau * (7 * c.noise(2, 12, 3) + 3 * tone + 5 * along))
    wood = torch.lerp(c.colour(0.48, 0.29, 0.14), c.colour(0.76, 0.54, 0.30), 0.15 + 0.7 * tone)
    wood = wood * (1 + 0.10 * grain + 0.25 * (c.noise(3, 40, 2) - 0.5))
    gap = torch.minimum(along - column, 1 - along + column) * wide
    return wood * (0.35 + 0.65 * ((gap - 0.008) / c.soft + 0.5).clamp(0, 1))


def cloudy_sky(c: Canvas) -> torch.Tensor:
    sky = torch.lerp(c.colour(0.20, 0.48, 0.90), c.colour(0.60, 0.82, 0.98), ((c.y + 1.5) / 3).clamp(0, 1))
    puffs = c.noise(4, 3, 5)
    cloud = ((puffs - 0.48) * 5).clamp(0, 1)
    return torch.lerp(sky, c.colour(1.0, 1.0, 1.0, knob=8) * (0.82 + 0.25 * puffs), cloud)


def chequerboard(c: Canvas) -> torch.Tensor:
    step = 0.30
    waves = torch.sin(math.pi * (c.x + c.knob(0)) / step) * torch.sin(math.pi * (c.y + c.knob(1)) / step)
    light = (waves * (0.6 * step / c.soft) + 0.5).clamp(0, 1)
    return torch.lerp(c.colour(0.10, 0.10, 0.11), c.colour(0.94, 0.93, 0.90), light)


def city(c: Canvas) -> torch.Tensor:
    picture = torch.lerp(c.colour(0.16, 0.14, 0.38), c.colour(0.98, 0.58, 0.38), ((c.y + 1.5) / 2.2).clamp(0, 1))
    for layer, (wide, top, wall) in enumerate(((0.34, -0.55, (0.33, 0.24, 0.40)), (0.46, -0.05, (0.12, 0.11, 0.20)))):
        along = (c.x + 3 + c.knob(layer)) / wide
        column = torch.floor(along)
        crest = top + 0.8 * (c.per_cell(column, torch.zeros_like(c.y), 5 + 20 * layer) - 0.5)
        panes_x, panes_y = (along - column) * 4, (c.y + 3) / (wide / 4)
        pane = ((panes_x % 1 - 0.5).abs() < 0.28) & ((panes_y % 1 - 0.5).abs() < 0.30)
        lit = c.per_cell(torch.floor(4 * along), torch.floor(panes_y), 20 * layer) > 0.55
        window = (pane & lit).float() * (c.y > crest + 0.05)
        building = torch.lerp(c.colour(*wall), c.colour(1.0, 0.85, 0.45), window * (0.5 + 0.45 * layer))
        picture = torch.lerp(building, picture, c.above(crest))
    return picture


def gradient(c: Canvas) -> torch.Tensor:
    angle = math.tau * c.knob(0)
    along = (0.5 + (c.x * angle.cos() + c.y * angle.sin()) / 3).clamp(0, 1)
    return torch.lerp(c.any_colour(1), c.any_colour(4), along)


def haze(c: Canvas) -> torch.Tensor:
    picture = torch.lerp(c.any_colour(1), c.any_colour(4), (2.2 * (c.noise(3, 3, 5) - 0.5) + 0.5).clamp(0, 1))
    return picture + 0.5 * (c.noise(7, 7, 3, shift=9) - 0.5) * (c.any_colour(6) - 0.5)


def bands(c: Canvas) -> torch.Tensor:
    angle = math.pi * c.knob(0)
    across = c.x * angle.cos() + c.y * angle.sin()
    step = c.knob(1, 0.12, 0.4)
    stripe = (torch.sin(math.tau * (across / step + 0.3 * c.noise(2, 2, 2))) * (0.3 * step / c.soft) + 0.5).clamp(0, 1)
    return torch.lerp(c.any_colour(2), c.any_colour(5), stripe)


def patches(c: Canvas) -> torch.Tensor:
    """Flat areas with soft light, as in a drawn film."""
    picture = torch.lerp(c.any_colour(0), c.any_colour(3), ((c.noise(3, 4, 2) - 0.5) * 40 + 0.5).clamp(0, 1))
    picture = torch.lerp(picture, c.any_colour(6), ((c.noise(4, 3, 3, shift=21) - 0.58) * 40 + 0.5).clamp(0, 1))
    return picture * (0.85 + 0.3 * c.noise(2, 2, 3, shift=30))


NAMED: dict[str, Callable[[Canvas], torch.Tensor]] = {
    "meadow": meadow,
    "sea": sea,
    "desert": desert,
    "night sky": night_sky,
    "snowy mountains": snowy_mountains,
    "brick wall": brick_wall,
    "wooden wall": wooden_wall,
    "cloudy sky": cloudy_sky,
    "chequerboard": chequerboard,
    "city": city,
}
"""Backgrounds that a background edit names."""

NAMELESS = {"gradient": gradient, "haze": haze, "bands": bands, "patches": patches}

PLAIN = ("gradient", "night sky")
"""Backgrounds too dim or too smooth for a change of style to be visible."""


def photograph(c: Canvas, chosen: torch.Tensor, stack: torch.Tensor) -> torch.Tensor:
    """Random crops of photographs with random colours; a third are two photographs that meet along a wavy border.

    chosen: [B, 2] indices into stack, [N, 3, side, side].
    """
    crops = []
    for layer in range(2):
        k = 4 * layer
        reach = c.knob(k, 0.4, 0.95) / PANORAMA
        mirror = torch.where(c.knob(k + 1) > 0.5, 1.0, -1.0)
        turn = rotation((c.knobs[:, k + 2] - 0.5) * 0.5)[:, :, :, None, None]
        x, y = c.x * reach * mirror, c.y * reach
        dx, dy = ((1 - PANORAMA * reach) * (2 * c.knob(k + i) - 1) for i in (2, 3))
        u, v = (turn[:, axis, 0, None] * x + turn[:, axis, 1, None] * y for axis in (0, 1))
        grid = torch.cat([u + dx, v + dy], dim=1)
        picture = stack[chosen[:, layer]]
        crops.append(F.grid_sample(picture, grid.movedim(1, -1), padding_mode="reflection", align_corners=False))
    border = ((c.noise(3, 3, 3, shift=13) - 0.5 + 0.4 * c.x) * 30 + 0.5).clamp(0, 1) * (c.knob(8) < 0.33)
    return _recoloured(torch.lerp(crops[0], crops[1], border), c)


def _recoloured(picture: torch.Tensor, c: Canvas) -> torch.Tensor:
    """Hue turned by up to 20 degrees, saturation, brightness and contrast changed."""
    grey = picture.mean(1, keepdim=True)
    angle = (c.knob(9) - 0.5) * (math.tau / 9)
    tint = picture - grey
    # Turning colour differences about the grey axis: their cross product with it is the quarter turn.
    quarter = (tint.roll(1, 1) - tint.roll(-1, 1)) / math.sqrt(3)
    tint = (tint * angle.cos() + quarter * angle.sin()) * c.knob(5, 0.6, 1.3)
    light = (grey.clamp(1e-4, 1) ** c.knob(6, 0.65, 1.5)) * c.knob(7, 0.85, 1.1)
    return light + tint


def paint(kinds: Sequence[str], chance: Chance, height: int, width: int, split: str, device: torch.device) -> torch.Tensor:
    """[B, 3, h, w] in 0..1, h and w PANORAMA times the frame's.

    kinds: for each clip a painter's name or "photo"; of photographs only those of the split are shown.
    """
    pictures = torch.empty(len(kinds), 3, round(PANORAMA * height), round(PANORAMA * width), device=device)
    for kind in sorted(set(kinds)):
        clips = [clip for clip, name in enumerate(kinds) if name == kind]
        canvas = Canvas(chance.of(clips, device), height, width)
        if kind.startswith("photo"):
            names = tuple(name for name in photos.names(split) if kind == "photo" or name not in photos.DARK)
            stack = photos.load(names, min(512, 2 * max(height, width)), device)
            chosen = upload((chance.lattice[clips, 0, :2] * len(names)).long(), device)
            picture = photograph(canvas, chosen, stack)
        else:
            picture = (NAMED | NAMELESS)[kind](canvas)
        pictures[upload(clips, device)] = picture.clamp(0, 1)
    return pictures
