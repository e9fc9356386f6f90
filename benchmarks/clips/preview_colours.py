"""Fits the colours of ComfyUI's live preview to a VAE: pixels from latents, linearly, beside core's factors for Wan 2.1.

    python -m liveditor_isa.benchmarks.clips.preview_colours
    python -m liveditor_isa.benchmarks.clips.preview_colours --vae other.safetensors --sheet sheet.png

Least squares from the latents, as a sampler has them, to the mean colour of the pixels that each stands for: 8×8 of one frame or of four. Fitted on a real
video and on drawn clips; the errors are those on these and on drawn clips that the fit never sees, before photographs of their own. --sheet writes a clip of
each kind as pixels, as core's preview and as the fitted one. Needs ComfyUI, `make setup` fetches it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch

from ..machine import SAMPLE_VIDEO, use_comfyui

use_comfyui()

import torch.nn.functional as F  # noqa: E402
from comfy.latent_formats import Wan21  # noqa: E402
from PIL import Image  # noqa: E402

from ...checkpoint.included import path_of  # noqa: E402
from ...comfyui.latent_colours import LIVEditorTinyLatents  # noqa: E402
from ...comfyui.loaders import load_vae  # noqa: E402
from ...data.procedural.stream import EditStream  # noqa: E402
from ...evaluation.frames import read_video, to_unit  # noqa: E402
from ...video.geometry import fit_frames  # noqa: E402

FRAMES, HEIGHT, WIDTH = 17, 176, 320
DRAWN = (5, 128, 128)
"""Frames, height and width of drawn clips, each before and after its edit."""


class Colours(NamedTuple):
    """Of a clip's latent positions: T frames of h×w."""

    latents: torch.Tensor
    """[T, h, w, 16], as a sampler has them."""
    pixels: torch.Tensor
    """[T, h, w, 3] in -1..1: the mean of the pixels that each position stands for."""


def colours_of(vae, clip: torch.Tensor) -> Colours:
    """clip: [4n+1, H, W, 3] in 0..1, sides multiples of 8."""
    latent = Wan21().process_in(vae.encode(clip).float().cpu())[0]
    # The first frame has a latent of its own, every later one stands for four frames.
    frames = F.pad(2 * clip.movedim(-1, 0)[None] - 1, (0, 0, 0, 0, 3, 0), mode="replicate")
    return Colours(latent.movedim(0, -1), F.avg_pool3d(frames, (4, 8, 8))[0].movedim(0, -1))


def drawn_clips(vae, edits: int, split: str) -> list[Colours]:
    batch = EditStream(0, edits, *DRAWN, "cpu", split=split)[0]
    return [colours_of(vae, clip.movedim(0, -1)) for clip in torch.cat([batch.source, batch.target])]


def fitted(clips: list[Colours]) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors [16, 3] and bias [3], by least squares over all positions of all clips."""
    latents = torch.cat([clip.latents.flatten(0, 2) for clip in clips]).double()
    pixels = torch.cat([clip.pixels.flatten(0, 2) for clip in clips]).double()
    solution = torch.linalg.lstsq(torch.cat([latents, torch.ones_like(latents[:, :1])], 1), pixels).solution.float()
    return solution[:-1], solution[-1]


def preview(clip: Colours, factors, bias) -> torch.Tensor:
    """[T, h, w, 3] in -1..1, as core's previewer makes it."""
    return (clip.latents @ torch.as_tensor(factors) + torch.as_tensor(bias)).clamp(-1, 1)


def error(clips: list[Colours], factors, bias) -> str:
    """Of colours in 0..255: root mean square, and the share of their variance that the preview explains."""
    pixels = torch.cat([clip.pixels.flatten(0, 2) for clip in clips])
    shown = torch.cat([preview(clip, factors, bias).flatten(0, 2) for clip in clips])
    square = (shown - pixels).square().mean()
    return f"RMSE {127.5 * square.sqrt():.1f}, R² {1 - square / (pixels - pixels.mean(0)).square().mean():.3f}"


def sheet(clips: list[Colours], looks: list[tuple], path: Path):
    """A row for each clip: its middle frame as pixels and in each look."""
    rows = []
    for clip in clips:
        pictures = [clip.pixels, *(preview(clip, *look) for look in looks)]
        middle = torch.stack([picture[len(picture) // 2] for picture in pictures]).movedim(-1, 1)
        rows.append(F.interpolate(middle, (HEIGHT, WIDTH)).movedim(1, -1).movedim(0, 1).flatten(1, 2))
    Image.fromarray(((torch.cat(rows) + 1) * 127.5).round().byte().numpy()).save(path)


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", default=path_of("vae"), help="a VAE in Wan 2.1's format")
    parser.add_argument("--sheet", type=Path, help="a PNG to look at")
    options = parser.parse_args()
    vae = load_vae(options.vae)
    video = to_unit(read_video(str(SAMPLE_VIDEO), FRAMES).frames).movedim(1, -1)
    real = colours_of(vae, fit_frames(video, WIDTH, HEIGHT)[0])
    drawn, unseen = drawn_clips(vae, 8, "train"), drawn_clips(vae, 2, "held-out")
    own = fitted([real, *drawn])
    looks = {
        "core's": (Wan21.latent_rgb_factors, Wan21.latent_rgb_factors_bias),
        "the pack's": (LIVEditorTinyLatents.latent_rgb_factors, LIVEditorTinyLatents.latent_rgb_factors_bias),
        "fitted": own,
    }
    for title, clips in (("Big Buck Bunny", [real]), ("drawn clips", drawn), ("drawn clips, unseen", unseen)):
        print(title + ": " + "; ".join(f"{name} {error(clips, *look)}" for name, look in looks.items()))
    print("latent_rgb_factors = [", *(f"    {[round(each, 4) for each in row]}," for row in own[0].tolist()), "]", sep="\n")
    print("latent_rgb_factors_bias =", [round(each, 4) for each in own[1].tolist()])
    if options.sheet:
        sheet([real, drawn[-1], unseen[0]], [looks["core's"], own], options.sheet)


if __name__ == "__main__":
    main()
