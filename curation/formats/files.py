"""Files of an export: videos beside their list, and text that is whole or absent because its folder is."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..records import Pair


def placed(file: str, folder: Path, name: str) -> str:
    """Put a file into the export under a name, as a hard link where the disk allows, else a copy. Returns the name."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, path)
    except OSError:
        shutil.copyfile(file, path)
    return name


def placed_videos(pair: Pair, folder: Path) -> tuple[str, str]:
    """The names, in the export, of an accepted pair's context and target."""
    assert pair.context and pair.target
    context = placed(pair.context, folder, f"videos/{pair.id}.context.mp4")
    return context, placed(pair.target, folder, f"videos/{pair.id}.target.mp4")


def check_encoded(pairs: Sequence[Pair]) -> None:
    """Raises ValueError for the first pair without latents."""
    if missing := [pair.id for pair in pairs if not pair.latents]:
        raise ValueError(f"{missing[0]} has no latents: the run's last stage, triplets, makes them.")


def id_of(target: str) -> str:
    """The pair's id, by the name that `placed` gave its target; another file's name without its ending."""
    name = Path(target).name
    return name.removesuffix(".target.mp4") if name.endswith(".target.mp4") else Path(name).stem


def distinct(files: Sequence[str]) -> list[str]:
    """An id for each: by its name as `id_of` has it, with its folders in front where names are the same, and a number where paths are."""
    names = [*map(id_of, files)]
    often, found = Counter(names), dict[str, None]()
    for file, name in zip(files, names):
        if often[name] > 1:
            folders = Path(file).parts[:-1]
            name = "-".join((*(part for part in folders if part != Path(file).anchor), name))
        number, free = 1, name
        while free in found:
            number += 1
            free = f"{name}-{number}"
        found[free] = None
    return [*found]


def rows_of(content, file: Path, *columns: str) -> list[dict[str, str]]:
    """A JSON list of objects with these texts. Raises ValueError for anything else."""
    if not isinstance(content, list):
        raise ValueError(f"{file} is no list of rows: name a folder of this format.")
    for number, row in enumerate(content, 1):
        lacking = [name for name in columns if not (isinstance(row, dict) and isinstance(row.get(name), str))]
        if lacking:
            raise ValueError(f"Row {number} of {file} lacks {lacking[0]}: name a folder of this format.")
    return content


def write_csv(path: Path, rows: Sequence[dict[str, object]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path, *columns: str) -> list[dict[str, str]]:
    """As `rows_of`."""
    with opened(path) as file:
        return rows_of([*csv.DictReader(file)], path, *columns)


def write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path):
    with opened(path) as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}): name a folder of this format.") from None


def read_json_lines(path: Path) -> list:
    with opened(path) as file:
        try:
            return [json.loads(line) for line in file if line.strip()]
        except ValueError as error:
            raise ValueError(f"{path} is not JSON lines ({error}): name a folder of this format.") from None


def opened(path: Path):
    """For reading. Raises ValueError where it is not there."""
    try:
        return open(path, encoding="utf-8-sig", newline="")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): name a folder of this format.") from None
