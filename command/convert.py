"""liveditor convert: a checkpoint in another of its forms."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..checkpoint.convert import convert_checkpoint
from ..checkpoint.dtypes import DTYPES
from ..checkpoint.opening import is_safetensors
from ..pipelines import require

EPILOG = """\
examples:
  liveditor convert liveditor_ckpt.bin --dtype bf16                       liveditor_ckpt.safetensors, for ComfyUI
  liveditor convert liveditor_ckpt.bin liveditor/transformer --dtype bf16     a folder, for diffusers
  liveditor convert liveditor/transformer back.safetensors                and back

Reads the official .bin, safetensors files and diffusers' folders. Checks every weight on the way, and streams tensor by tensor:
memory stays far below the size of the checkpoint.
"""


def add_arguments(parser: argparse.ArgumentParser):
    parser.description, parser.epilog = "Convert a LIVEditor checkpoint, for ComfyUI or for diffusers.", EPILOG
    parser.add_argument("source", type=Path, help="the checkpoint: a file, or a folder in diffusers' layout")
    parser.add_argument(
        "destination", type=Path, nargs="?",
        help="NAME.safetensors for ComfyUI, any other name is a folder for diffusers (default: the source, .safetensors)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=("keep", *DTYPES), default="keep", help="type of the weights (default: as in the source)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing destination")


def run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    source = options.source
    # Not resolved: a downloaded file's name may be a link to content under another name.
    destination = options.destination or Path(os.path.abspath(source)).with_suffix(".safetensors")
    if destination.suffix.lower() in (".bin", ".pt", ".pth", ".ckpt"):
        raise ValueError(f"{destination.name} would be a pickle, which is not written: name a .safetensors file, or a folder.")
    write = convert_checkpoint
    if not is_safetensors(destination):
        require()

        from ..pipelines.weights import save_for_diffusers as write
    with tqdm(unit="B", unit_scale=True, desc=destination.name, delay=0.5) as bar:

        def progress(done, total):
            bar.total = total
            bar.update(done - bar.n)

        result = write(source, destination, options.dtype, progress, options.overwrite)
    for note in result.notes:
        print(note)
    written = os.path.relpath(result.path) if result.path.is_relative_to(Path.cwd()) else result.path
    print(f"{written}: {result.tensors} tensors, {result.bytes / 1e9:.2f} GB; {len(result.dropped)} unused ones left out")
    return 0
