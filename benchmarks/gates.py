"""Precision and recall of the data pipeline's gates, on drawn pairs with planted faults.

    python -m liveditor_isa.benchmarks.gates --pairs 48 --out benchmarks/results/gates-cpu-DATE.json

Right pairs are exact edits after H.264 at crf 23. Every fault is planted in each of them that can have it, one at a time. A gate's bound is
chosen on one half of the pairs, where the sum of recall and of right pairs kept is largest, a quarter of the way from the faulty to the right one of the
two scores around it: right pairs of an editor are less exact than these. Precision and recall are those of the other half. A pair that a
gate cannot measure counts as kept.

What it does not tell: how an editor's own faults look, and gates that a VLM answers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d

from ..curation import measure
from ..curation.gates import GATES
from ..curation.settings import MOBILENET
from ..data.procedural.edits import Plan
from ..data.procedural.scenes import COLOURS, SHAPES, Thing
from ..data.procedural.stream import EditStream
from ..data.procedural.styles import STYLES
from ..evaluation.frames import read_video, to_bytes
from ..video.mp4 import write_mp4
from .machine import heading

FRAMES, HEIGHT, WIDTH = 9, 128, 208
TASKS = ("add", "remove", "swap", "recolour", "style")
CUT = 27.0
ROOM = 5
"""Pixels, odd: the region that may change is widened by a square of this side, for what H.264 spreads."""

GIVEN = ("style", "colour", "shape", "cuts_added")
"""Gates whose bound says itself what is right, 0, and is not chosen: what was asked for is ahead of all else; no cut more than in the source."""

NAMED = ("plain", "dotted", "outlined")
"""Looks in which most of an object has the colour that its name says."""


class Pair(NamedTuple):
    """Frames are [T, H, W, 3] in 0..1. region: [T, H, W] bool; None for a style.

    recoloured, reshaped: the target with another object than was asked for, where an edit makes one.
    """

    source: torch.Tensor
    target: torch.Tensor
    region: torch.Tensor | None
    recoloured: torch.Tensor | None = None
    reshaped: torch.Tensor | None = None


class Otherwise(EditStream):
    """The scenes of the stream, where the edit makes another object than the instruction says."""

    def __init__(self, *arguments, change: Callable[[Thing], Thing], **options):
        super().__init__(*arguments, **options)
        self._change = change

    def _drawn(self, index: int):
        plans, generator = super()._drawn(index)
        return [self._changed(plan) for plan in plans], generator

    def _changed(self, plan: Plan) -> Plan:
        new = made_object(plan)
        after = [self._change(new) if new and slot == plan.edited else thing for slot, thing in enumerate(plan.after)]
        return replace(plan, after=tuple(after))


def made_object(plan: Plan) -> Thing | None:
    return None if plan.edited is None else plan.after[plan.edited]


def another_colour(thing: Thing) -> Thing:
    return replace(thing, colour=_next(COLOURS, thing.colour))


def another_shape(thing: Thing) -> Thing:
    return replace(thing, shape=_next(SHAPES, thing.shape))


def _next(names: Iterable[str], name: str) -> str:
    order = [*names]
    return order[(order.index(name) + 1) % len(order)]


def missing(pair: Pair, other: Pair) -> torch.Tensor:
    return pair.source


def wrong_style(pair: Pair, other: Pair) -> torch.Tensor | None:
    if pair.region is not None:
        return None
    frames = pair.source.movedim(-1, 1)
    made = [make(frames).clamp(0, 1).movedim(1, -1) for make in STYLES.values()]
    nearest = min(range(len(made)), key=lambda at: float((made[at] - pair.target).square().mean()))
    return made[(nearest + 1) % len(made)]


def wrong_colour(pair: Pair, other: Pair) -> torch.Tensor | None:
    return pair.recoloured


def wrong_shape(pair: Pair, other: Pair) -> torch.Tensor | None:
    return pair.reshaped


def background(pair: Pair, other: Pair) -> torch.Tensor:
    """A quarter of another clip shows outside of the region."""
    mixed = torch.lerp(pair.target, other.source, 0.25)
    return mixed if pair.region is None else torch.where(pair.region[..., None], pair.target, mixed)


def flicker(pair: Pair, other: Pair) -> torch.Tensor:
    """Every second frame is darker by 6 %."""
    edited = pair.target.clone()
    edited[1::2] *= 0.94
    return edited


def drift(pair: Pair, other: Pair) -> torch.Tensor:
    """Blue grows by 12 levels until the last frame, red falls."""
    way = torch.linspace(0, 12 / 255, len(pair.target)).view(-1, 1, 1)
    edited = pair.target.clone()
    edited[..., 2] += way
    edited[..., 0] -= way
    return edited.clamp(0, 1)


def blur(pair: Pair, other: Pair) -> torch.Tensor:
    """Gaussian, 1.5 pixels."""
    return gaussian_blur2d(pair.target.movedim(-1, 1), (9, 9), (1.5, 1.5)).movedim(1, -1)


def cut(pair: Pair, other: Pair) -> torch.Tensor:
    """The second half is another clip's."""
    half = len(pair.target) // 2
    return torch.cat([pair.target[:half], other.target[half:]])


