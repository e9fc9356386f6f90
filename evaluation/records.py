"""The folder of an evaluated run. Every score is in it as soon as it is known, whatever is killed when.

    run.json              the items, where their edits lie, how they are compared
    scores/<id>.json      of one item: {"inputs": what its files and texts were, "scores": {metric: score}}
    edits/                what `liveditor evaluate generate` made: a batch job's folder
    job/                  that of scoring with several workers
    judge/<key>.json      answers of a judge, by the content of the question
    report/               pages and tables

A score is {"version", "values": {column: number}, "seconds"}, or {"version", "missing": reason} where there is none: a metric that
fails leaves a gap with its reason, never a number. Metrics of sets have "features" besides: {role: [a row of numbers as text]}.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..checkpoint.files import replacing
from .items import Item, ItemSet, read_items

REFERENCE, CORRECTED = MODES = "reference", "corrected"
"""Numbers as a bench's published code computes them, quirks included, or as its definitions say."""


@dataclass(frozen=True)
class Settings:
    """What all scores of a run share. items_file: path of the items. edits: the folder with the edits, None for that of `generate` or
    the items' own. label: the run's name in reports. mode: one of MODES. alignment: as in `frames.Inputs`."""

    items_file: str
    edits: str | None
    label: str
    mode: str
    alignment: str


class Run:
    """folder: need not exist yet."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).resolve()

    @property
    def made_edits(self) -> Path:
        return self.folder / "edits"

    @property
    def record(self) -> Path:
        return self.folder / "run.json"

    @property
    def job(self) -> Path:
        return self.folder / "job"

    @property
    def judge_cache(self) -> Path:
        return self.folder / "judge"

    @property
    def report(self) -> Path:
        return self.folder / "report"

    def begin(self, settings: Settings, items: ItemSet) -> None:
        """Store what the run is of. Raises ValueError where the folder has scores of other items or settings."""
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file: name a folder for the run.")
        new = {**asdict(settings), **items.described}
        old = _read(self.record)
        if old and any((self.folder / "scores").glob("*.json")):
            other = [name for name in ("sha256", "edits", "mode", "alignment") if old.get(name) != new[name]]
            if other:
                names = ", ".join(f"{name} {old.get(name)!r}, now {new[name]!r}" for name in other)
                raise ValueError(f"{self.folder} holds the scores of another evaluation ({names}): name another folder.")
        (self.folder / "scores").mkdir(parents=True, exist_ok=True)
        if new != old:
            _write(self.record, new)

    def settings(self) -> Settings:
        """Raises ValueError for a folder that no `score` has begun."""
        stored = _read(self.record)
        try:
            return Settings(**{name: stored[name] for name in Settings.__dataclass_fields__})
        except (KeyError, TypeError):
            raise ValueError(f"{self.folder} holds no evaluation: run liveditor evaluate score first.") from None

    def items(self) -> ItemSet:
        """Raises ItemsError where the items are gone."""
        return read_items(self.settings().items_file)

    def scores(self, item: Item, files: dict[str, str] | None = None) -> dict[str, dict]:
        """{metric: score}; none where `files`, {role: path}, or the item's texts have changed since. None for `files`: whatever is stored."""
        stored = _read(self._scores(item.id)) or {}
        if files is not None:
            inputs, now = stored.get("inputs"), _inputs(item, files)
            # Scores of older editions do not say what was asked.
            if not isinstance(inputs, dict) or {ASKED: now[ASKED], **inputs} != now:
                return {}
        return stored.get("scores", {})

    def store(self, item: Item, files: dict[str, str], scores: dict[str, dict]) -> None:
        _write(self._scores(item.id), {"inputs": _inputs(item, files), "scores": scores})

    def _scores(self, id: str) -> Path:
        return self.folder / "scores" / f"{id}.json"


def edit_of(item: Item, folder: Path | None) -> str | None:
    """Path of the item's edit: the item's own, or what the folder of an editor's results has in the bench's layout, a file or a folder
    of frames; None where it is not there."""
    if folder is None:
        return item.edit if item.edit and os.path.exists(item.edit) else None
    for name in filter(None, (item.result, item.id)):
        for suffix in (".mp4", "", ".webm", ".mov", ".gif"):
            path = folder / f"{name}{suffix}"
            if path.is_file() or (not suffix and path.is_dir() and any(path.iterdir())):
                return str(path)
    return None


def packed(features: dict[str, np.ndarray]) -> dict[str, list[str]]:
    """As a score holds them: a line of text for each row."""
    return {role: [" ".join(f"{value:.7g}" for value in row) for row in rows] for role, rows in features.items()}


def unpacked(features: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """The inverse of `packed`, float64."""
    return {role: np.array([row.split() for row in rows], dtype=np.float64) for role, rows in features.items()}


ASKED = "asked"
"""Among an item's inputs: hash of its texts and facts, and of its pictures' states."""


def _inputs(item: Item, files: dict[str, str]) -> dict[str, list[int] | str]:
    pictures = [_state(Path(path)) for path in item.pictures]
    content = [item.instruction, item.source_prompt, item.target_prompt, item.facts, pictures]
    return {**file_states(files), ASKED: hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]}


def file_states(files: dict[str, str]) -> dict[str, list[int]]:
    """{role: [bytes, time of the last change in ns]} of {role: path}; of a folder, those of its files together."""
    return {role: _state(Path(path)) for role, path in files.items()}


def _state(path: Path) -> list[int]:
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        states = [file.stat() for file in files]
    except OSError:
        return []
    return [sum(state.st_size for state in states), max((state.st_mtime_ns for state in states), default=0)]


def _read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _write(path: Path, content: dict) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
