"""Kiwi-Edit: a CSV of src_video, tgt_video, prompt and ref_image, with relative paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..records import Pair
from .files import distinct, placed, placed_videos, read_csv, write_csv

ABOUT = "Kiwi-Edit: metadata.csv of src_video, tgt_video, prompt, ref_image"


def write(pairs: Sequence[Pair], folder: Path) -> None:
    rows = []
    for pair in pairs:
        context, target = placed_videos(pair, folder)
        picture = pair.reference and placed(pair.reference, folder, f"references/{pair.id}{Path(pair.reference).suffix}")
        rows.append({"src_video": context, "tgt_video": target, "prompt": pair.instruction, "ref_image": picture or ""})
    write_csv(folder / "metadata.csv", rows)


def read(folder: Path) -> list[Pair]:
    rows = read_csv(folder / "metadata.csv", "src_video", "tgt_video", "prompt")
    return [
        Pair(
            id, "", row["prompt"], str(folder / row["src_video"]), str(folder / row["tgt_video"]),
            reference=str(folder / row["ref_image"]) if row.get("ref_image") else None,
        )
        for id, row in zip(distinct([row["tgt_video"] for row in rows]), rows)
    ]  # fmt: skip
