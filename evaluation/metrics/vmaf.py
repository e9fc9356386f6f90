"""VMAF (Netflix), a measure of perceived quality against the source, by ffmpeg's libvmaf and the model that it holds."""

from __future__ import annotations

import json
import subprocess
import tempfile
from functools import lru_cache, partial
from pathlib import Path

import torch

from ...video.writing.formats import ffmpeg
from ..frames import Inputs
from .metric import Metric

MODEL = "vmaf_v0.6.1neg"
"""Netflix's model that sharpening cannot raise ("no enhancement gain")."""


@lru_cache
def _check() -> None:
    """Raises RuntimeError where ffmpeg has no libvmaf."""
    listed = subprocess.run([ffmpeg(), "-hide_banner", "-filters"], capture_output=True, encoding="utf-8", errors="replace")
    if " libvmaf " not in listed.stdout:
        raise RuntimeError(f"VMAF needs ffmpeg's filter libvmaf, which {ffmpeg()} lacks: update imageio-ffmpeg.")


def vmaf(edit: torch.Tensor, other: torch.Tensor) -> float:
    """0 to 100, the mean over the frames; [T, H, W, 3] uint8 each."""
    _check()
    height, width = edit.shape[1:3]
    with tempfile.TemporaryDirectory(prefix="liveditor-") as folder:
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "25"]
        inputs = []
        for name, frames in (("edit", edit), ("other", other)):
            (Path(folder) / name).write_bytes(frames.contiguous().numpy().tobytes())
            inputs += [*raw, "-i", name]
        planes = "format=yuv444p"
        graph = (
            f"[0:v]{planes}[a];[1:v]{planes}[b];[a][b]libvmaf=model=version={MODEL}:log_fmt=json:log_path=log.json:n_threads=2"
        )
        command = [ffmpeg(), "-hide_banner", "-loglevel", "error", *inputs, "-lavfi", graph, "-f", "null", "-"]
        done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace")
        if done.returncode:
            raise RuntimeError(f"ffmpeg could not compute VMAF ({(done.stderr.strip().splitlines() or ['no message'])[0]}).")
        return float(json.loads((Path(folder) / "log.json").read_text(encoding="utf-8"))["pooled_metrics"]["vmaf"]["mean"])


def _against(against: str, inputs: Inputs) -> dict[str, float]:
    return {f"vmaf_neg_{against}": vmaf(inputs.edit, getattr(inputs, against))}


METRICS = [
    Metric(
        f"vmaf_neg_{against}",
        partial(_against, against),
        f"VMAF ({MODEL}, 4:4:4) of the edit against the {'right edit' if against == 'reference' else against}.",
        ("reference",) if against == "reference" else (),
        model=lambda: MODEL,
        ready=_check,
    )
    for against in ("source", "reference")
]
