"""Gates: bounds on stored scores. A verdict is computed when it is asked for, so that bounds can be moved without running anything again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoint.files import replacing
from .settings import read_object

OWN = "own"
"""Source of a bound that nobody has published."""

MEASURED = "benchmarks/results/gates-cpu-2026-11-29.json"
"""Source of bounds that `benchmarks.gates` has chosen, or measured where the bound says itself what is right."""

REAL_PICTURES = "benchmarks/results/duplicates-cpu-2026-11-30.json"
"""Source of bounds that `benchmarks.duplicates` has chosen."""

SURE = "IVE-Bench's bound of GroundingDINO's boxes"

UNKNOWN_DETECTOR = "none published: detectors are of unlike sharpness"

UNKNOWN_MASKS = "none published: outlines of unlike models leave out more or less"

SAMA = "SAMA, appendix B (Qwen2.5-VL-72B, 1 to 10)"


@dataclass(frozen=True)
class Gate:
    """
    name: unique. stage: whose scores it reads. score: the name of one. reason: of a rejection, short.
    source: who published the bounds, or OWN or MEASURED. least, most: bounds, both included; None for none.
    """

    name: str
    stage: str
    score: str
    reason: str
    source: str
    least: float | None = None
    most: float | None = None

    @property
    def is_on(self) -> bool:
        return self.least is not None or self.most is not None

    def passes(self, value: float) -> bool:
        """NaN passes nothing."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


GATES = (
    Gate("licence", "shots", "licensed", "no licence stated", OWN, least=1),
    Gate("length", "shots", "seconds", "too short", "Bernini, pairs within a video: 2 to 10 s", least=2),
    Gate("size", "shots", "short_side", "too small", OWN, least=480),
    Gate("cuts", "clips", "cuts", "cut inside", "PySceneDetect's default of ContentDetector, 27.0", most=0),
    Gate("motion", "clips", "motion", "hardly any motion", "own; Ditto has such a gate without a published bound", least=0.02),
    Gate("motion_most", "clips", "motion", "too much motion", OWN, most=8),
    Gate("dark", "clips", "brightness", "black", OWN, least=0.06),
    Gate("safety", "clips", "unsafe", "not safe for work", "open_nsfw's authors: above 0.8 highly probable", most=0.8),
    Gate("duplicate", "clips", "duplicate", "near duplicate", MEASURED, most=0.86),
    Gate("duplicate_dino", "clips", "duplicate_dino", "near duplicate", REAL_PICTURES, most=0.94),
    Gate("planned", "plans", "proposals", "no suitable task", OWN, least=1),
    Gate("frame_present", "frames", "present", "edit missing", MEASURED, least=14.58),
    Gate("frame_outside", "frames", "outside_psnr", "background changed", MEASURED, least=25.82),
    Gate("frame_style", "frames", "style", "wrong style", MEASURED, least=0),
    Gate("frame_colour", "frames", "colour", "wrong colour", MEASURED, least=0),
    Gate("frame_shape", "frames", "shape", "wrong shape", MEASURED, least=0),
    Gate("frame_objects_lost", "frames", "objects_lost", "other objects changed", UNKNOWN_DETECTOR),
    Gate("frame_object_gone", "frames", "object_left", "object not removed", SURE, most=0.3),
    Gate("frame_object_there", "frames", "new_object", "new object missing", SURE, least=0.3),
    Gate("frame_outside_object", "frames", "outside_object", "background changed", UNKNOWN_MASKS),
    Gate("frame_preferred", "frames", "preference", "low preference", "none published: scores of unlike models do not compare"),
    Gate("present", "videos", "present", "edit missing", MEASURED, least=14.58),
    Gate("outside", "videos", "outside_psnr", "background changed", MEASURED, least=25.82),
    Gate("style", "videos", "style", "wrong style", MEASURED, least=0),
    Gate("colour", "videos", "colour", "wrong colour", MEASURED, least=0),
    Gate("shape", "videos", "shape", "wrong shape", MEASURED, least=0),
    Gate("objects_lost", "videos", "objects_lost", "other objects changed", UNKNOWN_DETECTOR),
    Gate("object_gone", "videos", "object_left", "object not removed", SURE, most=0.3),
    Gate("object_there", "videos", "new_object", "new object missing", SURE, least=0.3),
    Gate("outside_object", "videos", "outside_object", "background changed", UNKNOWN_MASKS),
    Gate("flicker", "videos", "flicker_added", "flicker", MEASURED, most=0.5),
    Gate("drift", "videos", "drift", "colours drift", MEASURED, most=8.67),
    Gate("sharpness", "videos", "sharpness", "blurred", MEASURED, least=0.85),
    Gate("cuts_added", "videos", "cuts_added", "cut inside", "PySceneDetect's default of ContentDetector, 27.0", most=0),
    Gate("follows_frame", "videos", "frame_psnr", "other than the target frame", OWN, least=18),
    Gate("judged_frame_following", "frame_verdicts", "judge_following", "instruction not followed", SAMA, least=9),
    Gate("judged_frame_quality", "frame_verdicts", "judge_quality", "low quality", SAMA, least=9),
    Gate("judged_frame_preservation", "frame_verdicts", "judge_preservation", "content not preserved", SAMA, least=9),
    Gate("judged_following", "video_verdicts", "judge_following", "instruction not followed", SAMA, least=8),
    Gate("judged_quality", "video_verdicts", "judge_quality", "low quality", SAMA, least=9),
    Gate("judged_preservation", "video_verdicts", "judge_preservation", "content not preserved", SAMA, least=8),
)  # fmt: skip
"""In the order in which they are asked: the reason of a rejection is the first one's that fails."""


