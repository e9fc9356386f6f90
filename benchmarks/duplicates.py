"""Near duplicates among real pictures: cosines of both networks' features, and the bound that parts them from other pictures.

    liveditor evaluate models mobilenet_v2 dinov2_s
    python -m liveditor_isa.benchmarks.duplicates --out benchmarks/results/duplicates-cpu-DATE.json

Pictures are the middle frames of clips, one behind the other, of the three videos of `liveditor data demo`, and photographs of two packages.
A near duplicate is the picture again, cropped by 4 %, brighter and compressed, as in `benchmarks.gates`; beside it stands the most alike
picture of another video, as the gate sees it. Every second picture chooses a network's bound as there, the others are counted; by the usual
bound, all are.

What it does not tell: more than three videos' worth of likeness. Clips that follow each other are told, and choose nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from ..curation import demo, measure
from ..curation.duplicates import SCORES
from ..curation.gates import GATES
from ..curation.settings import DUPLICATE_FEATURES
from ..data.procedural import photos
from ..evaluation.frames import read_video, to_bytes
from ..evaluation.weights import file_of
from ..video.geometry import fit_frames
from .gates import again, bound, compressed
from .machine import heading

FRAMES, WIDTH, HEIGHT = 16, 416, 240


class Picture(NamedTuple):
    """frame: [H, W, 3] in 0..1. origin: the video, or the photograph."""

    frame: torch.Tensor
    origin: str


def pictures(folder: Path) -> list[Picture]:
    """The clips' in their order, then the photographs. folder: where the videos come to be."""
    found = []
    for source in demo.fetch_sources(folder):
        middles = read_video(source.video).frames[FRAMES // 2 :: FRAMES]
        found += [Picture(frame, source.id) for frame in fit_frames(middles.float() / 255, WIDTH, HEIGHT)[0]]
    names = photos.available()
    squares = photos.load(names, HEIGHT, torch.device("cpu")).movedim(1, -1)
    return found + [Picture(frame, name) for frame, name in zip(squares, names)]


def measured(shown: list[Picture], network: str, folder: Path) -> dict:
    """A network's row of the table."""
    own = _features([to_bytes(one.frame[None]) for one in shown], network)
    copies = _features([compressed(again(one.frame[None]), folder) for one in shown], network)
    near = (own * copies).sum(1).tolist()
    others = torch.tensor([[one.origin != two.origin for two in shown] for one in shown])
    other = (own @ own.T).where(others, -1.0).amax(1).tolist()
    following = [float(own[at] @ own[at + 1]) for at in range(len(shown) - 1) if shown[at].origin == shown[at + 1].origin]
    most = round(bound(other[::2], near[::2], least=False), 4)
    caught, lost = (sum(value > most for value in values[1::2]) for values in (near, other))
    gate = next(gate for gate in GATES if gate.score == SCORES[network])
    assert gate.most is not None
    return {
        "features": network, "gate": gate.name, "score": gate.score, "bound": most, "side": "most", "precision": round(caught / (caught + lost), 3) if caught + lost else None,
        "recall": round(caught / len(near[1::2]), 3), "others_kept": round(1 - lost / len(other[1::2]), 3), "pictures": len(near[1::2]),
        "near": _span(near), "other": _span(other), "following": _span(following),
        "following_kept": round(sum(value <= most for value in following) / len(following), 3),
        "usual": {
            "bound": gate.most, "found": sum(value > gate.most for value in near), "others_kept": sum(value <= gate.most for value in other),
            "following_kept": sum(value <= gate.most for value in following), "pictures": len(near), "followings": len(following),
        },
    }  # fmt: skip


def _features(videos: list[torch.Tensor], network: str) -> torch.Tensor:
    return torch.tensor([measure.features(video, network) for video in videos])


def _span(values: list[float]) -> list[float]:
    """Least, middle and largest."""
    return [round(value, 4) for value in (min(values), median(values), max(values))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    for network in DUPLICATE_FEATURES:
        file_of(network)
    with tempfile.TemporaryDirectory() as folder:
        shown = pictures(Path(folder))
        rows = [measured(shown, network, Path(folder)) for network in DUPLICATE_FEATURES]
    for row in rows:
        print(f"{row['features']:<14}most {row['bound']:<8}precision {row['precision']}  recall {row['recall']}  others kept {row['others_kept']}")  # fmt: skip
        print(f"    least, middle, largest: near {row['near']}  other {row['other']}  following {row['following']}, of which {row['following_kept']} kept")  # fmt: skip
        print(f"    by the usual bound, of all: {row['usual']}")
    found = {
        "what": "near duplicates among real pictures, by the features of two networks: bounds from one half, precision and recall of the other",
        **heading("liveditor_isa.benchmarks.duplicates", "cpu"),
        "pictures": {
            origin: sum(one.origin == origin for one in shown) for origin in dict.fromkeys(one.origin for one in shown)
        },
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
