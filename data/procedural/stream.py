"""The endless stream of edits: each batch is generated from its number alone."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import torch

from . import textures
from .edits import FILM, TASKS, Plan, plan
from .footage import FootageStream, Library
from .render import draw, from_the_first_frame, show_background
from .scenes import SLOTS, sample_motion
from .styles import apply_styles
from .tensors import upload

SPLITS = ("train", "held-out", "held-out films")

TOGETHER = 16
"""Films that are drawn at a time: they share blur and number of things, and more take much memory."""


class EditBatch(NamedTuple):
    """B clips of T frames, before and after an edit."""

    source: torch.Tensor
    """[B, 3, T, H, W] in 0..1."""
    target: torch.Tensor
    """[B, 3, T, H, W] in 0..1; the same as source, bit by bit, outside of region."""
    region: torch.Tensor
    """[B, 1, T, H, W] bool: the pixels that the edit changes; for a style, all."""
    instructions: list[str]
    tasks: list[str]


class EditStream:
    """Batches of edits, generated on access.

    Everything random is drawn on the CPU from (seed, split, index), so a batch is the same whenever it is asked for, and
    on other devices but for rounding. The held-out split has photographs, pairs of colour and shape, and sentence
    templates that the train split never shows: `photos.HELD_OUT`, `Thing.is_held_out`, `phrases.HELD_OUT_TEMPLATES`.

    With a library of pictures, clips that look filmed (`data.procedural.footage`) are backgrounds too, colour grades are styles, and
    instructions are freer. The held-out split stays without; "held-out films" is like it, but before films alone: give it a
    library that the training has not seen. The grain of films is another on another kind of device.
    """

    def __init__(
        self,
        seed: int,
        batch: int,
        frames: int,
        height: int,
        width: int,
        device: torch.device | str = "cpu",
        split: str = "train",
        tasks: tuple[str, ...] = TASKS,
        library: Library | None = None,
    ):
        """
        frames: 4n+1. height, width: multiples of 16, in pixels.

        Raises ValueError for any other size, an unknown split or task, or films held out without a library.
        """
        if frames < 1 or frames % 4 != 1:
            raise ValueError(f"frames must be 4n+1; got {frames}.")
        if height < 16 or width < 16 or height % 16 or width % 16:
            raise ValueError(f"height and width must be multiples of 16; got {width}×{height}.")
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}; got {split!r}.")
        if not tasks or not set(tasks) <= set(TASKS):
            raise ValueError(f"tasks must be some of {TASKS}; got {tasks!r}.")
        if split == "held-out films" and library is None:
            raise ValueError("The split 'held-out films' shows films: give a library (data.procedural.footage.read_library).")
        self.seed, self.batch, self.frames, self.height, self.width = seed, batch, frames, height, width
        self.device, self.split, self.tasks = torch.device(device), split, tuple(tasks)
        self.footage = None
        if library is not None and split != "held-out":
            self.footage = FootageStream(seed, TOGETHER, frames, max(height, width), device, library)

    def __iter__(self) -> Iterator[EditBatch]:
        index = 0
        while True:
            yield self[index]
            index += 1

    @torch.no_grad()
    def __getitem__(self, index: int) -> EditBatch:
        plans, generator = self._drawn(index)
        size = (self.height, self.width)

        places = [[item.place if slot == item.edited else None for slot in range(SLOTS)] for item in plans]
        motion = sample_motion(places, self.frames, *size, generator).to(self.device)
        chance = textures.Chance.draw(self.batch, generator)
        filmed = [clip for clip, item in enumerate(plans) if item.background == FILM]
        source = self._backgrounds([item.background for item in plans], motion.camera, chance, index)
        target, changed = source.clone(), [clip for clip, item in enumerate(plans) if item.new_background]
        if changed:
            chosen = upload(changed, self.device)
            names = [item.new_background for item in plans if item.new_background]
            # Each name stands for one picture, otherwise there would be no exact answer. Its movement is visible in the source;
            # a film's movement is its own, so what replaces a film stands still.
            still = upload([clip in filmed for clip in changed], self.device).view(-1, 1, 1, 1)
            camera = motion.camera[chosen]
            camera = from_the_first_frame(torch.where(still, camera[:, :1], camera))
            target[chosen] = self._painted(names, camera, textures.Chance.always(len(changed)))

        shades = 0.08 * torch.rand(self.batch, SLOTS, 3, generator=generator) - 0.04
        drawn = draw([item.before for item in plans], [item.after for item in plans], motion, shades, source, target)
        target = apply_styles(drawn.target, [item.style for item in plans])
        styled, moved = (
            upload(flags, self.device).view(-1, 1, 1, 1, 1)
            for flags in ([item.style is not None for item in plans], [item.new_background is not None for item in plans])
        )
        region = drawn.edited | styled | (moved & drawn.bare)
        return EditBatch(drawn.source, target, region, [item.instruction for item in plans], [item.task for item in plans])

    def plans(self, index: int) -> list[Plan]:
        """What is drawn in the batch of that number, by name."""
        return self._drawn(index)[0]

    def _drawn(self, index: int) -> tuple[list[Plan], torch.Generator]:
        if index < 0:
            raise IndexError(f"the stream has no end, so no batch {index}.")
        rng = Random(f"{self.seed} {self.split} {index}")
        generator = torch.Generator().manual_seed(rng.getrandbits(60))
        split, filmed = self.split.removesuffix(" films"), self.footage is not None
        return [plan(rng, split, self.tasks, filmed) for _ in range(self.batch)], generator

    def _backgrounds(self, kinds: list[str], camera: torch.Tensor, chance: textures.Chance, index: int) -> torch.Tensor:
        """[B, T, 2, 3] camera -> [B, 3, T, H, W]; films have a camera of their own."""
        films, others = ([clip for clip, kind in enumerate(kinds) if (kind == FILM) == film] for film in (True, False))
        if not films:
            return self._painted(kinds, camera, chance)
        shown = torch.empty(len(kinds), 3, self.frames, self.height, self.width, device=self.device)
        shown[upload(films, self.device)] = self._filmed(len(films), index)
        if others:
            chosen = upload(others, self.device)
            shown[chosen] = self._painted([kinds[clip] for clip in others], camera[chosen], chance.of(others, "cpu"))
        return shown

    def _filmed(self, count: int, index: int) -> torch.Tensor:
        """[count, 3, T, H, W]: the middle of square clips."""
        assert self.footage is not None, "plans name films only where there are some"
        starts = range(0, count, TOGETHER)
        clips = torch.cat([self.footage.draw(index * self.batch + start, min(TOGETHER, count - start)) for start in starts])
        top, left = ((self.footage.size - side) // 2 for side in (self.height, self.width))
        return clips[..., top : top + self.height, left : left + self.width]

    def _painted(self, kinds: list[str], camera: torch.Tensor, chance: textures.Chance) -> torch.Tensor:
        """[B, T, 2, 3] camera -> [B, 3, T, H, W]."""
        split = self.split.removesuffix(" films")
        pictures = textures.paint(kinds, chance, self.height, self.width, split, self.device)
        return show_background(pictures, camera, self.height, self.width)
