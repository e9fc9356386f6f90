"""Clips that look filmed, without edits: photographs under a hand-held camera, things that move in front of them, and real film.

They teach a video VAE what procedural clips lack: fine texture at every scale, edges that cover and uncover, blur of motion, grain.
"""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError

from . import photos
from .tensors import upload

LONGEST = 1280
"""Pixels of a photograph's longer side; larger ones are made smaller when they are read."""

WINDOW = 2
"""A clip sees through its camera a window of a photograph so many times its own size; beyond, the window's mirror image."""

SHUTTER = 3
"""Moments that are averaged to one frame where motion blurs."""


class Library(NamedTuple):
    """What clips are made from."""

    scenes: list[torch.Tensor]
    """[3, h, w] uint8."""
    things: list[torch.Tensor]
    """[4, h, w] uint8: colour and opacity."""
    films: list[torch.Tensor]
    """[T, 3, h, w] uint8."""

    def to(self, device: torch.device | str) -> Library:
        """A copy there; itself where it is there already, so that many streams can share one."""
        return Library(*([picture.to(device) for picture in kind] for kind in self))


def read_library(folder: Path | None) -> Library:
    """The installed photographs (`photos.py`), and what the folder holds: pictures, transparent ones as things; each folder in it
    is a film, of one picture a frame, by name.

    Raises ValueError for a folder that is not there, a file that is no picture, or frames of unlike sizes.
    """
    library = Library([], [], [])
    for name in photos.names("train"):
        picture = photos.load((name,), 512, torch.device("cpu"))[0]
        library.scenes.append((255 * picture).round().byte())
    if folder is None:
        return library
    if not folder.is_dir():
        raise ValueError(f"There is no folder of pictures {folder}.")
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            frames = [_read(frame)[:3] for frame in sorted(path.iterdir())]
            if len({frame.shape for frame in frames}) != 1:
                raise ValueError(f"{path} is no film: a folder in {folder} holds pictures of one size, a film's frames.")
            library.films.append(torch.stack(frames))
        else:
            picture = _read(path)
            (library.things if len(picture) == 4 else library.scenes).append(picture)
    return library


def _read(path: Path) -> torch.Tensor:
    """[3 or 4, h, w] uint8."""
    try:
        with Image.open(path) as image:
            image = image.convert("RGBA" if "A" in image.mode or "transparency" in image.info else "RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no picture: the folder may hold pictures, and folders of a film's frames.") from error
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class FootageStream:
    """Batches of such clips, generated on access: each the same whenever it is asked for, of the same library.

    size: height and width in pixels. device: where the clips are made.
    """

    def __init__(self, seed: int, clips: int, frames: int, size: int, device: torch.device | str, library: Library):
        self.seed, self.clips, self.frames, self.size = seed, clips, frames, size
        self.device = torch.device(device)
        self.library = library.to(self.device)
        self.filmed = [film for film in self.library.films if len(film) >= frames and min(film.shape[2:]) >= size]

    def __getitem__(self, index: int) -> torch.Tensor:
        """[clips, 3, T, size, size] in 0..1."""
        return self.draw(index, self.clips)

    @torch.no_grad()
    def draw(self, index: int, count: int) -> torch.Tensor:
        """[count, 3, T, size, size] in 0..1: as many as asked for; of one index, another count gives other clips."""
        rng = Random(f"{self.seed} footage {index}")
        generator = torch.Generator(self.device).manual_seed(rng.getrandbits(60))
        real = sum(rng.random() < 0.25 for _ in range(count)) if self.filmed else 0
        clips = [self._cut(rng, rng.choice(self.filmed)) for _ in range(real)]
        if real < count:
            clips += self._drawn(rng, count - real)
        return torch.stack([_developed(clip, rng, generator) for clip in clips])

    def _drawn(self, rng: Random, clips: int) -> torch.Tensor:
        """Photographs under a moving camera, and up to three things in front of each."""
        moments = SHUTTER if rng.random() < 0.3 else 1
        steps = self.frames * moments
        windows = torch.stack([self._window(rng, rng.choice(self.library.scenes), WINDOW * self.size) for _ in range(clips)])
        grid = torch.stack([_path(rng, steps, 1 / WINDOW, 0.0) for _ in range(clips)])
        video = _look(windows, grid, self.size, self.device, "reflection")
        for _ in range(rng.choice((0, 1, 2, 3))):
            sprites = torch.stack([self._thing(rng) for _ in range(clips)])
            grid = torch.stack([_path(rng, steps, _log_uniform(rng, 1.0, 4.0), 1.0) for _ in range(clips)])
            layer = _look(sprites, grid, self.size, self.device, "zeros")
            video = video.lerp(layer[:, :3] / layer[:, 3:].clamp_min(1e-3), layer[:, 3:])
        return video.unflatten(2, (self.frames, moments)).mean(3)

    def _window(self, rng: Random, picture: torch.Tensor, side: int) -> torch.Tensor:
        """[C, h, w] uint8 -> [C, side, side] in 0..1: a random part, as near as the picture's own pixels or further away."""
        height, width = picture.shape[1:]
        step = _log_uniform(rng, 0.7, max(1.0, min(height, width) / side))
        reach = min(round(step * side), height, width)
        return _part(rng, picture[None], reach, side)[0]

    def _thing(self, rng: Random) -> torch.Tensor:
        """[4, size, size], colours times opacity: one of the library, or a part of a photograph with a random outline."""
        if self.library.things and rng.random() < 0.6:
            picture = rng.choice(self.library.things)[None].float() / 255
            side = max(picture.shape[2:])
            picture = F.pad(picture, _centred(picture.shape[3], side) + _centred(picture.shape[2], side))
            colour, opacity = picture[:, :3] * picture[:, 3:], picture[:, 3:]
            return _resized(torch.cat([colour, opacity], dim=1), self.size)[0]
        window = self._window(rng, rng.choice(self.library.scenes), self.size)
        points = rng.choice((3, 5, 8))
        bumps = upload([[rng.gauss(0, 1) for _ in range(points)] for _ in range(points)], self.device)[None, None]
        bumps = F.interpolate(bumps.float(), (self.size, self.size), mode="bicubic", align_corners=False)[0]
        line = torch.linspace(-1, 1, self.size, device=self.device)
        outside = (line[:, None].square() + line.square()).sqrt()
        opacity = (self.size * rng.choice((0.02, 0.15, 0.3)) * (0.8 + 0.3 * bumps - 1.6 * outside)).clamp(0, 1)
        return torch.cat([window * opacity, opacity])

    def _cut(self, rng: Random, film: torch.Tensor) -> torch.Tensor:
        """[3, T, size, size] out of a film, smaller, mirrored and backwards at random."""
        height, width = film.shape[2:]
        reach = min(round(self.size * _log_uniform(rng, 1.0, min(height, width) / self.size)), height, width)
        first = rng.randint(0, len(film) - self.frames)
        part = _part(rng, film[first : first + self.frames], reach, self.size)
        return (part.flip(0) if rng.random() < 0.5 else part).transpose(0, 1)


