"""Colours of edits by LIVEditor-tiny, before and after Decode Video's match_colors.

    python -m liveditor_isa.benchmarks.clips.color_drift

All in levels of 255:

- *vae*: the sample video through the VAE alone, put back into itself within a box: what a VAE does to colours, and what a seam shows of it.
- *made shift*: the same with an artificial cast, CAST.
- *masked edits*: held-out clips with one object recoloured, removed or swapped, within a mask a little wider than the object. The
  true edit is known, so the error inside is the edit's own.
- *long edit*: the sample video turned into a sunset, whose exact rule is known, over 81 frames.
- *made drift*: the same edit with an artificial drift on top.

*shift*: mean over frames and channels of how far the mean colour is off. *seam*: the same locally, just inside the mask's edge: root mean square
over tiles of 16 pixels, outside of which the composite is the source itself. *drift*: how far the mean colour's error moves
from the first 16 frames to the last 16. Runs on the CPU, in some minutes. Needs ComfyUI in COMFYUI_PATH.
"""

# ruff: noqa: E402  ComfyUI is found before its modules are imported.
from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

from ..machine import SAMPLE_VIDEO, result_file, use_comfyui

use_comfyui()

import torch
import torch.nn.functional as F

from ...checkpoint.included import FILES, FOLDER
from ...comfyui.loaders import load_vae
from ...comfyui.vae_decode import decode_chunks
from ...comfyui.video_source import open_video
from ...data.procedural.stream import EditStream
from ...data.procedural.styles import STYLES
from ...video.colour import match_colours
from ...video.composite import put_back
from ...video.geometry import CropBox, fit_frames
from ...video.region import Region
from ..editor import load_editor

SIZE, LONG_SIZE, CLIP_SIDE = (33, 144, 256), (81, 112, 208), 192
STEPS, EDITS = 12, 6
MADE = 0.001
"""Gain that the artificial drift adds per frame."""
CAST = torch.tensor([[1.05, 1.0, 0.95], [0.02, 0.0, -0.01]])
"""Gain and offset of the artificial shift, for red, green and blue."""


def full(func, *args, **kwargs):
    """Attention as it is."""
    return func(*args, **kwargs)


def sample_video(size: tuple[int, int, int]) -> torch.Tensor:
    """[F, H, W, 3] in 0..1."""
    from comfy_api.latest import InputImpl

    frames, height, width = size
    clip = open_video(InputImpl.VideoFromFile(str(SAMPLE_VIDEO)), frames, 0)
    return torch.cat([fit_frames(chunk, width, height)[0] for chunk in clip.chunks()])


def matched(edit: torch.Tensor, source: torch.Tensor, region: Region, crop: CropBox, match: bool) -> torch.Tensor:
    pairs = zip(edit, source)
    return torch.stack([frame for frame, _ in (match_colours(pairs, region, crop) if match else pairs)])


