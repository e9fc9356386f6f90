"""Converts a LIVEditor checkpoint to safetensors with ComfyUI's names, one tensor at a time: `liveditor convert`."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from .dtypes import DTYPES
from .files import partial_name, partials_of, publish_new
from .keys import CheckpointError, check_keys, core_metadata, is_dead_weight, is_quantisation
from .opening import files_of, is_safetensors, open_checkpoint
from .scaled import FP8, Scaled, Unscaled

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.uint8: "U8", torch.int8: "I8",
    torch.int32: "I32", torch.int64: "I64",
}  # fmt: skip
"""Names in safetensors of the dtypes that a checkpoint may contain."""

SOURCE_FILE, SOURCE_FINGERPRINT = "source_file", "source_fingerprint"
"""Metadata keys of a conversion. They identify its source file and that file's content."""

FINGERPRINT_BYTES = 2**20

ABANDONED_SECONDS = 60

SLICE_BYTES = 64 * 2**20
"""A tensor is checked, cast and written in slices of this size in fp32, whatever its own type."""


@dataclass(frozen=True)
class Conversion:
    """What was written: tensors and bytes, names of unused weights that were left out, notes for the user."""

    path: Path
    tensors: int
    bytes: int
    dropped: list[str]
    notes: list[str]


def fingerprint(path: str | os.PathLike) -> str:
    """Changes with a checkpoint's content and not with its date: an archive ends with checksums of all its entries."""
    prints = [_fingerprint(file) for file in files_of(path)]
    return prints[0] if len(prints) == 1 else hashlib.sha256(" ".join(prints).encode()).hexdigest()


def _fingerprint(path: Path) -> str:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - FINGERPRINT_BYTES))
        end = file.read()
        file.seek(0)
        return hashlib.sha256(f"{size} ".encode() + file.read(FINGERPRINT_BYTES) + end).hexdigest()


