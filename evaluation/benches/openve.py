"""OpenVE-Bench (OpenVE-3M, arXiv 2512.07826): 431 videos with one instruction each, of eight kinds, scored by a judge.

Its list, names of results and averages are those of the runner that Kiwi-Edit publishes, whose judge, Gemini, sees whole videos.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from ...batch.manifest import all_ids
from ..items import Item
from ..results import Scored
from .bench import Bench, LayoutError, exported

LIST = "benchmark_videos.csv"
NEEDED = ("original_video", "prompt", "edited_type")
PARTS = ("judge_compliance", "judge_detail", "judge_stability")
"""Compliance with the instruction, consistency and detail, quality and stability: 1 to 5 each."""

FIVE_KINDS = ("global_style", "background_change", "local_change", "local_remove", "local_add")
"""Those that the runner scores; subtitle_edit, creative_edit and camera_edit are left out there."""

KINDS = {
    "add": "local_add", "remove": "local_remove", "swap": "local_change", "recolour": "local_change", "stylise_object": "local_change",
    "style": "global_style", "background": "background_change",
}  # fmt: skip
"""{kind of edit of LIVEditor-Bench-mini: the bench's}. Others keep their names."""


def prepare(folder: Path, subset: str | None) -> list[Item]:
    """Of the folder that holds the list, or the one above it. subset: five-kinds."""
    root = folder if (folder / LIST).is_file() else folder / "OpenVE-Bench"
    try:
        with open(root / LIST, encoding="utf-8-sig", newline="") as file:
            rows = [*csv.DictReader(file)]
    except (OSError, ValueError) as error:
        raise LayoutError(f"{folder / LIST} cannot be read ({error}): OpenVE-Bench has it beside a folder videos.") from None
    faults = [
        f"{LIST}, row {at}: there is no {name}." for at, row in enumerate(rows, 1) for name in NEEDED if not row.get(name)
    ]
    if faults or not rows:
        raise LayoutError(*faults or [f"{root / LIST} has no rows."])
    if subset:
        rows = [row for row in rows if row["edited_type"] in FIVE_KINDS]
    names = all_ids([(None, row["original_video"]) for row in rows])
    return [_item(root, name, row) for name, row in zip(names, rows)]


def _item(root: Path, name: str, row: dict[str, str]) -> Item:
    # The list names the bench's own folder, which may be called otherwise here.
    video = Path(row["original_video"].removeprefix("OpenVE-Bench/"))
    return Item(
        name, str(root / video), row["prompt"].strip(), task=row["edited_type"], bench="openve", result=f"{video.stem}_edited"
    )


def export(folder: Path, items: Sequence[Item]) -> None:
    rows = []
    for item in items:
        video = exported(item, folder / "videos").relative_to(folder).as_posix()
        kind = KINDS.get(item.task, item.task) or "local_change"
        rows.append({"original_video": f"OpenVE-Bench/{video}", "prompt": item.instruction, "edited_type": kind})
    with open(folder / LIST, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, NEEDED)
        writer.writeheader()
        writer.writerows(rows)


def aggregate(scored: Sequence[Scored], mode: str) -> dict[str, float]:
    """{kind: mean of all scores of its items}, and the mean over the kinds; items whose judge failed are left out."""
    found = {}
    for kind in dict.fromkeys(one.item.task for one in scored):
        values = [one.values[part] for one in scored if one.item.task == kind for part in PARTS if part in one.values]
        if values:
            found[kind] = sum(values) / len(values)
    return found | {"overall": overall([*found.values()])} if found else {}


def overall(kinds: Sequence[float]) -> float:
    """Every kind counts alike."""
    return sum(kinds) / len(kinds)


BENCH = Bench(
    "openve",
    "OpenVE-Bench",
    f"{LIST} beside videos/; results as VIDEO_edited.mp4",
    prepare,
    aggregate,
    subsets=("five-kinds",),
    export=export,
    notes=("Published rows are scores of Gemini 2.5 Pro, which saw whole videos and was asked in other words.",),
)
