"""Whether measures by the models that packages ship order edits as everybody would: the sample clip against ways of changing it.

    liveditor evaluate models
    python -m liveditor_isa.benchmarks.evaluation.orders [--folder .cache/orders] [--out FILE]

Needs no ComfyUI. Edits: the source itself, the right edit (a ball pasted), noise, blur, the mirrored source, and a drawn clip in its
place. Scores are stored in the folder; another call computes what is missing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from ...checkpoint.files import replacing
from ...evaluation import catalogue
from ...evaluation.benches.mini import SAMPLE, save_frames
from ...evaluation.frames import read_video, to_bytes
from ...evaluation.items import Item, read_items, write_items
from ...evaluation.metrics import i3d
from ...evaluation.records import CORRECTED, Run, Settings
from ...evaluation.report.render import markdown
from ...evaluation.report.tables import Table, distances, number
from ...evaluation.results import collect
from ...evaluation.scoring import planned, runnable, score
from ...video.geometry import fit_frames
from ..machine import ROOT, result_file, versions

CLIPS, WIDTH, HEIGHT = 2, 384, 208
NOISE, BLUR = 25.0, 6.0
"""Deviations: in levels, and in pixels."""

METRICS = ("content_similarity", "structure_distance_s", "niqe", i3d.NAME, "mobilenet", "lpips_alex_source", "vmaf_neg_source")
SHOWN = (
    "content_similarity", "structure_distance_s", "niqe_skvideo", "niqe_skvideo_added", i3d.NAME, "mobilenet_similarity",
    "lpips_alex_source", "vmaf_neg_source",
)  # fmt: skip


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/orders", help="for clips and scores")
    parser.add_argument("--out", type=Path, default=result_file("orders-cpu"))
    options = parser.parse_args(arguments)
    source = fit_frames(read_video(str(SAMPLE), CLIPS * i3d.FRAMES).frames.float() / 255, WIDTH, HEIGHT)[0]
    rows = {name: measured(options.folder, name, to_bytes(source), to_bytes(edit)) for name, edit in edits(source).items()}
    command = "python -m liveditor_isa.benchmarks.evaluation.orders"
    stored = {"command": command, "versions": versions(), "frames": len(source), "size": [WIDTH, HEIGHT], "edits": rows}
    with replacing(options.out) as partial:
        partial.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    print(markdown([table(stored)]))
    print(options.out)


def edits(source: torch.Tensor) -> dict[str, torch.Tensor]:
    """{name: [T, H, W, 3] in 0..1}, from the nearest to the farthest from the source."""
    from ...data.procedural.stream import EditStream

    frames, height, width, _ = source.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    ball = (((x - 0.4) * width / height) ** 2 + (y - 0.4) ** 2 < 0.06)[None, ..., None]
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(0)) * NOISE / 255
    drawn = EditStream(0, 1, frames + 1, height, width, split="held-out", tasks=("recolour",))[0].source[0].movedim(0, -1)
    return {
        "source": source,
        "right edit": torch.where(ball, torch.tensor([0.87, 0.10, 0.11]), source),
        "noisy": (source + noise).clamp(0, 1),
        "blurred": blurred(source),
        "mirrored": source.flip(2),
        "other clip": drawn[:frames],
    }


def blurred(source: torch.Tensor) -> torch.Tensor:
    from kornia.filters import gaussian_blur2d

    size = 2 * round(3 * BLUR) + 1
    return gaussian_blur2d(source.movedim(-1, 1), (size, size), (BLUR, BLUR)).movedim(1, -1)


def measured(folder: Path, name: str, source: torch.Tensor, edit: torch.Tensor) -> dict[str, float]:
    """{column: value}, FVD from the source included. Videos are [T, H, W, 3] uint8."""
    place = (folder / name.replace(" ", "-")).resolve()
    paths = [place / "source", place / "edit"]
    for path, frames in zip(paths, (source, edit)):
        if not path.exists():
            save_frames(path, frames)
    file = place / "items.jsonl"
    write_items(file, [Item(name.replace(" ", "-"), str(paths[0]), edit=str(paths[1]))])
    items, run = read_items(file), Run(place / "run")
    metrics, unable = runnable(catalogue.chosen(METRICS, items, offline=True))
    if unable:
        raise SystemExit("\n".join(dict.fromkeys(unable.values())))
    run.begin(Settings(str(file), None, name, CORRECTED, "crop"), items)
    score(run, planned(run, items, metrics, lambda item: item.edit))
    results = collect(run)
    return results.scored[0].values | {i3d.NAME: distances(results)[0].value}


def table(stored: dict) -> Table:
    rows = tuple((name, *(number(row[column]) for column in SHOWN)) for name, row in stored["edits"].items())
    width, height = stored["size"]
    notes = (
        f"{stored['frames']} frames of {width}×{height}; FVD of {stored['frames'] // i3d.FRAMES} clips from the source's.",
    )
    return Table("Edits of the sample clip", ("edit", *SHOWN), rows, notes)


if __name__ == "__main__":
    main()
