"""Draws moving objects over backgrounds, before and after an edit at once.

An object is painted once, as a still sprite of colours and of its outline's signed distance; each frame then samples the
sprite where the object is. So the work a pixel is one texture look-up an object, however rich its surface.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .scenes import COLOURS, PANORAMA, SHAPES, Motion, Thing, half_extents
from .tensors import colour, upload

SPAN = 1.5
"""A sprite reaches from -SPAN to SPAN radii, so that glow fits around the shape."""
GLOW = 0.48
"""Reach of the glow in radii; less than SPAN minus 1."""
MASKS = {"striped": 1, "dotted": 2, "checked": 3}
GOLD = ((0.55, 0.36, 0.04), (0.93, 0.70, 0.13), (1.00, 0.97, 0.72))


class Drawn(NamedTuple):
    source: torch.Tensor
    """[B, 3, T, H, W] in 0..1."""
    target: torch.Tensor
    edited: torch.Tensor
    """[B, 1, T, H, W] bool: where the edited objects show, before or after."""
    bare: torch.Tensor
    """[B, 1, T, H, W] bool: where the background shows."""


def show_background(picture: torch.Tensor, camera: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """[B, 3, h, w] panorama, [B, T, 2, 3] camera -> [B, 3, T, height, width]."""
    x, y = _pixel_centres(height, width, camera.device)
    extent = half_extents(height, width)
    rows = [
        (camera[..., axis, 0, None, None] * x + (camera[..., axis, 1, None, None] * y + camera[..., axis, 2, None, None]))
        / (PANORAMA * extent[axis])
        for axis in (0, 1)
    ]
    return _sample(picture, torch.stack(rows, dim=-1), "reflection")


def from_the_first_frame(camera: torch.Tensor) -> torch.Tensor:
    """[B, T, 2, 3] camera -> the same movement, but the first frame sees the panorama's middle upright."""
    turn = torch.linalg.inv(camera[:, :1, :, :2])
    return torch.cat([turn @ camera[..., :2], turn @ (camera[..., 2:] - camera[:, :1, :, 2:])], dim=-1)


