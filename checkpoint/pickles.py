"""Checks a torch pickle before torch reads it. Torch runs no code from it, but a pickle can make it fill memory or never end."""

from __future__ import annotations

import io
import os
import pickletools
import zipfile
from pathlib import Path
from typing import NamedTuple

from ..errors import is_out_of_memory

LARGEST_STRUCTURE = 8 * 2**20
"""Bytes of names and shapes; the weights are stored elsewhere. Torch takes about as many steps to read them."""

DEEPEST_TUPLE, LARGEST_TUPLE = 100, 1_000_000
"""Levels; and items, those of inner tuples counted as often as they occur."""

MAKE_BYTES = {"bytearray", "encode"}
"""Functions that torch allows a pickle to call, that allocate any number of bytes, and that no weight needs."""

ALLOCATE_WHEN_CALLED = ("Tensor", "Storage")
"""How the names of classes end that torch allows a pickle to call with a size. Weights name them, but call a function of
torch that gets the stored numbers."""

LEGACY_PICKLES = 5
"""Pickles at the start of a file in torch's old format: magic number, version, machine, the content, its storages."""


DAMAGED = "is truncated or no torch checkpoint: download it again"
HOLDS_CODE = "holds code besides weights and was not opened. Use a file from a source you trust, or safetensors"
UNLIKE = "{}, unlike what torch writes, and was not opened: download it again"


class Unsound(Exception):
    """The pickle must not be given to torch. The message completes a sentence that begins with the file's name."""


def check_pickle(path: Path) -> bool:
    """Whether it is an archive, which can be memory-mapped, or in torch's old format. Raises Unsound."""
    with open(path, "rb") as file:
        archive = file.read(2) == b"PK"
    try:
        if archive or zipfile.is_zipfile(path):
            _check_archive(path)
            return True
        with open(path, "rb") as file:
            beginning = io.BytesIO(file.read(LARGEST_STRUCTURE))
        for _ in range(LEGACY_PICKLES):
            _check_structure(beginning)
        return False
    except Unsound:
        raise
    except Exception as error:  # zipfile and pickletools raise many types
        if is_out_of_memory(error):
            raise
        raise Unsound(DAMAGED) from None


def _check_archive(path: Path):
    """Torch stores weights uncompressed. Compressed or overlapping entries may expand to far more than the file's size."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise Unsound(UNLIKE.format("is compressed"))
        if sum(entry.file_size for entry in entries) > os.path.getsize(path):
            raise Unsound(UNLIKE.format("claims to hold more than its own size"))
        structures = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        if any(entry.file_size > LARGEST_STRUCTURE for entry in structures):
            raise Unsound(UNLIKE.format("lists far more than weights"))
        for entry in structures:
            _check_structure(io.BytesIO(archive.read(entry)))


class _Item(NamedTuple):
    """What is known of an item on the pickle's stack: how large and deep a tuple is, and what allocates when called."""

    items: int = 0
    depth: int = 0
    allocates: bool = False


def _check_structure(stream: io.BytesIO):
    """Follow the next pickle in `stream`: its tuples, because torch hashes one used as a dictionary key recursively, and its
    calls, because some allocate."""
    stack: list[_Item] = []
    marks: list[int] = []
    memo: dict[int, _Item] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        name, before, after = opcode.name, opcode.stack_before, opcode.stack_after
        if name in ("GLOBAL", "INST") and str(argument).split()[-1] in MAKE_BYTES:
            raise Unsound(HOLDS_CODE)
        if name == "MARK":
            marks.append(len(stack))
        elif name == "POP" and marks and marks[-1] == len(stack):
            marks.pop()
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else int(argument)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(str(argument))])
        else:
            marked = pickletools.markobject in before
            begin = marks.pop() if marked else len(stack) - len(before)
            taken = stack[begin:]
            del stack[begin:]
            if marked and (below := before.index(pickletools.markobject)):
                del stack[-below:]
            if name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ") and taken[0].allocates:
                raise Unsound(HOLDS_CODE)
            if name == "DUP":
                stack += taken * 2
            elif name == "GLOBAL":
                stack.append(_Item(allocates=str(argument).endswith(ALLOCATE_WHEN_CALLED)))
            elif "TUPLE" in name:
                stack.append(_Item(1 + sum(item.items for item in taken), 1 + max((item.depth for item in taken), default=0)))
                if stack[-1].items > LARGEST_TUPLE or stack[-1].depth > DEEPEST_TUPLE:
                    raise Unsound(UNLIKE.format("nests without an end"))
            else:
                stack += [_Item()] * len(after)
