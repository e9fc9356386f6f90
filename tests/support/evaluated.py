"""Small clips for tests of the evaluation: moving shapes, their right edit, a mask, and ways of being wrong."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

FRAMES, HEIGHT, WIDTH = 3, 96, 128


def scene(seed: int = 0, frames: int = FRAMES) -> tuple[torch.Tensor, torch.Tensor]:
    """[T, H, W, 3] uint8, smooth colours with a red box that moves over them, and the box, [T, H, W] bool."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 8, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic").clamp(0, 1)[0].movedim(0, -1)
    video = (picture * 255).to(torch.uint8).repeat(frames, 1, 1, 1)
    mask = torch.zeros(frames, HEIGHT, WIDTH, dtype=torch.bool)
    for index in range(frames):
        mask[index, 30:60, 20 + 6 * index : 50 + 6 * index] = True
    video[mask] = torch.tensor([200, 30, 30], dtype=torch.uint8)
    return video, mask


def right(video: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The box becomes blue."""
    edited = video.clone()
    edited[mask] = torch.tensor([30, 30, 200], dtype=torch.uint8)
    return edited


def noisy(video: torch.Tensor, deviation: float = 25, seed: int = 1) -> torch.Tensor:
    noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(seed)) * deviation
    return (video + noise).round().clamp(0, 255).to(torch.uint8)


def blurred(video: torch.Tensor, sigma: float = 6) -> torch.Tensor:
    from kornia.filters import gaussian_blur2d

    size = 2 * round(3 * sigma) + 1
    return (gaussian_blur2d(video.movedim(-1, 1).float(), (size, size), (sigma, sigma)).movedim(1, -1)).round().to(torch.uint8)


def save(folder: Path, video: torch.Tensor) -> Path:
    """As a folder of PNG files, which lose nothing. A mask becomes white and black."""
    folder.mkdir(parents=True, exist_ok=True)
    if video.dtype == torch.bool:
        video = video[..., None].expand(-1, -1, -1, 3).to(torch.uint8) * 255
    for index, frame in enumerate(video):
        Image.fromarray(np.ascontiguousarray(frame.numpy())).save(folder / f"{index:05d}.png")
    return folder


def write_rows(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def small_dino():
    """With random weights."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    return Dinov2Model(
        Dinov2Config(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=42, patch_size=14)
    ).eval()