def within(edit: torch.Tensor, source: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> dict[str, dict[str, float]]:
    """Shift and seam of an edit put back within a mask, [F, H, W], without and with matched colours."""
    crop = CropBox(0, 0, source.shape[2], source.shape[1])
    region, measured = Region((source.shape[2], source.shape[1]), crop, mask), {}
    for name, match in (("before", False), ("after", True)):
        frames = torch.stack([*put_back(zip(matched(edit, source, region, crop, match), source), region, crop)])
        assert torch.equal(frames[mask == 0], source[mask == 0])
        error = (frames - truth) * 255
        measured[name] = {"shift": shift(error, mask), "seam": seam(error, mask)}
    return measured


def shift(error: torch.Tensor, mask: torch.Tensor) -> float:
    inside = (mask > 0).float()[..., None]
    return float(((error * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)).abs().mean())


def seam(error: torch.Tensor, mask: torch.Tensor, band: int = 4, tile: int = 16) -> float:
    inside = (mask > 0).float()[:, None]
    edge = inside * F.max_pool2d(1 - inside, 2 * band + 1, stride=1, padding=band)
    share = F.avg_pool2d(edge, tile)
    mean = F.avg_pool2d(error.movedim(-1, 1) * edge, tile) / share.clamp(min=1e-6)
    return float(mean[(share > 0.1).expand_as(mean)].square().mean().sqrt())


def drift(error: torch.Tensor, ends: int = 16) -> float:
    mean = error.mean((1, 2)) * 255
    return float((mean[-ends:].mean(0) - mean[:ends].mean(0)).abs().mean())


def vae_alone() -> tuple[dict, dict]:
    source, vae = sample_video(SIZE), load_vae(str(FOLDER / FILES["vae"]))
    decoded = torch.cat([*decode_chunks(vae, vae.encode(source))])
    mask = torch.zeros(len(source), *source.shape[1:3])
    mask[:, 36:108, 80:176] = 1
    return tuple(within(frames, source, source, mask) for frames in (decoded, decoded * CAST[0] + CAST[1]))


def masked_edits(editor) -> dict:
    stream = EditStream(0, EDITS, 9, CLIP_SIDE, CLIP_SIDE, split="held-out", tasks=("recolour", "remove", "swap"))
    batch = stream[0]
    edited = editor.edit(batch.source, batch.instructions, STEPS, full)
    rows = []
    for index in range(EDITS):
        edit, source, truth = (as_frames(clip[index : index + 1]) for clip in (edited, batch.source, batch.target))
        mask = F.max_pool2d(batch.region[index].movedim(1, 0).float(), 9, stride=1, padding=4)[:, 0]
        rows.append({"instruction": batch.instructions[index], **within(edit, source, truth, mask)})
    mean = {
        when: {name: sum(row[when][name] for row in rows) / EDITS for name in ("shift", "seam")} for when in ("before", "after")
    }
    return {**mean, "clips": rows}


def over_time(editor) -> tuple[dict, dict]:
    source = sample_video(LONG_SIZE)
    edit = as_frames(editor.edit(as_batch(source), ["make the video look like sunset"], STEPS, full))
    truth = STYLES["sunset"](source.movedim(-1, 1)).movedim(1, -1)
    crop = CropBox(0, 0, LONG_SIZE[2], LONG_SIZE[1])
    region = Region((LONG_SIZE[2], LONG_SIZE[1]), crop)
    drifting = (edit * (1 + MADE * torch.arange(len(edit)).view(-1, 1, 1, 1))).clamp(0, 1)
    drifts = []
    for frames in (edit, drifting):
        corrected = matched(frames, source, region, crop, True)
        drifts.append({"before": {"drift": drift(frames - truth)}, "after": {"drift": drift(corrected - truth)}})
    return tuple(drifts)


def as_batch(frames: torch.Tensor) -> torch.Tensor:
    """[F, H, W, 3] -> [1, 3, F, H, W]."""
    return frames.movedim(-1, 0)[None]


def as_frames(batch: torch.Tensor) -> torch.Tensor:
    return batch[0].movedim(0, -1).clamp(0, 1)


@torch.inference_mode()
def measure() -> dict:
    rows = dict(zip(("vae", "made shift"), vae_alone()))
    print(rows, flush=True)
    editor = load_editor(FOLDER, FOLDER, "cpu")
    rows["masked edits"] = masked_edits(editor)
    print(rows["masked edits"], flush=True)
    rows["long edit"], rows["made drift"] = over_time(editor)
    print(rows["long edit"], rows["made drift"], flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = result_file("color-drift-cpu")
    parser.add_argument("--output", type=Path, default=default, help="JSON file to write")
    options = parser.parse_args()
    results = {
        "command": "python -m liveditor_isa.benchmarks.clips.color_drift",
        "machine": f"{os.cpu_count()} CPU cores",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "unit": "levels of 255",
        "frames, height, width": {
            "vae": SIZE, "made shift": SIZE, "masked edits": (9, CLIP_SIDE, CLIP_SIDE), "long edit": LONG_SIZE, "made drift": LONG_SIZE,
        },
        "rows": measure(),
    }  # fmt: skip
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(options.output)


if __name__ == "__main__":
    main()
