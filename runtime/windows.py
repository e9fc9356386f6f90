"""Long videos in windows: in every step the network sees one part of the video after another, and what it says is averaged.

As ComfyUI's *Wan Context Windows* does at its defaults (schedule `standard_uniform`, fused by `pyramid`, FreeNoise), which
`tests/runtime/test_windows.py` compares. Windows are other ones in each step, so that no seam stays in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

TIME = 2
"""Axis of a latent, [B, C, T, h, w], along which windows lie."""

LATENT_STEP = 4
"""Frames of a latent frame after the first (`video/geometry.py`)."""


@dataclass(frozen=True)
class Windows:
    """length: latent frames of a window. overlap: those that it shares with the next one, fewer than its length."""

    length: int
    overlap: int

    @classmethod
    def of_frames(cls, window: int, overlap: int | None = None) -> Windows | None:
        """Counted as the node counts: window in frames, 4n+1; overlap in frames, None for half of it. None for a window of 0.

        Raises ValueError for an overlap that leaves no step from one window to the next.
        """
        if window == 0:
            if overlap is not None:
                raise ValueError("window_overlap belongs to windows: give window too, or leave it out.")
            return None
        found = cls((window - 1) // LATENT_STEP + 1, (window // 2 if overlap is None else overlap) // LATENT_STEP)
        if found.overlap >= found.length:
            raise ValueError(f"window_overlap must be shorter than the window; got {overlap} of {window} frames.")
        return found

    def at(self, step: int, frames: int) -> list[range]:
        """The windows of a step, in order; together they are all `frames` latent frames."""
        if frames <= self.length:
            return [range(frames)]
        last = frames - self.length
        begin = round(frames * _bits_reversed(step))
        starts = {start % frames for start in range(begin, begin + frames - self.overlap, self.length - self.overlap)}
        if beyond := {start for start in starts if start > last}:
            # A window that would run over the end ends there, and another one begins with the video.
            starts = starts - beyond | {0, last}
        return [range(start, start + self.length) for start in sorted(starts)]

    def fused(self, step: int, frames: int, call: Callable[[range], torch.Tensor]) -> torch.Tensor:
        """What `call` says of each window, [B, C, T of the window, h, w], as one, [B, C, frames, h, w] in fp32.

        call: gets a window and, where one lies before it, the frame in front: the first latent frame of a video stands for one
        frame, all others for four, so that the network must not take another one for the first. What it says of that is dropped.
        """
        windows = self.at(step, frames)
        total, weights = None, torch.zeros(frames)
        for window in windows:
            seen = range(max(0, window.start - 1), window.stop)
            said = call(seen).narrow(TIME, window.start - seen.start, len(window)).float()
            if total is None:
                total = said.new_zeros(*said.shape[:TIME], frames, *said.shape[TIME + 1 :])
            weight = _pyramid(len(window))
            total[:, :, window.start : window.stop] += said * weight.to(said.device)[:, None, None]
            weights[window.start : window.stop] += weight
        assert total is not None
        return total / weights.to(total.device)[:, None, None]

    def shuffled(self, noise: torch.Tensor, seed: int) -> torch.Tensor:
        """Noise for windows, like `noise` [B, C, T, h, w]: behind the first one that of earlier frames in another order, so that windows
        have like noise (FreeNoise, arXiv 2310.15169)."""
        noise, frames, step = noise.clone(), noise.shape[TIME], self.length - self.overlap
        generator = torch.Generator().manual_seed(seed)
        for start in range(0, frames - self.length, step):
            to = start + self.length
            count = min(step, frames - to)
            order = torch.randperm(count, generator=generator) + start
            noise[:, :, to : to + count] = noise[:, :, order.to(noise.device)]
        return noise


def cut(latent: torch.Tensor, frames: range, of: int) -> torch.Tensor:
    """A context's part in a window, [B, C, T', h, w]: of one that is `of` latent frames long, as the video to edit is; another stays whole."""
    return latent.narrow(TIME, frames.start, len(frames)) if latent.shape[TIME] == of else latent


def _pyramid(length: int) -> torch.Tensor:
    """A frame's weight by its distance from the nearer end of its window: 1, 2, ..., 2, 1."""
    index = torch.arange(length)
    return torch.minimum(index + 1, length - index).float()


def _bits_reversed(number: int) -> float:
    """0, 1/2, 1/4, 3/4, 1/8, 5/8, ...: spreads the steps' beginnings evenly at any number of steps."""
    return int(f"{number:064b}"[::-1], 2) / 2**64
