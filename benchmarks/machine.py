"""Paths of results and scripts, and the machine and packages of a measurement."""

from __future__ import annotations

import platform
import re
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..comfyui.startup import use_cpu_without_gpu

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"
SAMPLE_VIDEO = ROOT / ".cache/bigbuckbunny.mp4"


def result_file(name: str) -> Path:
    """Path of today's results of a benchmark, such as "attention-h200"."""
    return RESULTS / f"{name}-{date.today():%Y-%m-%d}.json"


def gpu_slug(name: str) -> str:
    """NVIDIA H200 -> h200"""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-").removeprefix("nvidia-").removeprefix("geforce-")


def versions() -> dict[str, str]:
    """Versions of Python, PyTorch, and every installed package that may run."""
    found = {"torch": torch.__version__, "python": platform.python_version()}
    if torch.backends.cudnn.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    for package in ("triton", "comfy-kitchen", "sageattention"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_memory() -> int:
    """Highest resident bytes of this process. Not getrusage, which counts the parent's from before exec."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def use_comfyui():
    """Make ComfyUI's modules importable, on a GPU if there is one. Call it before they are imported.

    Ends the program, with a sentence, where there is no ComfyUI.
    """
    if str(ROOT / "scripts") not in sys.path:
        sys.path.insert(0, str(ROOT / "scripts"))
    from comfy_headless import COMFYUI

    if str(COMFYUI) not in sys.path:
        sys.path.insert(0, str(COMFYUI))
    try:
        use_cpu_without_gpu()
    except RuntimeError as error:
        sys.exit(str(error))