def draw(
    before: Sequence[Sequence[Thing | None]],
    after: Sequence[Sequence[Thing | None]],
    motion: Motion,
    shades: torch.Tensor,
    source: torch.Tensor,
    target: torch.Tensor,
) -> Drawn:
    """Draw objects over two backgrounds, [B, 3, T, H, W] each; both are overwritten.

    before, after: for each clip its K objects from back to front, None for one that is absent.
    shades: [B, K, 3] on the CPU, added to the colours; but colours that come about by the edit are exact.
    Where they are the same, so are the drawn pixels, bit by bit.
    """
    batch, _, _, height, width = source.shape
    device, slots = source.device, len(before[0])
    side = -(-3 * min(height, width) // 64) * 16
    changed = upload([[old != new for old, new in zip(*clip)] for clip in zip(before, after)], device)
    kept = [[bool(old and new and old.colour == new.colour) for old, new in zip(*clip)] for clip in zip(before, after)]
    old = _paint(before, shades, side, device)
    new = _paint(after, shades * torch.tensor(kept)[..., None], side, device)
    x, y = _pixel_centres(height, width, device)
    edited = source.new_zeros(batch, 1, *source.shape[2:])
    bare = torch.ones_like(edited)
    for slot in range(slots):
        here = slice(slot, None, slots)
        centre, radius, angle = motion.centre[:, slot], motion.radius[:, slot, :, None, None], motion.angle[:, slot]
        u, v = (x - centre[..., 0, None, None]) / radius, (y - centre[..., 1, None, None]) / radius
        cos, sin = (angle.cos() / SPAN)[..., None, None], (angle.sin() / SPAN)[..., None, None]
        grid = torch.stack([cos * u + sin * v, cos * v - sin * u], dim=-1)
        sampled = _sample(torch.cat([old.picture[here], new.picture[here]], dim=1), grid, "border")
        light = (1 - 0.13 * u.clamp(-1, 1) - 0.17 * v.clamp(-1, 1))[:, None]
        glint = (torch.exp(-16 * (u + 0.36).square()) * torch.exp(-16 * (v + 0.42).square()))[:, None]
        pixels = radius * (min(height, width) / 2)
        opacity = []
        for clip, sprite, layers in ((source, old, sampled[:, :4]), (target, new, sampled[:, 4:])):
            surface = torch.addcmul(glint * sprite.gloss[here], layers[:, :3], light)
            opacity.append(_opacity(layers[:, 3], pixels, sprite.solid[here], sprite.glow[here])[:, None])
            clip.lerp_(surface, opacity[-1])
        bare *= 1 - torch.minimum(*opacity)
        touched = changed[:, slot, None, None, None, None]
        edited = torch.where(touched, torch.maximum(*opacity), edited * (1 - opacity[0]))
    return Drawn(source.clamp_(0, 1), target.clamp_(0, 1), edited > 0, bare > 0)


def silhouettes(centre: tuple[float, float], radius: float, height: int, width: int) -> torch.Tensor:
    """[len(SHAPES), H, W] bool: where an upright object of each shape lies. centre, radius: in half short sides."""
    x, y = _pixel_centres(height, width, torch.device("cpu"))
    side = -(-3 * min(height, width) // 64) * 16
    u, v = ((line - at) / radius for line, at in zip((x, y), centre))
    grid = (torch.stack(torch.broadcast_tensors(u, v), dim=-1) / SPAN)[0].expand(len(SHAPES), -1, -1, -1)
    return F.grid_sample(_distances(side, x.device), grid, padding_mode="border", align_corners=False)[:, 0] < 0


def _pixel_centres(height: int, width: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """x [1, 1, 1, W] and y [1, 1, H, 1]."""
    short = min(height, width)
    x, y = ((2 * torch.arange(count, device=device) + 1 - count) / short for count in (width, height))
    return x.view(1, 1, 1, -1), y.view(1, 1, -1, 1)


def _sample(picture: torch.Tensor, grid: torch.Tensor, padding: str) -> torch.Tensor:
    """[B, C, h, w] at [B, T, H, W, 2] -> [B, C, T, H, W]: frames are stacked into one tall picture, never copied."""
    flat = F.grid_sample(picture, grid.flatten(1, 2), padding_mode=padding, align_corners=False)
    return flat.unflatten(2, grid.shape[1:3])


def _opacity(distance: torch.Tensor, pixels: torch.Tensor, solid: torch.Tensor, glow: torch.Tensor) -> torch.Tensor:
    """[B, T, H, W] signed distance in radii, [B, T, 1, 1] radius in pixels -> [B, T, H, W] in 0..1, exact at both ends."""
    shape = (0.5 - distance * pixels).clamp(0, 1) * solid
    return torch.maximum(shape, (1 - distance / GLOW).clamp(0, 1).square() * glow)


@dataclass(frozen=True)
class _Sprites:
    """N objects; the absent ones have neither body nor glow."""

    picture: torch.Tensor
    """[N, 4, side, side]: colour, signed distance in radii."""
    solid: torch.Tensor
    """[N, 1, 1, 1] opacity of the body."""
    glow: torch.Tensor
    """[N, 1, 1, 1]."""
    gloss: torch.Tensor
    """[N, 1, 1, 1, 1] strength of the glint."""


def _paint(clips: Sequence[Sequence[Thing | None]], shades: torch.Tensor, side: int, device) -> _Sprites:
    """Every object's sprite. Unchanged objects are painted alike before and after since they have the same position."""
    things = [thing for clip in clips for thing in clip]
    shown = [thing or Thing("ball", "white") for thing in things]
    numbers = [
        (
            SHAPES.index(thing.shape),
            MASKS.get(thing.look, 0),
            *(level + change for level, change in zip(COLOURS[thing.colour], shade)),
            *_contrast(thing.colour),
            0.96 if thing.colour == "black" else 0.03,
            thing.look == "golden",
            thing.look == "outlined",
            thing.look == "glowing",
            0.28 if thing.look == "see-through" else 1.0,
            0.5 if thing.shape == "ball" else 0.15,
            wanted is not None,
        )
        for thing, wanted, shade in zip(shown, things, shades.flatten(0, 1).tolist())
    ]
    table = upload(numbers, device, torch.float32)[..., None, None]
    shape, mask, base, second, edge, golden, outlined, glowing, solid, gloss, present = table.split(
        (1, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1), dim=1
    )
    distance = _distances(side, device)[shape.long().flatten()]
    mask = _masks(side, device)[mask.long().flatten()]
    inside = (-distance).clamp(min=0)

    x, y = _grid(side, device)
    band = torch.exp(-18 * (x + y + 0.25).square()) + 0.6 * torch.exp(-40 * (x + y - 0.55).square())
    dark, middle, bright = (colour(device, *tone) for tone in GOLD)
    gold = torch.lerp(torch.lerp(dark, middle, (inside * 5 + 0.2).clamp(0, 1)), bright, band.clamp(0, 1))

    surface = torch.lerp(torch.lerp(base, second, mask), gold, golden)
    rise = (inside / 0.32).clamp(0, 1)
    surface = surface * (0.74 + 0.26 * rise * (2 - rise))
    surface = torch.lerp(surface, edge, outlined * ((0.13 - inside) * side / 12 + 0.5).clamp(0, 1))
    halo = torch.lerp(base, torch.ones_like(base), (0.15 + 1.8 * inside).clamp(max=0.65))
    surface = torch.lerp(surface, halo, glowing)
    return _Sprites(torch.cat([surface, distance], dim=1), present * solid, present * 0.9 * glowing, gloss[..., None])


def _contrast(colour: str) -> tuple[float, float, float]:
    """The second colour of patterns: white on dark, nearly black on light colours."""
    red, green, blue = COLOURS[colour]
    return (0.12,) * 3 if 0.3 * red + 0.6 * green + 0.1 * blue > 0.6 else (0.97,) * 3


def _grid(side: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """x [1, side] and y [side, 1] in radii."""
    line = ((torch.arange(side, device=device) + 0.5) * (2 / side) - 1) * SPAN
    return line[None], line[:, None]


@lru_cache(maxsize=4)
def _masks(side: int, device) -> torch.Tensor:
    """[4, 1, side, side] where the second colour shows: nowhere, stripes, dots, checks."""
    x, y = _grid(side, device)
    sharp = side / (2 * SPAN)
    stripes = torch.sin(math.tau * (x + 0.6 * y) / 0.55) * (0.08 * sharp)
    rows = torch.floor((y + 3) / 0.42)
    along = (x + 3) / 0.48 + 0.5 * (rows % 2)
    dots = (0.145 - torch.hypot((along % 1 - 0.5) * 0.48, ((y + 3) / 0.42 % 1 - 0.5) * 0.42)) * sharp
    checks = torch.sin(math.pi * x / 0.4) * torch.sin(math.pi * y / 0.4) * (0.12 * sharp)
    masks = [(mask + 0.5).clamp(0, 1) for mask in (stripes, dots, checks)]
    return torch.stack([torch.zeros_like(masks[0]), *masks])[:, None]


@lru_cache(maxsize=4)
def _distances(side: int, device) -> torch.Tensor:
    """[len(SHAPES), 1, side, side] signed distance in radii to each shape's outline, negative inside."""
    x, y = (part.broadcast_to(side, side) for part in _grid(side, device))
    from_centre = torch.hypot(x, y)
    drawn = {"ball": from_centre - 0.95, "ring": (from_centre - 0.70).abs() - 0.27}
    for name, corners in _outlines().items():
        drawn[name] = _polygon_distance(x, y, corners.to(device)) - 0.04
    return torch.stack([drawn[name] for name in SHAPES])[:, None]


def _outlines() -> dict[str, torch.Tensor]:
    """Corners, [V, 2]; y points down. They lie 0.04 within the shape, whose corners are rounded by that."""

    def around(radii: Sequence[float], lift: float = 0.0) -> torch.Tensor:
        angle = torch.arange(len(radii)) * (math.tau / len(radii))
        return torch.stack([angle.sin(), -angle.cos()], dim=1) * torch.tensor(radii)[:, None] + torch.tensor((0.0, lift))

    t = torch.arange(96) * (math.tau / 96)
    heart = torch.stack([16 * t.sin() ** 3, -(13 * t.cos() - 5 * (2 * t).cos() - 2 * (3 * t).cos() - (4 * t).cos())], dim=1)
    arm, end = 0.29, 0.92
    cross = [(-arm, -end), (arm, -end), (arm, -arm), (end, -arm), (end, arm), (arm, arm)]
    return {
        "square": torch.tensor([(-0.76, -0.76), (0.76, -0.76), (0.76, 0.76), (-0.76, 0.76)]),
        "triangle": around([1.02] * 3, lift=0.16),
        "star": around([1.02, 0.46] * 5),
        "heart": heart / 17.2 + torch.tensor((0.0, -0.06)),
        "diamond": torch.tensor([(0.0, -0.98), (0.62, 0.0), (0.0, 0.98), (-0.62, 0.0)]),
        "cross": torch.tensor(cross + [(-a, -b) for a, b in cross]),
    }


def _polygon_distance(x: torch.Tensor, y: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
    """[h, w] signed distance to a polygon, [V, 2]."""
    ax, ay = (part.view(-1, 1, 1) for part in corners.T)
    bx, by = (part.roll(-1).view(-1, 1, 1) for part in corners.T)
    ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
    along = ((px * ex + py * ey) / (ex.square() + ey.square())).clamp(0, 1)
    distance = torch.hypot(px - along * ex, py - along * ey).amin(0)
    # A ray to the right of an inner point crosses the outline an odd number of times.
    crosses = ((ay <= y) != (by <= y)) & (px < py * ex / torch.where(ey == 0, 1.0, ey))
    return torch.where(crosses.sum(0) % 2 == 1, -distance, distance)
