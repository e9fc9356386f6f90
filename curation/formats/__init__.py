"""Files of trainers, one module each: `ABOUT`, `write(pairs, folder)` and `read(folder)`, which gives back what the format can hold.

`write` is given an empty folder, which the caller gives its name when all is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from ...checkpoint.files import new_folder
from ..records import ACCEPTED, Pair, write_pairs
from . import comfyui, diffsynth, ditto, kiwi, musubi, native, openve, reco, senorita, videox_fun, webdataset

FORMATS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (native, diffsynth, musubi, videox_fun, kiwi, webdataset, comfyui, ditto, reco, openve, senorita)
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


def collect(folder: Path, name: str, file: Path, licence: str = "") -> tuple[int, int]:
    """Write the list of a folder's pairs, in the format `name`, as pairs.jsonl; returns (pairs written, those whose videos are missing).

    Videos stay where they are. licence: of all of them, into their records.

    Raises ValueError where no pair has its videos, FileExistsError where the file is there already.
    """
    if file.exists():
        raise FileExistsError(f"{file} is there already: name another file, or remove it.")
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    found = [pair for pair in FORMATS[name].read(folder) if pair.status == ACCEPTED]
    whole = [
        replace(pair, source={"origin": name, **pair.source} | ({"licence": licence} if licence else {}))
        for pair in found
        if all(path and Path(path).is_file() for path in (pair.context, pair.target))
    ]
    if not whole:
        raise ValueError(f"None of the {len(found)} pairs in {folder} has its two videos there as files of their own.")
    return write_pairs(file, whole), len(found) - len(whole)
