"""The contents of a scene, by name, and the movement of its camera and objects.

Lengths are in half short sides of the frame: of a square one, x and y run from -1 to 1, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .tensors import upload

SHAPES = ("ball", "square", "triangle", "star", "heart", "ring", "diamond", "cross")

COLOURS = {
    "red": (0.87, 0.10, 0.11),
    "orange": (1.00, 0.50, 0.04),
    "yellow": (1.00, 0.89, 0.12),
    "green": (0.13, 0.66, 0.20),
    "turquoise": (0.10, 0.82, 0.80),
    "blue": (0.10, 0.27, 0.90),
    "purple": (0.50, 0.14, 0.74),
    "pink": (1.00, 0.48, 0.72),
    "white": (0.97, 0.97, 0.97),
    "black": (0.09, 0.09, 0.10),
}

LOOKS = ("plain", "striped", "dotted", "checked", "outlined", "golden", "glowing", "see-through")
"""How an object's surface looks; it has exactly one look."""

PLACES = {
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
    "centre": (0, 0),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
"""Signs of x and y where the place is; 0 is the middle third."""

FRAMES_PER_SECOND = 16
PANORAMA = 1.5
"""Backgrounds are painted this many times wider and higher than the frame, so that the camera has room to move."""
SLOTS = 3
"""Most objects in one clip, those before and after the edit counted together."""
CANDIDATES = 12

PLACED = 0.36
"""Radius of an added object; the frame's shorter half is 1."""


@dataclass(frozen=True)
class Thing:
    """One object as words name it."""

    shape: str
    colour: str
    look: str = "plain"

    @property
    def is_held_out(self) -> bool:
        """One in ten pairs of colour and shape is never drawn in the train split."""
        return (tuple(COLOURS).index(self.colour) + 3 * SHAPES.index(self.shape)) % 10 == 7


@dataclass(frozen=True)
class Motion:
    """Where camera and objects are in each frame; on the CPU. B clips, K objects, T frames."""

    camera: torch.Tensor
    """[B, T, 2, 3] from the frame to the panorama's lengths."""
    centre: torch.Tensor
    """[B, K, T, 2] in the frame."""
    radius: torch.Tensor
    """[B, K, T]."""
    angle: torch.Tensor
    """[B, K, T] in radians."""

    def to(self, device: torch.device | str) -> Motion:
        return Motion(*(upload(part, device) for part in (self.camera, self.centre, self.radius, self.angle)))


def half_extents(height: int, width: int) -> tuple[float, float]:
    """(x, y) of the frame's lower right corner."""
    return width / min(height, width), height / min(height, width)


def sample_motion(
    places: Sequence[Sequence[str | None]], frames: int, height: int, width: int, generator: torch.Generator
) -> Motion:
    """Smooth camera and object paths.

    places: for each clip, one entry an object: the place in which it stays, upright and of PLACED size, or None. Of an object
        that an edit adds nothing else is known, so that an exact answer needs it to have no way or size of its own.
    """

    def uniform(*shape, low=0.0, high=1.0):
        return torch.rand(*shape, generator=generator) * (high - low) + low

    def wave(*shape, slowest=0.12, fastest=0.5):
        """[*shape, T] sines; their frequencies are in hertz, so that longer clips show more movement, not faster one."""
        seconds = torch.arange(frames) / FRAMES_PER_SECOND
        frequency, phase = uniform(*shape, 1, low=slowest, high=fastest), uniform(*shape, 1)
        return torch.sin(math.tau * (frequency * seconds + phase))

    batch, slots = len(places), len(places[0])
    extent = torch.tensor(half_extents(height, width))

    moves = (uniform(batch, 1) > 0.2).float()
    zoom = 1 + 0.16 * moves * uniform(batch, 1) * wave(batch)
    tilt = 0.07 * moves * uniform(batch, 1) * wave(batch)
    room = (PANORAMA - 1.3) * extent
    pan = (room * (moves[..., None] * uniform(batch, 1, 2, low=0.2) * wave(batch, 2).movedim(-1, 1))).float()
    camera = torch.cat([zoom[..., None, None] * rotation(tilt), pan[..., None]], dim=-1)

    stays = torch.tensor([[place is not None for place in clip] for clip in places])[..., None]
    size = uniform(batch, slots, 1, low=0.27, high=0.46)
    radius = size * (1 + 0.12 * (uniform(batch, slots, 1) > 0.6) * wave(batch, slots)) / zoom[:, None]
    turns = (uniform(batch, slots, 1) > 0.6).float()
    angle = (0.2 + 0.35 * turns) * uniform(batch, slots, 1) * wave(batch, slots) - tilt[:, None]
    radius, angle = torch.where(stays, PLACED, radius), torch.where(stays, 0.0, angle)

    vigour = uniform(batch, slots, 1, 1, low=0.05, high=0.45)
    own = (vigour * extent[:, None] * wave(batch, slots, 2)).movedim(-1, -2)
    towards = torch.tensor([[PLACES[place] if place in PLACES else (0, 0) for place in clip] for clip in places]).float()
    free = uniform(CANDIDATES, batch, slots, 2, low=-0.75, high=0.75)
    paths = _with_camera((free * extent)[..., None, :] + own, camera)
    limit = (extent - 0.4 * size)[..., None, :]
    paths = torch.where(stays[..., None], (0.58 * towards * extent)[..., None, :], limit * torch.tanh(paths / limit))
    return Motion(camera, _apart(paths, radius, stays[..., 0]), radius, angle)


def rotation(angle: torch.Tensor) -> torch.Tensor:
    """[...] radians -> [..., 2, 2]."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


def _with_camera(paths: torch.Tensor, camera: torch.Tensor) -> torch.Tensor:
    """[C, B, K, T, 2] where objects would be under the camera of the middle frame -> where the moving camera sees them."""
    middle = camera[:, camera.shape[1] // 2, None, None]
    world = (middle[..., :2] @ paths[..., None])[..., 0] + middle[..., 2]
    inverse = torch.linalg.inv(camera[..., :2])[:, None]
    return (inverse @ (world - camera[:, None, :, :, 2])[..., None])[..., 0]


def _apart(candidates: torch.Tensor, radius: torch.Tensor, stays: torch.Tensor) -> torch.Tensor:
    """[C, B, K, T, 2] -> [B, K, T, 2]: of each object's candidate paths the first that hardly overlaps earlier objects.

    Objects that stay choose first; where no candidate is free, the one that overlaps least is taken.
    """
    clips = torch.arange(candidates.shape[1])
    order = stays.int().argsort(dim=1, descending=True, stable=True)
    chosen = torch.empty_like(candidates[0])
    for rank in range(order.shape[1]):
        slot = order[:, rank]
        paths = candidates[:, clips, slot]
        gap = torch.full(paths.shape[:2], torch.inf)
        for earlier in order[:, :rank].unbind(1):
            distance = (paths - chosen[clips, earlier]).norm(dim=-1)
            gap = torch.minimum(gap, (distance - 0.9 * (radius[clips, slot] + radius[clips, earlier])).amin(-1))
        best = gap.clamp(max=0).argmax(dim=0)  # the first of equals, so any free candidate will do
        chosen[clips, slot] = paths[best, clips]
    return chosen
