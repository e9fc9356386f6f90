"""Files of trainers, one module each: `ABOUT`, `write(pairs, folder)` and `read(folder)`, which gives back what the format can hold.

`write` is given an empty folder, which the caller gives its name when all is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from ...batch.manifest import all_ids
from ...checkpoint.files import new_folder
from ..records import ACCEPTED, Pair, write_pairs
from ..settings import TO_REAL
from ..sources import Source, write_sources
from . import comfyui, diffsynth, ditto, kiwi, musubi, native, nemo, openve, reco, senorita, videox_fun, webdataset

FORMATS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (native, diffsynth, musubi, videox_fun, kiwi, webdataset, comfyui, nemo, ditto, reco, openve, senorita)
}

KEPT = ("origin", "licence", "url", "caption")
"""What a source keeps of a pair's."""


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
    found = _listed(folder, name, file, licence)
    whole = [pair for pair in found if all(path and Path(path).is_file() for path in (pair.context, pair.target))]
    if not whole:
        raise ValueError(f"None of the {len(found)} pairs in {folder} has its two videos there as files of their own.")
    return write_pairs(file, whole), len(found) - len(whole)


def collect_sources(folder: Path, name: str, file: Path, licence: str = "") -> tuple[int, int]:
    """As `collect`, of the videos that were edited, each once, as sources of a data run; returns (videos written, those that are missing).

    A pair's real clip is such a video where its direction is known, else its context.
    """
    found: dict[str | None, tuple[str | None, Pair]] = {}
    for pair in _listed(folder, name, file, licence):
        video = pair.target if pair.direction == TO_REAL else pair.context
        # Exports of our own have the real clip beside each pair that was made of it.
        found.setdefault(pair.parent or video, (video, pair))
    there = {video: pair for video, pair in found.values() if video and Path(video).is_file()}
    if not there:
        raise ValueError(f"None of the {len(found)} videos that were edited in {folder} is there as a file of its own.")
    known = {video: {key: str(pair.source.get(key, "")) for key in KEPT} for video, pair in there.items()}
    ids = all_ids([(None, video) for video in known])
    write_sources(file, [Source(id, str(Path(video).resolve()), **facts) for id, (video, facts) in zip(ids, known.items())])
    return len(there), len(found) - len(there)


def _listed(folder: Path, name: str, file: Path, licence: str) -> list[Pair]:
    """The accepted pairs of a folder, from where they come, with the licence where one is given."""
    if file.exists():
        raise FileExistsError(f"{file} is there already: name another file, or remove it.")
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    stated = {"licence": licence} if licence else {}
    found = [pair for pair in FORMATS[name].read(folder.resolve()) if pair.status == ACCEPTED]  # the list may lie elsewhere
    return [replace(pair, source={"origin": name, **pair.source} | stated) for pair in found]
