"""DiffSynth-Studio: metadata.csv with video, prompt, and the context as `vace_video`, for --data_file_keys video,vace_video and
--extra_inputs vace_video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..records import Pair
from .files import distinct, placed_videos, read_csv, write_csv

ABOUT = "DiffSynth-Studio: metadata.csv, the context as vace_video"


def write(pairs: Sequence[Pair], folder: Path) -> None:
    rows = []
    for pair in pairs:
        context, target = placed_videos(pair, folder)
        rows.append({"video": target, "prompt": pair.instruction, "vace_video": context})
    write_csv(folder / "metadata.csv", rows)


def read(folder: Path) -> list[Pair]:
    rows = read_csv(folder / "metadata.csv", "video", "prompt", "vace_video")
    return [
        Pair(id, "", row["prompt"], str(folder / row["vace_video"]), str(folder / row["video"]))
        for id, row in zip(distinct([row["video"] for row in rows]), rows)
    ]
