"""ReCo-Data: for each task a folder of src_videos, tar_videos and TASK_data_configs.json, whose paths are relative to all of it.

Source: HiDream-ai/ReCo, README.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..records import Pair
from .files import distinct, placed, read_json, rows_of, write_json

ABOUT = "ReCo-Data: TASK/TASK_data_configs.json of src_video, tar_video, instruction_final_refine"
CONFIGS = "_data_configs.json"


def write(pairs: Sequence[Pair], folder: Path) -> None:
    by_task: dict[str, list[dict]] = {}
    for pair in pairs:
        assert pair.context and pair.target
        row = {"src_video": placed(pair.context, folder, f"{pair.task}/src_videos/{pair.id}.mp4")}
        row["tar_video"] = placed(pair.target, folder, f"{pair.task}/tar_videos/{pair.id}.mp4")
        by_task.setdefault(pair.task, []).append(row | {"instruction_final_refine": pair.instruction})
    for task, rows in by_task.items():
        write_json(folder / task / f"{task}{CONFIGS}", rows)


def read(folder: Path) -> list[Pair]:
    files = sorted(folder.glob(f"*/*{CONFIGS}"))
    if not files:
        raise ValueError(f"{folder} has no TASK/TASK{CONFIGS}: name a folder of this format.")
    rows = [
        (file.name.removesuffix(CONFIGS), row)
        for file in files
        for row in rows_of(read_json(file), file, "src_video", "tar_video", "instruction_final_refine")
    ]
    return [
        Pair(name, task, row["instruction_final_refine"], str(folder / row["src_video"]), str(folder / row["tar_video"]))
        for name, (task, row) in zip(distinct([row["tar_video"] for _, row in rows]), rows)
    ]
