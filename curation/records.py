"""The record of one training pair: what it is, where it comes from, how it was made, and what was thought of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..checkpoint.files import replacing

FILES = ("context", "target", "latents", "reference")
ACCEPTED, REJECTED = "accepted", "rejected"


@dataclass(frozen=True)
class Pair:
    """
    id: unique. parent: the clip that it was made of. task, instruction: from context to target. instructions: variants, that one first.
    context, target: absolute paths of mp4 files, None where a pair was rejected before it had them. latents: a safetensors file with
        context, target and text. reference: a picture that the instruction refers to.
    fps, frames, width, height: of both clips. direction: one of `settings.DIRECTIONS`; empty where an importer does not know.
    source: origin, licence, url, caption, span in seconds. prompts: the edit's own instruction, and what the edited clip shows where a
        planner said so. models, seeds, scores, seconds: by stage.
    status: ACCEPTED or REJECTED. reason, gate: of a rejection.
    """

    id: str
    task: str
    instruction: str
    context: str | None
    target: str | None
    parent: str = ""
    instructions: tuple[str, ...] = ()
    latents: str | None = None
    reference: str | None = None
    fps: float = 0.0
    frames: int = 0
    width: int = 0
    height: int = 0
    direction: str = ""
    source: dict[str, Any] = field(default_factory=dict, hash=False)
    prompts: dict[str, str] = field(default_factory=dict, hash=False)
    models: dict[str, str] = field(default_factory=dict, hash=False)
    seeds: dict[str, int] = field(default_factory=dict, hash=False)
    scores: dict[str, dict[str, float]] = field(default_factory=dict, hash=False)
    seconds: dict[str, float] = field(default_factory=dict, hash=False)
    status: str = ACCEPTED
    reason: str = ""
    gate: str = ""


def write_pairs(path: Path, pairs: Iterable[Pair]) -> int:
    """JSON lines, paths relative to the file where they lie below its folder. Replaces the file at once. Returns how many there are."""
    folder, count = path.resolve().parent, 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
        for pair in pairs:
            named = {name: _relative(value, folder) for name in FILES if (value := getattr(pair, name))}
            file.write(json.dumps(asdict(replace(pair, **named)), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_pairs(path: Path) -> Iterator[Pair]:
    """The inverse of `write_pairs`. Raises ValueError in one sentence for a file or row that is none of them."""
    folder = path.resolve().parent
    known = {one.name for one in fields(Pair)}
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict) or not {"id", "task", "instruction", "context", "target"} <= set(row) <= known:
                        raise ValueError(f"line {number} is no record of a pair")
                    row["instructions"] = tuple(row.get("instructions", ()))
                    yield Pair(**{**row, **{name: str(folder / row[name]) for name in FILES if row.get(name)}})
    except (OSError, ValueError) as error:
        raise ValueError(f"The pairs {path} cannot be read ({error}): name a pairs.jsonl that liveditor data made.") from None


def _relative(path: str, folder: Path) -> str:
    return Path(path).relative_to(folder).as_posix() if Path(path).is_relative_to(folder) else path
