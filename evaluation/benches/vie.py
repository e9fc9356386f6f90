"""VIE-Bench (InstructX, arXiv 2510.08485): 140 videos with one instruction each, scored by a judge. It has no code, and its files' layout
is not documented: the list of items is looked for."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Sequence
from glob import escape
from pathlib import Path

from ...batch.manifest import all_ids
from ..items import Item
from ..results import Scored
from .bench import Bench, LayoutError, exported, mean_of, safe_id, write_json

NAMES = {
    "source": ("video", "source", "video_path", "source_video", "src_video", "input_video", "original_video", "path"),
    "instruction": ("instruction", "prompt", "edit_prompt", "edit_instruction", "text"),
    "task": ("task", "type", "category", "edit_type", "task_type"),
    "picture": ("reference", "reference_image", "ref_image", "ref", "image"),
}
"""{what: names that its column may have}, the likeliest first."""

GROUPS = {
    "Add": ("add", "object add"), "Swap/Change": ("swap", "object swap", "color change", "colour change", "change"),
    "Remove": ("remove", "object remove"), "Style/Tone": ("style", "style change", "tone", "weather", "tone weather change", "tone change"),
    "Hybrid": ("hybrid", "hybrid edit"), "Ref-swap": ("reference swap", "ref swap"), "Ref-add": ("reference add", "ref add"),
}  # fmt: skip
"""{the paper's group: kinds of edit in it}."""

PARTS = ("judge_following", "judge_preservation", "judge_quality")
SIMILARITY = "judge_similarity"
"""Of tasks with a reference picture."""


def prepare(folder: Path, subset: str | None) -> list[Item]:
    """subset: text leaves out edits that need a reference picture."""
    path, rows, names = _list(folder)
    if faults := [
        f"{path.name}, item {at}: there is no {names[what]}."
        for at, row in enumerate(rows)
        for what in ("source", "instruction")
        if not _text(row, names, what).strip()
    ]:
        raise LayoutError(*faults)
    found = [(row, _text(row, names, "instruction"), _text(row, names, "task")) for row in rows]
    if subset:
        found = [one for one in found if group_of(one[2]) not in ("Ref-swap", "Ref-add")]
    files = [_file(folder, path, _text(row, names, "source")) for row, _, _ in found]
    ids = all_ids([(None, safe_id(file.stem)) for file in files])
    items = []
    for id, file, (row, instruction, task) in zip(ids, files, found):
        picture = _text(row, names, "picture")
        pictures = (str(_file(folder, path, picture)),) if picture else ()
        items.append(Item(id, str(file), instruction, task=task, bench="vie", pictures=pictures))
    return items


def _list(folder: Path) -> tuple[Path, list[dict], dict[str, str]]:
    """The file with the items, its rows, and {what: column}."""
    looked = []
    for path in sorted(file for ending in ("json", "jsonl", "csv") for file in folder.rglob(f"*.{ending}")):
        rows = _rows(path)
        names = _columns(rows)
        if {"source", "instruction"} <= names.keys():
            return path, rows, names
        looked.append(f"{path.name} ({', '.join(list(rows[0])[:8]) if rows else 'no rows'})")
    seen = f"; there are {', '.join(looked[:5])}" if looked else ""
    raise LayoutError(f"{folder} has no json, jsonl or csv with a column for the video and one for the instruction{seen}.")


def _rows(path: Path) -> list[dict]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            return [*csv.DictReader(io.StringIO(text, newline=""))]
        if path.suffix == ".jsonl":
            found = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            found = json.loads(text)
            found = [*found.values()] if isinstance(found, dict) else found
    except (OSError, ValueError, csv.Error):
        return []
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _columns(rows: list[dict]) -> dict[str, str]:
    there = {name.lower(): name for name in (rows[0] if rows else {})}
    return {what: there[name] for what, names in NAMES.items() for name in reversed(names) if name in there}


def _text(row: dict, names: dict[str, str], what: str) -> str:
    return str(row.get(names.get(what, "")) or "")


def _file(folder: Path, listed_in: Path, name: str) -> Path:
    """The file of that name, relative to the list, the folder, or anywhere below it."""
    for root in (listed_in.parent, folder):
        if (root / name).is_file():
            return root / name
    return next((file for file in folder.rglob(escape(Path(name).name)) if file.is_file()), folder / name)


KINDS = {
    "add": "object add", "remove": "object remove", "swap": "object swap", "recolour": "color change", "stylise_object": "change",
    "style": "style", "background": "change",
}  # fmt: skip
"""{kind of edit of LIVEditor-Bench-mini: the bench's}. Others keep their names."""


def export(folder: Path, items: Sequence[Item]) -> None:
    """The list is cases.json, with the likeliest names of columns."""
    rows = []
    for item in items:
        video = exported(item, folder / "videos").relative_to(folder).as_posix()
        rows.append({"video": video, "instruction": item.instruction, "task": KINDS.get(item.task, item.task)})
        if item.pictures:
            picture = Path(item.pictures[0])
            (folder / "images").mkdir(exist_ok=True)
            copied = shutil.copyfile(picture, folder / "images" / f"{item.id}{picture.suffix}")
            rows[-1]["reference"] = Path(copied).relative_to(folder).as_posix()
    write_json(folder / "cases.json", rows)


def group_of(task: str) -> str | None:
    plain = " ".join(task.lower().replace("_", " ").replace("-", " ").replace("/", " ").split())
    return next((group for group, kinds in GROUPS.items() if plain in kinds), None)


def average(parts: Sequence[float]) -> float:
    """An item's or a row's: the mean of its three scores, or four with a reference picture."""
    return sum(parts) / len(parts)


def aggregate(scored: Sequence[Scored], mode: str) -> dict[str, float]:
    """{group and score: mean over its items}, groups in the paper's order; items whose judge failed are left out."""
    found = {}
    for group in (*GROUPS, None):
        inside = [one for one in scored if group_of(one.item.task) == group and all(part in one.values for part in PARTS)]
        if not inside:
            continue
        name = group or "other tasks"
        for part in (*PARTS, SIMILARITY):
            if (value := mean_of(inside, part)) is not None:
                found[f"{name}: {part.removeprefix('judge_')}"] = value
        averages = [average([one.values[part] for part in (*PARTS, SIMILARITY) if part in one.values]) for one in inside]
        found[f"{name}: average"] = sum(averages) / len(averages)
    return found


BENCH = Bench(
    "vie",
    "VIE-Bench",
    "a json, jsonl or csv with video, instruction and task, anywhere below; results by the items' ids",
    prepare,
    aggregate,
    subsets=("text",),
    export=export,
    notes=("The paper states neither its judge's version nor the frames that it saw: rows of papers are not controlled.",),
)
