"""A long video edited by overlapping context windows: visibility of the seams, and memory by number of frames.

    python -m liveditor_isa.benchmarks.clips.long_video [--write]

LIVEditor-tiny and core's *Wan Context Windows*, through this pack's own nodes: a file is read, encoded, sampled and decoded
as in a graph. The source is the sample video, played forth and back until it is long enough. Every run is a process of its own, so
that its peak memory is its own. Needs ComfyUI in COMFYUI_PATH.

Two things are measured where one latent frame ends and the next begins, at seams, which is where a window begins or ends, and
elsewhere (inside): how much successive frames differ, mean over pixels, over the source's own difference, so that motion does
not count; and how far the mean colour of edit minus source jumps, in 255ths. A ratio within what chance gives is no seam. Windows
without overlap show what is found of a seam that nothing hides.
"""

# ruff: noqa: E402  ComfyUI is found before its modules are imported.
from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

from ..machine import SAMPLE_VIDEO, peak_memory, result_file, use_comfyui, versions

use_comfyui()

import comfy.sample
import torch
from comfy_api.latest import InputImpl
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from comfy_extras.nodes_model_advanced import ModelSamplingSD3

from ...checkpoint import included
from ...comfyui.architecture import register
from ...comfyui.loaders import load_diffusion_model, load_text_encoder, load_vae
from ...comfyui.vae_decode import decode_chunks
from ...comfyui.video_source import open_video
from ...nodes.references import InContextReferences
from ...video.clip import SOURCE_CLIP
from ...video.geometry import fit_frames
from ...video.mp4 import write_mp4

WIDTH, HEIGHT, STEPS = 144, 80, 6
INSTRUCTION = "Make the video look like sunset"
WINDOW, OVERLAP = 33, 16
"""Frames."""

VARIANTS = {
    "no overlap": ("batched", 0, "flat"),
    "static, overlapping": ("standard_static", OVERLAP, "pyramid"),
    "uniform, overlapping": ("standard_uniform", OVERLAP, "pyramid"),
}
"""{name: schedule, overlap in frames and fuse method of Wan Context Windows}."""


@torch.inference_mode()
def edit(variant: str, path: str, frames: int) -> dict:
    """Edit the beginning of a video; one row of the table."""
    schedule, overlap, fuse = VARIANTS[variant]
    # For such small work, more threads are slower, because they wait for each other.
    torch.set_num_threads(1)
    register()
    vae = load_vae(included.path_of("vae"))
    text = load_text_encoder(included.path_of("text_encoder"))
    model = load_diffusion_model(included.path_of("diffusion_model"))
    (model,) = ModelSamplingSD3().patch(model, shift=6.0)
    model = WanContextWindowsManualNode.execute(model, WINDOW, overlap, schedule, 1, False, fuse, True).result[0]
    positive, negative = (text.encode_from_tokens_scheduled(text.tokenize(words)) for words in (INSTRUCTION, ""))
    loaded, began = peak_memory(), time.perf_counter()

    size = {"size": "custom", "width": WIDTH, "height": HEIGHT}
    video = InputImpl.VideoFromFile(path)
    positive, negative, latent = InContextReferences.execute(positive, negative, vae, video, size, frames, 0.0).result
    noise = comfy.sample.prepare_noise(latent["samples"], 7)
    samples = comfy.sample.sample(
        model, noise, STEPS, 1.0, "euler", "simple", positive, negative, latent["samples"], seed=7, disable_pbar=True
    )
    seams = seam_positions(model, samples)
    source = (fit_frames(chunk, WIDTH, HEIGHT)[0] for chunk in latent[SOURCE_CLIP].clip.chunks())
    steps = changes(frames_of(decode_chunks(vae, samples)), frames_of(source))
    return {
        "variant": variant,
        "frames": len(steps) + 1,
        "seconds": round(time.perf_counter() - began),
        "peak_gb": round(peak_memory() / 1e9, 3),
        "peak_gb_before": round(loaded / 1e9, 3),
        **at_seams_and_inside(steps, seams),
    }


