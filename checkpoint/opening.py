"""Opening a LIVEditor checkpoint, safetensors or torch pickle, without reading its weights."""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..errors import is_out_of_memory
from .keys import CheckpointError, official_names
from .pickles import DAMAGED, HOLDS_CODE, Unsound, check_pickle

logger = logging.getLogger(__name__)

SAFETENSORS = (".safetensors", ".sft")
CONTAINERS = ("state_dict", "module", "weights")
"""Keys under which training code wraps the weights in a pickle."""

QUANTISATION_METADATA = "_quantization_metadata"
"""Key under which core describes quantised layers in a safetensors file's metadata."""

LARGEST_HEADER = 16 * 2**20
"""Limit of a header, in bytes. The safetensors library allows six times as much; as JSON that can fill gigabytes of memory."""

MOST_NAMES = 4
"""Names per weight in a pickle, on average: text encoders share weights between names."""

MOST_STRETCHED = 2**20
"""Bytes of a weight that repeats one number, or one row."""

LONGEST_NAME = 500
"""Characters of a name: messages quote names."""

BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U8": 8,
}
BITS |= {"U16": 16, "U32": 32, "U64": 64, "BOOL": 8, "C64": 64, "F4": 4, "F8_E8M0": 8}


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file: {name: shape}, and its metadata."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


