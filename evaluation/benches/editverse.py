"""EditVerseBench (arXiv 2509.20360): 100 videos with two instructions each, 20 kinds of edit.

Its data is fetched by the user; its code's licence is non-commercial, and nothing of it is here. Text metrics ask for the description
of the edited video, `target_prompt`. An editor gets the instruction without the tags that name inputs, such as <video1>.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..frames import read_video
from ..items import Item
from ..results import Scored
from .bench import Bench, LayoutError, check_rows, described, exported, mean_of, read_json, write_json

FILES = ("test.json", "EditVerseBench.json")
"""Both names are in use."""

ONE_VIDEO = (
    "add object", "remove object", "change object", "stylization", "reasoning", "change background", "change color", "change material",
    "change camera", "add effect", "change weather", "combined",
)  # fmt: skip
"""Kinds of edit that need a text and the video."""
MAPS = ("detection", "pose-to-video", "depth-to-video", "sketch-to-video")
"""Kinds whose one video is, or becomes, a map of something. With ONE_VIDEO these are EgoEdit's 160 items."""

SUBSETS = {"text": ONE_VIDEO, "no-reference": (*ONE_VIDEO, *MAPS)}

COLUMNS = {
    "clip_temporal_consistency": ("CLIP temporal consistency", 100),
    "dino_temporal_consistency": ("DINO temporal consistency", 100),
    "frame_text_alignment": ("frame-text alignment", 1),
    "pick_score_video_quality": ("PickScore", 1),
}
"""{column: (the bench's, times what)}."""


def prepare(folder: Path, subset: str | None) -> list[Item]:
    """Of the folder that holds the json and the folder videos/, or of the one above it."""
    root = folder / "EditVerseBench" if (folder / "EditVerseBench").is_dir() else folder
    path = next((root / name for name in FILES if (root / name).is_file()), root / FILES[0])
    rows = read_json(path, "EditVerseBench has test.json or EditVerseBench.json, beside a folder videos")
    if not isinstance(rows, dict):
        raise LayoutError(f"{path} holds no items: it should be an object with an object for each item.")
    check_rows(((f"{path.name}, item {key}", row) for key, row in rows.items()), NEEDED, OPTIONAL)
    wanted = {_plain(name) for name in SUBSETS[subset]} if subset else None
    items = [_item(root, key, row) for key, row in rows.items() if wanted is None or _plain(row["type"]) in wanted]
    if not items:
        kinds = ", ".join(sorted({row["type"] for row in rows.values()}))
        raise LayoutError(f"No item is of the subset {subset}; {path.name} has the types {kinds}.")
    return items


NEEDED = ("<text>", "<video1>", "type", "source_prompt", "target_prompt")
OPTIONAL = ("direction", "<video2>", "<image1>")


def _item(root: Path, key: str, row: dict) -> Item:
    pictures = tuple(str(root / row["<image1>"]) for _ in "1" if row.get("<image1>"))
    facts = {"text": row["<text>"]} | {name: row[name] for name in ("direction", "<video2>") if row.get(name)}
    return Item(
        key, str(root / row["<video1>"]), without_tags(row["<text>"]), task=row["type"], bench="editverse", pictures=pictures,
        source_prompt=row["source_prompt"], target_prompt=row["target_prompt"], result=f"{key}/generate", facts=facts,
    )  # fmt: skip


KINDS = {
    "add": "add object", "remove": "remove object", "swap": "change object", "recolour": "change color", "stylise_object": "change material",
    "style": "stylization", "background": "change background",
}  # fmt: skip
"""{kind of edit of LIVEditor-Bench-mini: the bench's}. Others keep their names."""


def export(folder: Path, items: Sequence[Item]) -> None:
    root, rows = folder / "EditVerseBench", {}
    for item in items:
        video = exported(item, root / "videos")
        height, width = read_video(str(video), 1).frames.shape[1:3]
        rows[item.id] = {
            "<text>": item.facts.get("text") or f"<video1> {item.instruction}", "<video1>": video.relative_to(root).as_posix(),
            "direction": "vertical" if height > width else "horizontal", "type": KINDS.get(item.task, item.task), **described(item),
        }  # fmt: skip
    write_json(root / FILES[0], rows)


def without_tags(text: str) -> str:
    return " ".join(re.sub(r"<(?:video|image)\d+>", " ", text).split())


def _plain(kind: str) -> str:
    return re.sub(r"[-_ ]+", " ", kind.strip().lower())


def aggregate(scored: Sequence[Scored], mode: str) -> dict[str, float]:
    """Unweighted means over the items, in both modes."""
    found = {name: (mean_of(scored, column), times) for column, (name, times) in COLUMNS.items()}
    return {name: value * times for name, (value, times) in found.items() if value is not None}


BENCH = Bench(
    "editverse",
    "EditVerseBench",
    "test.json or EditVerseBench.json beside videos/; results as KEY/generate.mp4",
    prepare,
    aggregate,
    metrics=tuple(COLUMNS),
    subsets=tuple(SUBSETS),
    export=export,
    notes=("Not computed here: video-text alignment (ViCLIP) and the score of its GPT-4o judge.",),
)