def seam_positions(model, samples) -> set[int]:
    """Latent frames at which a window begins, or that follow a window's end, in the last step."""
    handler = model.model_options["context_handler"]
    handler._step = STEPS - 1
    windows = [window.index_list for window in handler.get_context_windows(None, samples, {})]
    ends = {edge for window in windows for edge in (window[0], window[-1] + 1)}
    return ends - {0, samples.shape[2]}


def frames_of(chunks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    return itertools.chain.from_iterable(chunks)


def changes(edited: Iterator[torch.Tensor], source: Iterator[torch.Tensor]) -> torch.Tensor:
    """[frames - 1, 3], from each frame to the next: mean difference of the edit, of the source, jump of their mean colours' difference."""
    rows = []
    # The edit is padded to a longer video than its source.
    for (e0, s0), (e1, s1) in itertools.pairwise(zip(edited, source)):
        jump = ((e1 - s1).mean((0, 1)) - (e0 - s0).mean((0, 1))).abs().mean() * 255
        rows.append(torch.stack([(e1 - e0).abs().mean(), (s1 - s0).abs().mean(), jump]))
    return torch.stack(rows)


def at_seams_and_inside(steps: torch.Tensor, seams: set[int]) -> dict:
    """Of the steps between latent frames, difference and jump: at seams, inside, the first over the second, and that ratio's
    range from 5 to 95 % for places drawn by chance."""
    # The first latent frame is one frame, every other four: the n-th begins with frame 4n-3.
    meetings = steps[0 : len(steps) // 4 * 4 : 4]
    is_seam = torch.tensor([n + 1 in seams for n in range(len(meetings))])
    row = {"seams": int(is_seam.sum()), "at_seams": _mean(meetings[is_seam]), "inside": _mean(meetings[~is_seam])}
    # As many places as there are seams, anywhere.
    generator = torch.Generator().manual_seed(0)
    drawn = [is_seam[torch.randperm(len(is_seam), generator=generator)] for _ in range(2000)]
    for key in ("difference", "jump"):
        chance = torch.tensor([_mean(meetings[each])[key] / _mean(meetings[~each])[key] for each in drawn])
        row[f"{key}_ratio"] = round(row["at_seams"][key] / row["inside"][key], 3)
        row[f"{key}_by_chance"] = [round(float(chance.quantile(share)), 3) for share in (0.05, 0.95)]
    return row


def _mean(steps: torch.Tensor) -> dict[str, float]:
    edited, own, jump = steps.mean(0)
    return {"difference": float(edited / own), "jump": float(jump)}


def forth_and_back(path: Path, frames: int):
    """The sample video at the edit's size, played forth and back until it has so many frames."""
    clip = open_video(InputImpl.VideoFromFile(str(SAMPLE_VIDEO)), 0, 0)
    images = torch.cat([fit_frames(chunk, WIDTH, HEIGHT)[0] for chunk in clip.chunks()])
    once = [*range(len(images)), *range(len(images) - 2, 0, -1)]
    order = list(itertools.islice(itertools.cycle(once), frames))
    write_mp4(path, (images[order[start : start + 16]] for start in range(0, frames, 16)), Fraction(clip.fps))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=505)
    parser.add_argument("--write", action="store_true", help="store the table under benchmarks/results")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        variant, path, frames = options.one
        print(json.dumps(edit(variant, path, int(frames))))
        return

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.mp4"
        forth_and_back(path, options.frames)
        runs = [(variant, options.frames) for variant in VARIANTS] + [("static, overlapping", options.frames // 4)]
        for variant, frames in runs:
            command = [sys.executable, "-m", __spec__.name, "--one", variant, str(path), str(frames)]
            rows.append(
                json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
            )
            print(rows[-1], flush=True)
    if options.write:
        result = {
            "versions": versions(),
            "command": "python -m liveditor_isa.benchmarks.clips.long_video --write",
            "size": [WIDTH, HEIGHT],
            "window": WINDOW,
            "overlap": OVERLAP,
            "steps": STEPS,
            "rows": rows,
        }
        target = result_file("long-video-cpu")
        target.write_text(json.dumps(result, indent=2) + "\n")
        print(target)


if __name__ == "__main__":
    main()
