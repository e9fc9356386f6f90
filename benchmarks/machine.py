"""Paths of results and scripts, and the machine and packages of a measurement."""

from __future__ import annotations

import platform
import re
import shlex
import sys
from collections.abc import Sequence
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


OF_ITS_PLACE = ("--out", "--docs")
"""Options that name where results go, which repeat nothing."""


def heading(module: str, device: torch.device | str = "cuda", launcher: Sequence[str] = ("python",)) -> dict:
    """How every results file begins: {"gpu", "versions", "command"}. module: that runs, with `launcher` and this process's arguments."""
    arguments, skipped = [], False
    for argument in sys.argv[1:]:
        if not skipped and argument not in OF_ITS_PLACE:
            arguments.append(argument)
        skipped = argument in OF_ITS_PLACE
    gpu = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "CPU"
    return {"gpu": gpu, "versions": versions(), "command": shlex.join([*launcher, "-m", module, *arguments])}


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
