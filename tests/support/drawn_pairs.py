"""Raw training pairs for tests of `liveditor train`: drawn clips in a new style, as small mp4 files with their list."""

import json
from fractions import Fraction
from pathlib import Path

import torch
from liveditor_isa.training import EditStream
from liveditor_isa.video.mp4 import write_mp4

INSTRUCTION = "make the video look like a thermal picture"


def thermal(frames):
    """[..., 3] in 0..1 -> the same in false colours: dark is blue, bright is yellow. No style that LIVEditor-tiny knows."""
    heat = frames.mean(-1)
    return torch.stack([heat.sqrt(), heat**2, (1 - heat) ** 2 * 0.8], -1).clamp(0, 1)


def write_pairs(
    folder: Path, count: int, frames: int = 5, size: tuple[int, int] = (64, 48), seed: int = 0, split: str = "train"
):
    """Writes pairs.jsonl and its clips. size: width and height."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = EditStream(seed, 1, frames, size[1], size[0], split=split, tasks=("style",))
    rows = []
    for number in range(count):
        clip = stream[number].source[0].movedim(0, -1)
        names = {role: f"{number}.{role}.mp4" for role in ("context", "target")}
        write_mp4(folder / names["context"], [clip], Fraction(8), crf=8)
        write_mp4(folder / names["target"], [thermal(clip)], Fraction(8), crf=8)
        rows.append({**names, "instruction": INSTRUCTION})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder
