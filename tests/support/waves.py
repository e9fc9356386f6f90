"""Clips that a small VAE learns within seconds."""

import torch


def clips(index: int, frames: int = 5, size: int = 32) -> torch.Tensor:
    """[2, 3, T, H, W] in 0..1: colour waves that move."""
    generator = torch.Generator().manual_seed(index)
    speed, phase = torch.rand(2, 3, 3, generator=generator) * 0.4, torch.rand(2, 3, generator=generator) * 6
    grid = torch.stack(torch.meshgrid(torch.arange(frames), torch.arange(size), torch.arange(size), indexing="ij")).float()
    return 0.5 + 0.5 * torch.sin(torch.einsum("bcd,dthw->bcthw", speed, grid) + phase[..., None, None, None])