def convert_checkpoint(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    dtype: str = "keep",
    progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
    names: Mapping[str, str] = {},
) -> Conversion:
    """Write checkpoint `source` as safetensors to `destination`.

    dtype: type of the weights, "keep", "bf16", "fp16" or "fp32"; entries that accompany quantised weights keep theirs.
        "fp8": the matrices of transformer blocks in fp8, each with a scale, as ComfyUI reads them; all else in bf16.
    progress: called with (bytes done, bytes in all).
    names: {official name: the one to write it under}.

    Keys are checked before anything is written; the file appears under its name only when it is whole.
    Raises CheckpointError for a wrong or damaged checkpoint (a NaN weight is named) or one that is replaced meanwhile,
    FileExistsError, OSError for a full disk.
    """
    destination = Path(destination)
    if not is_safetensors(destination):
        raise CheckpointError(f"{destination.name} would be a safetensors file: give it the ending .safetensors.")
    if destination.exists() and not overwrite:
        raise _exists(destination)
    if dtype == FP8 and names:
        raise CheckpointError("fp8 with scales is ComfyUI's alone: name a .safetensors file, or another type.")
    wanted = None if dtype == "keep" else DTYPES["bf16" if dtype == FP8 else dtype]
    size, content = _size(source), fingerprint(source)
    checkpoint = open_checkpoint(source)
    if names:  # for diffusers, which knows no fp8 weights with a scale
        checkpoint = Unscaled(checkpoint)
    check_keys(checkpoint.shapes)
    if dtype == FP8:
        checkpoint = Scaled(checkpoint)
    dropped = [name for name in checkpoint.sources if is_dead_weight(name)]
    plan = {name: _target_dtype(name, checkpoint, wanted) for name in checkpoint.sources if name not in set(dropped)}
    # Widest types first, so that every weight starts at a multiple of its type's size.
    plan = dict(sorted(plan.items(), key=lambda item: -item[1].itemsize))
    header, total = _header(checkpoint, plan, content, names)
    _remove_abandoned(destination)
    require_space(destination.parent, len(header) + total)

    partial = partial_name(destination)
    try:
        with open(partial, "xb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            done = 0
            for name, target in plan.items():
                for raw in _slices(name, checkpoint.tensor(name), target, lambda: _check_size(source, size)):
                    file.write(raw)
                    done += len(raw)
                    if progress:
                        progress(done, total)
        if fingerprint(source) != content:
            raise _replaced(source)
        if overwrite:
            os.replace(partial, destination)
        else:
            publish_new(partial, destination)
    except FileExistsError:
        raise _exists(destination) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            require_space(destination.parent, sys.maxsize)
        raise
    finally:
        partial.unlink(missing_ok=True)
    return Conversion(destination, len(plan), 8 + len(header) + total, dropped, checkpoint.notes)


def _size(source) -> int:
    return sum(os.path.getsize(file) for file in files_of(source))


def _check_size(source, size: int):
    """Raises where a mapped file has become shorter: reading beyond its end would end the process."""
    if _size(source) != size:
        raise _replaced(source)


def _replaced(source) -> CheckpointError:
    return CheckpointError(f"{Path(source).name} was replaced while it was read, and nothing was written: run again.")


def _exists(destination: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "The destination exists already; choose another or overwrite it", str(destination))


def _remove_abandoned(destination: Path):
    """Remove the file of a killed conversion, which takes disk space. A running conversion writes continuously.

    Raises FileExistsError if another conversion is running. Two that begin at the same moment each write their own file.
    """
    for partial in partials_of(destination):
        try:
            age = time.time() - partial.stat().st_mtime
            if age >= ABANDONED_SECONDS:
                partial.unlink()
        except FileNotFoundError:
            continue  # finished or removed meanwhile by the other conversion
        if age < ABANDONED_SECONDS:
            message = "Another conversion writes this file; wait until it is done, or a minute after it was stopped"
            raise FileExistsError(errno.EEXIST, message, str(partial))


def _target_dtype(name, checkpoint, wanted) -> torch.dtype:
    own = checkpoint.dtype(name)
    if own not in NAMES:
        raise CheckpointError(
            f"The weight {name} is of type {own}, which no model uses: the checkpoint is damaged, download it again."
        )
    quantised = not own.is_floating_point or own.itemsize == 1 or is_quantisation(name)
    return own if wanted is None or quantised else wanted


def _header(checkpoint, plan, content: str, names: Mapping[str, str]) -> tuple[bytes, int]:
    """The JSON header, padded so that weights start at a multiple of 8, and the number of bytes behind it."""
    metadata = {"format": "pt", SOURCE_FILE: checkpoint.path.name, "converted_by": "liveditor_isa"}
    if checkpoint.path.is_file() and not is_safetensors(checkpoint.path):
        metadata[SOURCE_FINGERPRINT] = content  # the loader of a pickle checks whether its conversion is up to date
    metadata |= core_metadata(checkpoint.shapes) | checkpoint.quantisation_metadata()
    header, end = {"__metadata__": metadata}, 0
    for name, dtype in plan.items():
        shape = checkpoint.shapes[name]
        begin, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[names.get(name, name)] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8), end


def _slices(name: str, tensor: torch.Tensor, dtype: torch.dtype, before_reading: Callable[[], None]):
    """The tensor's bytes in memory order, checked and cast slice by slice."""
    before_reading()
    flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))  # reshape keeps an odd stride of one element
    for part in flat.split(max(1, SLICE_BYTES // 4)):
        before_reading()
        if part.is_floating_point() and not torch.isfinite(part.float()).all():
            raise CheckpointError(f"The weight {name} holds NaN or infinity: the checkpoint is damaged, download it again.")
        cast = part.to(dtype)
        if dtype == torch.float16 and not torch.isfinite(cast).all():
            raise CheckpointError(f"The weight {name} is too large for fp16: convert to bf16.")
        yield cast.view(torch.uint8).numpy().tobytes()


def require_space(folder: Path, needed: int) -> None:
    """Raises OSError where fewer bytes are free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        room = "more" if needed == sys.maxsize else f"{needed / 1e6:,.0f} MB"
        raise OSError(
            errno.ENOSPC,
            f"The disk is full: {free / 1e6:,.0f} MB are free, {room} needed. Make room and convert again",
            str(folder),
        )
