"""Files of trainers, one module each: `ABOUT`, `write(pairs, folder)` and `read(folder)`, which gives back what the format can hold.

`write` is given an empty folder, which the caller gives its name when all is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from ...checkpoint.files import new_folder
from ..records import ACCEPTED, Pair
from . import comfyui, diffsynth, kiwi, musubi, native, videox_fun, webdataset

FORMATS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module for module in (native, diffsynth, musubi, videox_fun, kiwi, webdataset, comfyui)
}


def export(pairs: Iterable[Pair], name: str, folder: Path) -> int:
    """Write the accepted pairs into a new folder; returns how many there are. native also lists the rejected ones.

    Raises ValueError where there is none or no such format, FileExistsError where the folder holds anything.
    """
    if name not in FORMATS:
        raise ValueError(f"There is no format {name!r}: there are {', '.join(FORMATS)}.")
    found = [*pairs]
    accepted = [pair for pair in found if pair.status == ACCEPTED]
    if not accepted:
        raise ValueError("There is no accepted pair to export: liveditor data report says what was rejected, and why.")
    with new_folder(folder) as partial:
        FORMATS[name].write(found if name == "native" else accepted, partial)
    return len(accepted)
