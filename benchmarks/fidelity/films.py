"""How well an editor edits clips that look filmed and that training never shows, task by task: the split `held-out films`.

    python -m liveditor_isa.benchmarks.fidelity.films --weights weights --pictures FOLDER

FOLDER is what the editor was trained with (`python -m liveditor_isa.training --pictures`), so that its pictures are known; clips, edits and
sentences are not. Full attention, 12 steps. Needs ComfyUI, `make setup`
fetches it. study.py measures the split `held-out` in the same way, and ISA on it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from ..machine import ROOT, heading, result_file, use_comfyui

use_comfyui()

from ...data.procedural.footage import read_library  # noqa: E402
from ...data.procedural.stream import EditStream  # noqa: E402
from ...training.tiny.evaluate import by_task, scores  # noqa: E402
from ...training.tiny.preview import edit  # noqa: E402
from ..editor import load_editor  # noqa: E402

BATCH = 20
"""Clips edited at once."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=ROOT / "weights", help="folder of the three exported files")
    parser.add_argument("--pictures", type=Path, help="folder of photographs, cut-outs and film")
    parser.add_argument(
        "--clips", type=int, default=140, help=f"in whole batches of {BATCH}: more are edited where it is no multiple"
    )
    parser.add_argument("--size", type=int, nargs=3, default=(33, 256, 256), metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--out", type=Path, default=result_file("fidelity-films"))
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    editor = load_editor(options.weights, options.weights, device)
    library = read_library(options.pictures).to(device)
    stream = EditStream(0, min(BATCH, options.clips), *options.size, device, split="held-out films", library=library)
    judged = []
    for number in range(-(-options.clips // stream.batch)):
        batch = stream[number]
        judged.append((batch, scores(batch, edit(*editor, batch.source, batch.instructions))))
    result = {**heading(__spec__.name, device), "size": list(options.size), "tasks": by_task(judged)}
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for task, row in result["tasks"].items():
        print(f"{task:16} {row['clips']:4} clips, {row['psnr']:.1f} dB, {row['edit_accuracy']:.0%} right")


if __name__ == "__main__":
    main()
