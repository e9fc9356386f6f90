"""Memory for encoding a long video to the model's latent: read in chunks, and all at once as core reads it.

    python -m liveditor_isa.benchmarks.clips.reading_memory [--write]

The sample video (1280×720), played forth and back to 100 and to 500 frames, is read from a file, resized and encoded with
LIVEditor-tiny's VAE at a small size. Every run is a process of its own, so that its peak memory is its own. All at once takes some
12 GB for 500 frames. Needs ComfyUI in COMFYUI_PATH.
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
from pathlib import Path

from ..machine import SAMPLE_VIDEO, peak_memory, result_file, use_comfyui

use_comfyui()

import torch
from comfy_api.latest import InputImpl

from ...checkpoint import included
from ...comfyui.loaders import load_vae
from ...comfyui.video_source import open_video
from ...nodes.references import InContextReferences
from ...video.geometry import fit_frames
from ...video.mp4 import write_mp4

WIDTH, HEIGHT = 96, 64


@torch.inference_mode()
def read(way: str, path: str) -> dict:
    """One row: seconds, and the process' peak memory before and after."""
    # For such small work, more threads are slower, because they wait for each other.
    torch.set_num_threads(1)
    vae = load_vae(included.path_of("vae"))
    video = InputImpl.VideoFromFile(path)
    before, began = peak_memory(), time.perf_counter()
    if way == "in chunks":
        size = {"size": "custom", "width": WIDTH, "height": HEIGHT}
        latent = InContextReferences.execute([], [], vae, video, size, 0, 0.0).result[2]["samples"]
    else:
        latent = vae.encode(fit_frames(video.get_components().images, WIDTH, HEIGHT)[0])
    return {
        "way": way,
        "frames": 4 * latent.shape[2] - 3,
        "seconds": round(time.perf_counter() - began, 1),
        "peak_gb": round(peak_memory() / 1e9, 3),
        "peak_gb_before": round(before / 1e9, 3),
    }


def forth_and_back(path: Path, frames: int):
    """The sample video, played forth and back until it has so many frames."""
    clip = open_video(InputImpl.VideoFromFile(str(SAMPLE_VIDEO)), 0, 0)
    images = torch.cat([(chunk * 255).round().to(torch.uint8) for chunk in clip.chunks()])
    once = [*range(len(images)), *range(len(images) - 2, 0, -1)]
    order = list(itertools.islice(itertools.cycle(once), frames))
    write_mp4(path, (images[order[start : start + 16]] / 255 for start in range(0, frames, 16)), clip.fps)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="store the table under benchmarks/results")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(read(*options.one)))
        return

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for frames in (101, 501):
            path = Path(folder) / f"{frames}.mp4"
            forth_and_back(path, frames)
            for way in ("in chunks", "all at once"):
                command = [sys.executable, "-m", __spec__.name, "--one", way, str(path)]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                rows.append(json.loads(output.splitlines()[-1]))
                print(rows[-1], flush=True)
    if options.write:
        result = {
            "command": "python -m liveditor_isa.benchmarks.clips.reading_memory --write",
            "source": [1280, 720],
            "size": [WIDTH, HEIGHT],
        }
        path = result_file("reading-memory-cpu")
        path.write_text(json.dumps({**result, "rows": rows}, indent=2) + "\n")
        print(path)


if __name__ == "__main__":
    main()
