"""What a reconstructed clip is judged by, in training."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from ...data.procedural.tensors import upload
from .perceptual import Perceptual

EVERY = 3
"""Each step `Perceptual` sees every third frame."""


class PictureLoss:
    """`reconstruction_loss`, and so many times `Perceptual`, where there are weights for it."""

    def __init__(self, perceptual: float, vgg: Path | None, device: torch.device):
        self.weight, self.network = perceptual, Perceptual(vgg).to(device) if vgg else None

    def __call__(self, output: torch.Tensor, video: torch.Tensor, looked_at: torch.Tensor) -> torch.Tensor:
        """Both [B, 3, T, H, W] in -1..1; looked_at: of `frames_for`."""
        loss = reconstruction_loss(output, video)
        if not self.network:
            return loss
        frames = (clip.index_select(2, looked_at).transpose(1, 2).flatten(0, 1) for clip in (output, video))
        return loss + self.weight * self.network(*frames)


def frames_for(step: int, frames: int, device: torch.device) -> torch.Tensor:
    """The numbers of the frames that `Perceptual` sees in a step: always so many."""
    every = min(EVERY, frames)
    return upload(torch.arange(step % every, frames, every)[: frames // every], device)


def reconstruction_loss(output: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
    """Both [B, 3, T, H, W] in -1..1. Differences in colour, in edges at three scales, and in what moves."""
    error = output.float() - video
    loss = (error.square() + 1e-6).sqrt().mean()
    if error.shape[2] > 1:
        loss = loss + 0.5 * error.diff(dim=2).abs().mean()
    for _ in range(3):
        loss = loss + 0.5 * (error.diff(dim=3).abs().mean() + error.diff(dim=4).abs().mean())
        error = F.avg_pool3d(error, (1, 2, 2))
    return loss + error.abs().mean()
