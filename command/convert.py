"""liveditor convert: a checkpoint in another of its forms."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..checkpoint.convert import Conversion, convert_checkpoint
from ..checkpoint.dtypes import DTYPES
from ..checkpoint.opening import is_safetensors
from ..checkpoint.scaled import FP8
from ..pipelines import require
from ..pipelines.request import check_there
from .outcome import Outcome, Status
from .output import quiet_loading

EPILOG = """\
examples:
  liveditor convert liveditor_ckpt.bin --dtype bf16                       liveditor_ckpt.safetensors, for ComfyUI
  liveditor convert liveditor_ckpt.bin liveditor/transformer --dtype bf16     a folder, for diffusers
  liveditor convert liveditor/transformer back.safetensors                and back
  liveditor convert liveditor_ckpt.bin small.safetensors --dtype fp8      half the size, for ComfyUI and these commands
  liveditor convert liveditor_ckpt.bin --text-encoder umt5_xxl_fp16.safetensors --vae wan_2.1_vae.safetensors \\
      --to-folder liveditor                                               a whole model, for diffusers

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
        "--dtype",
        choices=("keep", *DTYPES, FP8),
        default="keep",
        help="type of the weights (default: as in the source); fp8: half of bf16's size, with scales, for ComfyUI's files",
    )
    parser.add_argument(
        "--to-folder", type=Path, metavar="FOLDER",
        help="write the checkpoint, its text encoder and its VAE as one new folder in diffusers' layout",
    )  # fmt: skip
    parser.add_argument("--text-encoder", metavar="FILE", help="umt5-xxl, for --to-folder")
    parser.add_argument("--vae", metavar="FILE", help="Wan 2.1's VAE, for --to-folder")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing destination")


def run(options: argparse.Namespace) -> Outcome:
    from tqdm import tqdm

    destination, write = _writer(options)
    with tqdm(unit="B", unit_scale=True, desc=destination.name, delay=0.5, disable=options.quiet) as bar:

        def progress(done, total):
            bar.total = total
            bar.update(done - bar.n)

        result = write(progress=progress)
    for note in result.notes:
        print(note)
    written = os.path.relpath(result.path) if result.path.is_relative_to(Path.cwd()) else result.path
    what = (
        f"text encoder, VAE and a transformer of {result.tensors} tensors" if options.to_folder else f"{result.tensors} tensors"
    )
    print(f"{written}: {what}, {result.bytes / 1e9:.2f} GB; {len(result.dropped)} unused ones left out")
    facts = {"output": str(result.path), "tensors": result.tensors, "bytes": result.bytes}
    return Outcome(Status.DONE, facts | {"left_out": len(result.dropped), "notes": [*result.notes]})


def _writer(options: argparse.Namespace) -> tuple[Path, Callable[..., Conversion]]:
    """Where to, and what writes, given `progress`. Raises ValueError for options that do not go together."""
    source, parts = options.source, (options.text_encoder, options.vae)
    if options.dtype == FP8 and (options.to_folder or options.destination and not is_safetensors(options.destination)):
        raise ValueError(
            "fp8 with scales is for a .safetensors file: of a folder, diffusers keeps the weights in 8 bits (--storage fp8)."
        )
    if options.to_folder:
        if options.destination or options.overwrite:
            raise ValueError("--to-folder names the destination, which must be new: leave out --overwrite and any other one.")
        if not all(parts):
            raise ValueError(
                "A folder of a whole model is made from three files: name the --text-encoder (umt5_xxl_fp16.safetensors, say) "
                "and the --vae (wan_2.1_vae.safetensors) too."
            )
        check_there(parts)
        require()

        from ..pipelines.weights import save_pipeline

        if options.quiet:
            quiet_loading()
        return options.to_folder, partial(save_pipeline, source, *parts, options.to_folder, options.dtype)
    if any(parts):
        raise ValueError("--text-encoder and --vae are for a folder of a whole model: name it with --to-folder.")
    # Not resolved: a downloaded file's name may be a link to content under another name.
    destination = options.destination or Path(os.path.abspath(source)).with_suffix(".safetensors")
    if destination.suffix.lower() in (".bin", ".pt", ".pth", ".ckpt"):
        raise ValueError(f"{destination.name} would be a pickle, which is not written: name a .safetensors file, or a folder.")
    write = convert_checkpoint
    if not is_safetensors(destination):
        require()

        from ..pipelines.weights import save_for_diffusers as write
    return destination, partial(write, source, destination, options.dtype, overwrite=options.overwrite)