class Checkpoint:
    """Weights under official names, memory-mapped: reading one reads only that one.

    shapes: {official name: shape}; sources: {official name: name in the file}; notes: what the user should know.
    metadata: of a safetensors file, under the file's own names.
    """

    def __init__(self, path: Path, raw: Mapping, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] = {}):
        self.path, self._raw, self.metadata = path, raw, metadata
        if wrong := [name for name in shapes if len(name) > LONGEST_NAME or not name.isprintable()]:
            raise CheckpointError(f"{path.name} calls a weight {wrong[0][:40]!r}: it is damaged, download it again.")
        self.sources, self.notes = official_names(shapes)
        self.shapes = {name: tuple(shapes[source]) for name, source in self.sources.items()}

    def tensor(self, name: str) -> torch.Tensor:
        return self._raw[self.sources[name]]

    def dtype(self, name: str) -> torch.dtype:
        return self.tensor(name).dtype

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: self.tensor(name) for name in self.sources}

    def quantisation_metadata(self) -> dict[str, str]:
        """Quantised layers under official names, if core wrote them into the file's metadata."""
        if QUANTISATION_METADATA not in self.metadata:
            return {}
        official = {source: name for name, source in self.sources.items()}
        try:
            layers = json.loads(self.metadata[QUANTISATION_METADATA])["layers"]
            layers = {official[f"{layer}.weight"].removesuffix(".weight"): how for layer, how in layers.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise CheckpointError(
                f"{self.path.name} says wrongly which of its layers are quantised: it is damaged, download it again."
            ) from None
        return {QUANTISATION_METADATA: json.dumps({"layers": layers})}


def is_safetensors(path: str | os.PathLike) -> bool:
    return Path(path).suffix.lower() in SAFETENSORS


def files_of(path: str | os.PathLike) -> list[Path]:
    """The files of a checkpoint: itself, or the safetensors files of a folder in diffusers' layout, a pipeline's or a model's.

    Raises CheckpointError for a folder without any, OSError where nothing can be read.
    """
    path = Path(path)
    if not path.is_dir():
        with open(path, "rb"):
            return [path]  # the readers would report a missing file as damaged
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    if files := sorted(folder.glob("*.safetensors")):
        return files
    raise CheckpointError(
        f"The folder {folder} holds no safetensors file: name the checkpoint itself, or a folder that has one."
    )


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """A file, or a folder in diffusers' layout whose safetensors files are one checkpoint.

    Raises CheckpointError when a file is truncated, no checkpoint, or a pickle that holds more than weights; OSError when
    there is no such file, or it may not be read. Out of memory raises the library's own exception
    (`errors.is_out_of_memory`).
    """
    path, files = Path(path), files_of(path)
    if path.is_dir():
        headers = {file: read_header(file) for file in files}
        opened = {file: _SafetensorsFile(file) for file in files}
        shards = {name: opened[file] for file, header in headers.items() for name in header.shapes}
        return Checkpoint(
            path, _Shards(shards), {n: shape for header in headers.values() for n, shape in header.shapes.items()}
        )
    if is_safetensors(path):
        header = read_header(path)  # first, because it can say what is wrong with a file
        return Checkpoint(path, _SafetensorsFile(path), header.shapes, header.metadata)
    weights = {name: value for name, value in _load_pickle(path).items() if isinstance(name, str) and _is_weight(value)}
    checkpoint = Checkpoint(path, weights, {name: weight.shape for name, weight in weights.items()})
    # Many names may share one weight, but within a limit: shared weights take no space in the file and full space in memory.
    if sum(weight.nbytes for weight in weights.values()) > MOST_NAMES * os.path.getsize(path):
        raise CheckpointError(f"{path.name} holds fewer numbers than its weights have: it is damaged, download it again.")
    return checkpoint


def _is_weight(value) -> bool:
    """Whether a tensor is stored element by element; torch also has sparse, nested, quantised, meta and expanded tensors.

    A bias may be one expanded number. An expanded matrix could be larger in memory than the whole file.
    """
    plain = type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout == torch.strided and not value.is_nested
    here = plain and value.device.type == "cpu" and not value.is_quantized
    return here and value.nbytes <= max(value.untyped_storage().nbytes(), MOST_STRETCHED)


def read_header(path: str | os.PathLike) -> Header:
    """Read and verify the header of a safetensors file, and the file's length against it."""
    path = Path(path)
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > LARGEST_HEADER:
            raise CheckpointError(f"{path.name} is not a safetensors file, or its beginning is damaged: download it again.")
        text = file.read(length)
    if len(text) < length:
        raise _truncated(path, 8 + length, size)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {}) or {}
        entries = {name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"]) for name, entry in header.items()}
        ends = [_checked_end(*entry) for entry in entries.values()]
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata is not text")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _unreadable(f"The header of {path.name}", error) from None
    needed = 8 + length + max(ends, default=0)
    if size < needed:
        raise _truncated(path, needed, size)
    return Header({name: entry[1] for name, entry in entries.items()}, metadata)


def _checked_end(dtype, shape, begin, end) -> int:
    if not all(isinstance(n, int) and 0 <= n < 2**63 for n in (*shape, begin, end)):
        raise ValueError("a size is no whole number or too large")
    if end - begin != math.prod(shape) * BITS[dtype] // 8:
        raise ValueError("a weight's size does not fit its shape")
    return end


def _unreadable(what: str, error: Exception) -> CheckpointError:
    """An error that quotes the start of the library's message, which may be of any length."""
    words = " ".join(str(error).split())[:200]
    return CheckpointError(f"{what} cannot be read ({words}): the file is damaged, download it again.")


def _truncated(path: Path, needed: int, size: int) -> CheckpointError:
    return CheckpointError(f"{path.name} is truncated: {size:,} of {needed:,} bytes are there. Download it again.")


class _SafetensorsFile(Mapping):
    """A safetensors file as a mapping that reads each tensor on access."""

    def __init__(self, path: Path):
        try:
            self._file = safe_open(path, framework="pt", device="cpu")
        except SafetensorError as error:  # such as gaps between weights, or bytes after the last
            if is_out_of_memory(error):
                raise
            raise _unreadable(path.name, error) from None

    def __getitem__(self, name):
        return self._file.get_tensor(name)

    def __iter__(self):
        return iter(self._file.keys())

    def __len__(self):
        return len(self._file.keys())


class _Shards(Mapping):
    """Several safetensors files as one mapping: {name: the file that has it}."""

    def __init__(self, files: dict[str, _SafetensorsFile]):
        self._files = files

    def __getitem__(self, name):
        return self._files[name][name]

    def __iter__(self):
        return iter(self._files)

    def __len__(self):
        return len(self._files)


def _load_pickle(path: Path) -> dict:
    """The dictionary of weights in a torch pickle. Only tensors are unpickled; code in it does not run."""
    try:
        mapped = check_pickle(path)
        if not mapped:
            logger.info("%s is in torch's old format, which cannot be memory-mapped: it is read whole", path.name)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Unsound as error:
        raise CheckpointError(f"{path.name} {error}.") from None
    except Exception as error:  # torch's unpickler raises many types, struct.error and AssertionError among them
        if is_out_of_memory(error):
            raise
        words = str(error) if isinstance(error, pickle.UnpicklingError) else ""
        code = "unsupported global" in words.lower() or "weights_only" in words and mapped
        raise CheckpointError(f"{path.name} {HOLDS_CODE if code else DAMAGED}.") from None
    for _ in CONTAINERS:  # no endless loop: a pickle may contain itself
        if isinstance(content, dict) and (key := next((key for key in CONTAINERS if isinstance(content.get(key), dict)), None)):
            content = content[key]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} holds a {type(content).__name__}, not a dictionary of weights: pick another file.")
    return content
