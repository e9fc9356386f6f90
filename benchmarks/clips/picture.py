"""How well VAEs keep the picture of real clips: each clip encoded and decoded, nothing edited.

    python -m liveditor_isa.benchmarks.clips.picture --vae weights/wan_tiny_vae.safetensors OTHER.safetensors --video bikes.mp4 .cache/bigbuckbunny.mp4

PSNR, SSIM and LPIPS against the clip (`evaluation.metrics`; LPIPS where its weights are here: `liveditor evaluate models`), the change between
neighbouring frames that the VAE adds, and seconds, all by core's own VAE. Needs ComfyUI, `make setup` fetches it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from ..machine import SAMPLE_VIDEO, heading, result_file, use_comfyui

use_comfyui()

from ...checkpoint.included import path_of  # noqa: E402
from ...comfyui.loaders import load_vae  # noqa: E402
from ...comfyui.vae_decode import decode_chunks  # noqa: E402
from ...evaluation.frames import read_video, to_bytes, to_unit  # noqa: E402
from ...evaluation.metrics.lpips import weights_of  # noqa: E402
from ...evaluation.metrics.pixels import lpips, psnr, ssim  # noqa: E402
from ...evaluation.metrics.temporal import steadiness  # noqa: E402
from ...video.geometry import fit_frames  # noqa: E402

LPIPS = "alex"


def measures_here() -> dict:
    """{name: function of one frame and the clip's}."""
    measures = {"psnr": psnr, "ssim": ssim}
    try:
        weights_of(LPIPS)
    except RuntimeError as error:
        print(f"Without LPIPS: {error}")
        return measures
    return measures | {f"lpips_{LPIPS}": lambda one, other: lpips(LPIPS, one, other)}


@torch.inference_mode()
def scores(vae, clip: torch.Tensor, measures: dict) -> dict[str, float]:
    """clip: [T, H, W, 3] in 0..1."""
    begun = time.perf_counter()
    latent = vae.encode(clip)
    encoded = time.perf_counter()
    output = torch.cat([*decode_chunks(vae, latent)]).float().clamp(0, 1)
    decoded = time.perf_counter()
    after, before = to_bytes(output), to_bytes(clip)
    pairs = list(zip(to_unit(after), to_unit(before)))
    row = {name: sum(measure(*pair) for pair in pairs) / len(pairs) for name, measure in measures.items()}
    row["flicker_added"] = 255 * (steadiness(before) - steadiness(after))
    return {**row, "seconds_to_encode": encoded - begun, "seconds_to_decode": decoded - encoded}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", nargs="+", default=[path_of("vae")], help="VAEs in Wan 2.1's format")
    parser.add_argument("--video", nargs="+", default=[str(SAMPLE_VIDEO)])
    parser.add_argument("--size", type=int, nargs=3, default=(33, 176, 320), metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--out", type=Path, default=result_file("picture-cpu"))
    options = parser.parse_args()
    frames, height, width = options.size
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results = {**heading("liveditor_isa.benchmarks.clips.picture", device), "frames, height, width": options.size, "rows": []}
    vaes, measures = {file: load_vae(file) for file in options.vae}, measures_here()
    for video in options.video:
        clip = fit_frames(to_unit(read_video(video, frames).frames).movedim(1, -1), width, height)[0]
        for file, vae in vaes.items():
            row = {"video": Path(video).name, "vae": file, **scores(vae, clip, measures)}
            results["rows"].append(
                {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
            )
            print(results["rows"][-1], flush=True)
            options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