def _log_uniform(rng: Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _part(rng: Random, pictures: torch.Tensor, reach: int, side: int) -> torch.Tensor:
    """[N, C, h, w] uint8 -> [N, C, side, side] in 0..1: a square of `reach` pixels, of all at the same random place."""
    height, width = pictures.shape[2:]
    top, left = rng.randint(0, height - reach), rng.randint(0, width - reach)
    return _resized(pictures[..., top : top + reach, left : left + reach].float() / 255, side)


def _resized(pictures: torch.Tensor, side: int) -> torch.Tensor:
    return F.interpolate(pictures, (side, side), mode="bilinear", antialias=True, align_corners=False)


def _centred(length: int, side: int) -> tuple[int, int]:
    return (side - length) // 2, side - length - (side - length) // 2


def _path(rng: Random, steps: int, zoom: float, roam: float) -> torch.Tensor:
    """[steps, 2, 3]: from places in a clip, -1 to 1, to places in a picture. zoom: the picture's units in one of the clip's.

    roam: how far from the middle a path may begin. A path is steady, with the shake of a hand.
    """
    time = torch.linspace(-0.5, 0.5, steps)

    def way(reach: float, shake: float) -> torch.Tensor:
        sway = sum(rng.gauss(0, shake) * torch.sin(rng.uniform(3, 25) * time + rng.uniform(0, math.tau)) for _ in range(2))
        return rng.choice((0.0, 1.0, 1.0)) * rng.gauss(0, reach) * time + sway

    scale = zoom * torch.exp(way(0.3, 0.004))
    angle = rng.gauss(0, 0.3 if roam else 0.05) + way(0.25, 0.004)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    x, y = ((rng.uniform(-roam, roam) + way(0.7, 0.012)) * scale for _ in range(2))
    return torch.stack([torch.stack([cos, -sin, -x], dim=-1), torch.stack([sin, cos, -y], dim=-1)], dim=1)


def _look(pictures: torch.Tensor, paths: torch.Tensor, size: int, device: torch.device, beyond: str) -> torch.Tensor:
    """[B, C, h, w] by [B, T, 2, 3] -> [B, C, T, size, size]."""
    affine = paths.to(device, non_blocking=True).flatten(0, 1)
    grid = F.affine_grid(affine, [len(affine), 1, size, size], align_corners=False)
    grid = grid.unflatten(0, paths.shape[:2]).flatten(1, 2)
    seen = F.grid_sample(pictures, grid, padding_mode=beyond, align_corners=False)
    return seen.unflatten(2, (paths.shape[1], size))


def _developed(clip: torch.Tensor, rng: Random, generator: torch.Generator) -> torch.Tensor:
    """[3, T, H, W] -> the same mirrored, in other light and colours, with grain, at random."""
    if rng.random() < 0.5:
        clip = clip.flip(-1)
    if rng.random() < 0.3:
        clip = clip[rng.sample(range(3), 3)]
    gain = upload([math.exp(rng.gauss(0, 0.12)) for _ in range(3)], clip.device).view(3, 1, 1, 1)
    drift = 1 + rng.choice((0.0, 0.0, 0.2)) * rng.gauss(0, 1) * torch.linspace(-0.5, 0.5, clip.shape[1], device=clip.device)
    clip = (clip.clamp(0, 1) ** math.exp(rng.gauss(0, 0.2))) * gain * drift.view(-1, 1, 1)
    if rng.random() < 0.3:
        clip = clip + rng.uniform(0, 0.02) * torch.randn(clip[:1].shape, device=clip.device, generator=generator)
    return clip.clamp(0, 1)