FAULTS: dict[str, tuple[Callable[[Pair, Pair], torch.Tensor | None], str]] = {
    "edit missing": (missing, "present"),
    "wrong style": (wrong_style, "style"),
    "wrong colour": (wrong_colour, "colour"),
    "wrong shape": (wrong_shape, "shape"),
    "background changed": (background, "outside"),
    "flicker": (flicker, "flicker"),
    "drift": (drift, "drift"),
    "blur": (blur, "sharpness"),
    "cut inside": (cut, "cuts_added"),
}
"""{fault: (what plants it, None in a pair that cannot have it; the gate that is to find it)}."""


def pairs(count: int, seed: int) -> Iterator[tuple[Plan, Pair]]:
    """Of the held-out split, the tasks in turn."""
    for index in range(count):
        task = TASKS[index % len(TASKS)]
        options = {"split": "held-out", "tasks": (task,)}
        stream = EditStream(seed, 1, FRAMES, HEIGHT, WIDTH, **options)
        batch, plan = stream[index], stream.plans(index)[0]
        wide = F.max_pool2d(batch.region[0, 0].float()[:, None], ROOM, 1, ROOM // 2)[:, 0] > 0
        source, target = _frames(batch.source), _frames(batch.target)
        others = {
            name: _frames(Otherwise(seed, 1, FRAMES, HEIGHT, WIDTH, **options, change=change)[index].target)
            for name, tasks, change in (
                ("recoloured", ("add", "swap", "recolour"), another_colour),
                ("reshaped", ("add", "swap"), another_shape),
            )
            if task in tasks
        }
        yield plan, Pair(source, target, None if plan.style else wide, **others)


def _frames(videos: torch.Tensor) -> torch.Tensor:
    return videos[0].movedim(0, -1)


def expected(plan: Plan, region: torch.Tensor | None) -> dict:
    """What a planner would know."""
    if plan.style:
        return {"style": plan.style}
    new = made_object(plan)
    known = {"region": region}
    if new and new.look in NAMED:
        known |= {"colour": new.colour}
    if new and plan.place and new.look != "glowing":  # a glow reaches beyond its shape
        known |= {"place": plan.place, "shape": new.shape}
    return known


def compressed(frames: torch.Tensor, folder: Path) -> torch.Tensor:
    """[T, H, W, 3] uint8, as an editor's mp4 gives them back."""
    file = write_mp4(folder / "clip.mp4", [frames], Fraction(16), crf=23)
    found = read_video(str(file)).frames
    file.unlink()
    return found


def scores_of(count: int, seed: int) -> dict[str, list[dict]]:
    """{fault, or "right": scores of every pair}, and {"near duplicate", "another clip": cosines}."""
    found: dict[str, list[dict]] = {"right": [], "near duplicate": [], "another clip": [], **{fault: [] for fault in FAULTS}}
    made = [*pairs(count, seed)]
    with tempfile.TemporaryDirectory() as folder:
        for number, (plan, pair) in enumerate(made):
            other = made[(number + len(TASKS)) % count][1]
            source, known = to_bytes(pair.source), expected(plan, pair.region)
            for name, make in {
                "right": lambda pair, _: pair.target,
                **{name: plant for name, (plant, _) in FAULTS.items()},
            }.items():
                if (frames := make(pair, other)) is not None:
                    edit = compressed(frames, Path(folder))
                    found[name].append(measure.pair_scores(source, edit, known, CUT))
            _duplicates(found, pair, other, Path(folder))
    return found


def _duplicates(found: dict[str, list[dict]], pair: Pair, other: Pair, folder: Path):
    """The clip again, compressed; and another clip."""
    own = measure.features(to_bytes(pair.source), MOBILENET)
    if own is None:
        return
    for name, frames in (("near duplicate", compressed(again(pair.source), folder)), ("another clip", to_bytes(other.source))):
        features = measure.features(frames, MOBILENET)
        assert features is not None
        found[name].append({"duplicate": sum(one * two for one, two in zip(own, features))})


def again(frames: torch.Tensor) -> torch.Tensor:
    """A near duplicate of [T, H, W, 3] in 0..1: cropped by 4 % at each side, and brighter by 5 %."""
    high, wide = frames.shape[1:3]
    height, width = high // 25, wide // 25
    cropped = frames[:, height:-height, width:-width].movedim(-1, 1)
    return (F.interpolate(cropped, (high, wide), mode="bilinear", antialias=True).movedim(1, -1) * 1.05).clamp(0, 1)


def bound(right: list[float], faulty: list[float], least: bool) -> float:
    """Where the sum of both shares on the proper side is largest. least: right pairs have more."""
    values = sorted({*right, *faulty}, reverse=not least)
    between = [one + (two - one) / 4 for one, two in zip(values, values[1:])] or values
    sign = 1 if least else -1

    def worth(at: float) -> float:
        kept = sum(sign * value >= sign * at for value in right) / len(right)
        found = sum(sign * value < sign * at for value in faulty) / len(faulty)
        return kept + found

    best = max(map(worth, between))
    tied = [at for at in between if worth(at) > best - 1e-9]
    return tied[len(tied) // 2]


def measured(count: int, seed: int) -> dict:
    """The table: one row for each gate with a fault."""
    chosen_on, tested_on = scores_of(count // 2, seed), scores_of(count // 2, seed + 1)
    gates = {gate.name: gate for gate in GATES}
    rows = []
    cases = [(fault, "right", gate) for fault, (_, gate) in FAULTS.items()]
    if chosen_on["another clip"]:
        cases.append(("near duplicate", "another clip", "duplicate"))
    for fault, right, name in cases:
        score, least = gates[name].score, gates[name].least is not None
        values = [{kind: [one[score] for one in of[kind] if one.get(score) is not None] for kind in (right, fault)} for of in (chosen_on, tested_on)]  # fmt: skip
        given = gates[name].least if least else gates[name].most
        at = given if name in GIVEN else bound(values[0][right], values[0][fault], least)
        sign = 1 if least else -1
        caught = sum(sign * value < sign * at for value in values[1][fault])
        lost = sum(sign * value < sign * at for value in values[1][right])
        rows.append({
            "fault": fault, "gate": name, "score": score, "bound": round(at, 4), "side": "least" if least else "most",
            "precision": round(caught / (caught + lost), 3) if caught + lost else None,
            "recall": round(caught / len(tested_on[fault]), 3),
            "right_kept": round(1 - lost / len(tested_on[right]), 3),
            "measured": len(values[1][fault]), "pairs": len(tested_on[fault]),
        })  # fmt: skip
    return {"rows": rows, "together": _together(rows, tested_on)}


def _together(rows: list[dict], tested: dict[str, list[dict]]) -> dict[str, float]:
    """{fault, or "right": share that any gate rejects}, with the bounds above."""

    def rejected(scores: dict) -> bool:
        sides = ((1 if row["side"] == "least" else -1, row) for row in rows)
        return any(
            scores.get(row["score"]) is not None and sign * scores[row["score"]] < sign * row["bound"] for sign, row in sides
        )

    kinds = ("right", *FAULTS)
    return {kind: round(sum(map(rejected, tested[kind])) / len(tested[kind]), 3) for kind in kinds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=48, help="right pairs, half of them to choose bounds on")
    parser.add_argument("--seed", type=int, default=28)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = {
        "what": "gates of the data pipeline on drawn pairs with planted faults: bounds from one half, precision and recall of the other",
        **heading("liveditor_isa.benchmarks.gates", "cpu"),
        "clips": f"{FRAMES} frames of {WIDTH}×{HEIGHT}, H.264 at crf 23, held-out split",
        **measured(options.pairs, options.seed),
    }
    for row in found["rows"]:
        print(f"{row['fault']:<22}{row['gate']:<12}{row['side']} {row['bound']:<9}precision {row['precision']}  recall {row['recall']}  right kept {row['right_kept']}")  # fmt: skip
    print("rejected by any:", found["together"])
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
