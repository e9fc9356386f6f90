"""Trains LIVEditor-tiny from nothing: its VAE, the VAE's decoder, then its text encoder and its network together.

    python -m liveditor_isa.training --out FOLDER [--minutes 60]
    torchrun --nproc-per-node 2 -m liveditor_isa.training --out FOLDER        # on two GPUs
    python -m liveditor_isa.training --out FOLDER --small                     # some minutes on a CPU

Needs ComfyUI on the Python path, and a GPU but for --small. Stopped, by --minutes, Ctrl-C or otherwise, the same command goes on
where it was; from the exported files alone it goes on too, with an optimiser that starts anew. FOLDER gets the three files
that Load LIVEditor takes, logs, a loss plot, and, when all steps are done, pictures and scores of edits of clips that were
never shown; its folder stage-one gets the network and text encoder as they were before ISA came in, to compare with.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from ..comfyui.startup import use_cpu_without_gpu
from ..errors import sentence
from ..optional import needed
from . import processes
from .stopping import Stopped, stop_by_signals

PACKAGES = {
    "sentencepiece": "sentencepiece",
    "PIL": "pillow",
    "matplotlib": "matplotlib",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
"""Of the extra `training`, by their modules."""


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, 2 with one line on stderr that names the error, or 128 and the number of the signal that stopped it."""
    parser = argparse.ArgumentParser(
        prog="python -m liveditor_isa.training",
        usage="%(prog)s --out FOLDER [--minutes M] [--pictures FOLDER] [--vgg FILE] [--edition FOLDER] [--small] [--device D]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--minutes", type=float, default=60, metavar="M", help="stop after this long (default: %(default)s)")
    parser.add_argument(
        "--small", action="store_true", help="small networks, small clips and few steps: to see that all of it runs"
    )
    parser.add_argument("--device", metavar="D", help="cuda or cpu (default: a GPU if there is one)")
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER",
        help="photographs, cut-outs (transparent pictures) and folders of a film's frames, for all parts to learn from besides",
    )  # fmt: skip
    parser.add_argument(
        "--vgg", type=Path, metavar="FILE",
        help="safetensors of torchvision's VGG16: the VAE learns by its features too, and draws sharper",
    )  # fmt: skip
    parser.add_argument(
        "--edition", type=Path, metavar="FOLDER",
        help="three files of an earlier run: its editor, turned to the latents of this run's VAE, is where the editor begins",
    )  # fmt: skip
    options = parser.parse_args(arguments)

    def ended(message: str, status: int) -> int:
        if not processes.rank():
            print(f"liveditor training: {message}", file=sys.stderr)
        return status

    stop_by_signals()
    try:
        device = device_of(options)
        use_cpu_without_gpu()
        for module, package in PACKAGES.items():
            needed(module, package, "training")
    except (ValueError, RuntimeError) as error:
        return ended(sentence(error), 2)
    try:
        # Core's modules, which these import, must know of the device.
        from .tiny.clips import Sources
        from .tiny.whole_run import SMALL, train

        settings = SMALL if options.small else (None, None, None)
        train(
            options.out,
            options.minutes,
            processes.join(device),
            *settings,
            Sources(options.pictures, options.vgg, options.edition),
        )
    except Stopped as stopped:
        return ended("stopped; the same command goes on from what is saved.", 128 + stopped.signal)
    except (ValueError, OSError) as error:
        return ended(sentence(error), 2)
    finally:
        processes.leave()
    return 0


def device_of(options: argparse.Namespace) -> str:
    """Raises ValueError for a GPU that is not there, and for all of the training on a CPU that nobody asked for."""
    gpu = torch.cuda.is_available()
    if options.device not in (None, "cpu", "cuda"):
        raise ValueError(f"--device is cuda or cpu; got {options.device!r}.")
    if options.device == "cuda" and not gpu:
        raise ValueError("There is no GPU for --device cuda: leave it out, and add --small.")
    if not (gpu or options.device or options.small):
        raise ValueError(
            "There is no GPU, and on a CPU the training takes days: add --small for one of some minutes, or --device cpu."
        )
    return options.device or ("cuda" if gpu else "cpu")


if __name__ == "__main__":
    sys.exit(main())