@dataclass(frozen=True)
class Verdict:
    """gate: the first that failed, None for what is kept. unmeasured: gates whose score is not there; they reject nothing."""

    gate: Gate | None
    unmeasured: tuple[str, ...] = ()

    @property
    def is_kept(self) -> bool:
        return self.gate is None

    @property
    def reason(self) -> str:
        return self.gate.reason if self.gate else ""


def verdict(scores: Mapping[str, float], gates: Iterable[Gate]) -> Verdict:
    """gates: of one stage. A score that is absent or None was not measured, which is told and rejects nothing."""
    failed, unmeasured = None, []
    for gate in gates:
        value = scores.get(gate.score)
        if not gate.is_on:
            continue
        if value is None:
            unmeasured.append(gate.name)
        elif failed is None and not gate.passes(value):
            failed = gate
    return Verdict(failed, tuple(unmeasured))


def failing(scores: Mapping[str, float | None], stage: str) -> int:
    """How many of a stage's usual gates the scores fail."""
    measured = ((gate, scores.get(gate.score)) for gate in of_stage(GATES, stage) if gate.is_on)
    return sum(value is not None and not gate.passes(value) for gate, value in measured)


def of_stage(gates: Sequence[Gate], stage: str) -> list[Gate]:
    return [gate for gate in gates if gate.stage == stage]


def moved(changes: Mapping[str, Mapping[str, float | None] | None], gates: Sequence[Gate] = GATES) -> tuple[Gate, ...]:
    """gates with other bounds: {name: {"least": number, "most": number}}, or {name: None} for off.

    Raises ValueError in one sentence for an unknown gate or bound.
    """
    known = {gate.name: gate for gate in gates}
    for name, bounds in changes.items():
        if name not in known:
            raise ValueError(f"There is no gate {name!r}: there are {', '.join(known)}.")
        bounds = {"least": None, "most": None} if bounds is None else bounds
        if not isinstance(bounds, Mapping) or not set(bounds) <= {"least", "most"}:
            raise ValueError(f"Gate {name}: bounds are least and most; got {bounds!r}.")
        if wrong := [value for value in bounds.values() if not _is_bound(value)]:
            raise ValueError(f"Gate {name}: a bound is a number; got {wrong[0]!r}.")
        changed = replace(known[name], **bounds)
        known[name] = changed if changed == known[name] else replace(changed, source="set by the user")
    return tuple(known.values())


def read_changes(path: Path) -> dict:
    """Of `moved`, from a JSON file. Raises ValueError in one sentence."""
    return read_object(path, "gates", '{"flicker": {"most": 2}}')


def write_bounds(path: Path, gates: Iterable[Gate]) -> None:
    """The bounds of all, as `read_changes` reads them."""
    with replacing(path) as partial:
        bounds = {gate.name: {"least": gate.least, "most": gate.most} for gate in gates}
        partial.write_text(json.dumps(bounds, indent=1) + "\n", encoding="utf-8")


def parsed(text: str) -> tuple[str, dict[str, float | None] | None]:
    """One change from the command line: "flicker.most=2", "flicker.most=" for no such bound, "flicker=off"."""
    name, equals, value = text.partition("=")
    name, dot, bound = name.partition(".")
    if equals and not dot and value == "off":
        return name, None
    try:
        if not (equals and bound in ("least", "most")):
            raise ValueError
        return name, {bound: float(value) if value else None}
    except ValueError:
        raise ValueError(f"a gate is set by name.least=NUMBER, name.most=NUMBER or name=off; got {text!r}") from None


def _is_bound(value) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value))
