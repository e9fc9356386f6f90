"""musubi-tuner: JSON lines of video_path, control_path and caption, and a dataset.toml that names them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..records import Pair
from .files import distinct, placed_videos, read_json_lines, rows_of

ABOUT = "musubi-tuner: pairs.jsonl of video_path, control_path, caption, and dataset.toml"


def write(pairs: Sequence[Pair], folder: Path) -> None:
    """Paths are relative to the folder, from which the trainer is started: an export may be moved."""
    lines = []
    for pair in pairs:
        context, target = placed_videos(pair, folder)
        lines.append(
            json.dumps({"video_path": target, "control_path": context, "caption": pair.instruction}, ensure_ascii=False)
        )
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    first = pairs[0]
    (folder / "dataset.toml").write_text(
        f"[general]\nresolution = [{first.width}, {first.height}]\nbatch_size = 1\n\n"
        '[[datasets]]\nvideo_jsonl_file = "pairs.jsonl"\ncache_directory = "cache"\n'
        f'target_frames = [{first.frames}]\nframe_extraction = "head"\nsource_fps = {first.fps:.1f}\n',
        encoding="utf-8",
    )


def read(folder: Path) -> list[Pair]:
    path = folder / "pairs.jsonl"
    rows = rows_of(read_json_lines(path), path, "video_path", "control_path", "caption")
    return [
        Pair(
            id, "", row["caption"],
            str(folder / row["control_path"]), str(folder / row["video_path"]),
        )
        for id, row in zip(distinct([row["video_path"] for row in rows]), rows)
    ]  # fmt: skip
