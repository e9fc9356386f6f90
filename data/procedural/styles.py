"""Global styles: exact, frame by frame functions of a clip, [N, 3, H, W] in 0..1 -> the same."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from kornia.color import rgb_to_grayscale, sepia
from kornia.filters import gaussian_blur2d, sobel

from .tensors import colour, upload


def _blur(frames: torch.Tensor, share: float) -> torch.Tensor:
    """Gaussian blur whose deviation is a share of the short side."""
    sigma = share * min(frames.shape[-2:])
    size = 2 * round(2.5 * sigma) + 1
    return gaussian_blur2d(frames, (size, size), (sigma, sigma))


def _tone(frames: torch.Tensor, red: float, green: float, blue: float) -> torch.Tensor:
    return frames * colour(frames.device, red, green, blue)


def _vivid(frames: torch.Tensor, times: float) -> torch.Tensor:
    """Saturation times as strong."""
    return torch.lerp(rgb_to_grayscale(frames), frames, times).clamp(0, 1)


def black_and_white(frames: torch.Tensor) -> torch.Tensor:
    return rgb_to_grayscale(frames).expand_as(frames)


def old_photograph(frames: torch.Tensor) -> torch.Tensor:
    return sepia(frames, rescale=False) * 0.92


def night(frames: torch.Tensor) -> torch.Tensor:
    """Moonlight: dark, bluish, hardly any colour."""
    return _tone(torch.lerp(frames, rgb_to_grayscale(frames), 0.6), 0.30, 0.38, 0.66)


def sunset(frames: torch.Tensor) -> torch.Tensor:
    glow = colour(frames.device, 1.0, 0.45, 0.12)
    return torch.lerp(_tone(frames, 1.10, 0.72, 0.48), glow, 0.22)


def inverted(frames: torch.Tensor) -> torch.Tensor:
    return 1 - frames


def poster(frames: torch.Tensor) -> torch.Tensor:
    """Four levels of each colour, strong ones."""
    return (_vivid(_blur(frames, 0.004), 1.6) * 3).round() / 3


def pencil_sketch(frames: torch.Tensor) -> torch.Tensor:
    grey = rgb_to_grayscale(frames)
    around = _blur(grey, 0.018)
    lines = (grey / (around + 0.02)).clamp(0, 1) ** 2.5
    return (lines * (0.84 + 0.16 * around)).expand_as(frames)


def mosaic(frames: torch.Tensor) -> torch.Tensor:
    tile = 8 if min(frames.shape[-2:]) < 320 else 16
    return F.interpolate(F.avg_pool2d(frames, tile), scale_factor=tile, mode="nearest")


def dreamy(frames: torch.Tensor) -> torch.Tensor:
    soft = _blur(frames, 0.028)
    return soft + 0.15 * soft * (1 - soft)


def cartoon(frames: torch.Tensor) -> torch.Tensor:
    """Flat vivid areas with dark outlines."""
    smooth = _blur(frames, 0.008)
    edges = sobel(smooth).amax(1, keepdim=True)
    flat = (_vivid(smooth, 1.5) * 5).round() / 5
    return flat * (1.35 - 11 * edges).clamp(0, 1)


def neon(frames: torch.Tensor) -> torch.Tensor:
    """Outlines shine in their own hue on black."""
    smooth = _blur(frames, 0.006)
    edges = sobel(smooth).amax(1, keepdim=True) * 9
    hue = smooth / smooth.amax(1, keepdim=True).clamp(min=0.05)
    return 0.06 * frames + edges * (hue**3 * 0.9 + 0.1)


def foggy(frames: torch.Tensor) -> torch.Tensor:
    """Fog, denser towards the top, where things are far away."""
    grey = colour(frames.device, 0.84, 0.86, 0.88)
    thickness = torch.linspace(0.82, 0.52, frames.shape[-2], device=frames.device).view(1, 1, -1, 1)
    return torch.lerp(_blur(frames, 0.006), grey, thickness)


def underwater(frames: torch.Tensor) -> torch.Tensor:
    depth = torch.linspace(1.1, 0.65, frames.shape[-2], device=frames.device).view(1, 1, -1, 1)
    teal = colour(frames.device, 0.02, 0.45, 0.60)
    return torch.lerp(_tone(frames, 0.35, 0.85, 1.0), teal, 0.38) * depth


def warm(frames: torch.Tensor) -> torch.Tensor:
    return _tone(frames, 1.14, 1.0, 0.68)


def cool(frames: torch.Tensor) -> torch.Tensor:
    return _tone(frames, 0.72, 0.98, 1.16)


def faded(frames: torch.Tensor) -> torch.Tensor:
    """Lifted blacks, low contrast, pale colours."""
    return 0.22 + 0.60 * _vivid(frames, 0.55)


def vivid(frames: torch.Tensor) -> torch.Tensor:
    return _vivid(frames, 2.0)


def high_contrast(frames: torch.Tensor) -> torch.Tensor:
    """A steep curve that ends gently in black and in white."""
    for _ in range(2):
        frames = frames.square() * (3 - 2 * frames)
    return frames


def teal_and_orange(frames: torch.Tensor) -> torch.Tensor:
    """Shadows turn to teal, highlights to orange."""
    teal, orange = colour(frames.device, 0.0, 0.55, 0.68), colour(frames.device, 1.0, 0.74, 0.34)
    light = rgb_to_grayscale(frames)
    # A steep change between the two, or else all that is neither dark nor light is grey.
    tone = torch.lerp(teal, orange, high_contrast(light)) * (0.4 + 0.8 * light)
    return torch.lerp(frames, tone, 0.65)


STYLES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "black and white": black_and_white,
    "sepia": old_photograph,
    "night": night,
    "sunset": sunset,
    "inverted": inverted,
    "poster": poster,
    "pencil sketch": pencil_sketch,
    "mosaic": mosaic,
    "dreamy": dreamy,
    "cartoon": cartoon,
    "neon": neon,
    "foggy": foggy,
    "underwater": underwater,
}

GRADES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "warm": warm,
    "cool": cool,
    "faded": faded,
    "vivid": vivid,
    "high contrast": high_contrast,
    "teal and orange": teal_and_orange,
}
"""Grades of colour, drawn only where backgrounds are filmed."""


def apply_styles(clips: torch.Tensor, styles: list[str | None]) -> torch.Tensor:
    """[B, 3, T, H, W] -> a copy in which each clip has its style or grade; None leaves it as it is."""
    styled, looks = clips.clone(), STYLES | GRADES
    for style in sorted({name for name in styles if name}):
        chosen = upload([clip for clip, name in enumerate(styles) if name == style], clips.device)
        part = clips[chosen].transpose(1, 2)
        frames = looks[style](part.flatten(0, 1)).clamp(0, 1)
        styled[chosen] = frames.unflatten(0, part.shape[:2]).transpose(1, 2)
    return styled
