"""What goes into a stage, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .gates import Verdict


@dataclass(frozen=True)
class Work:
    """One row of a stage. video: the file that it begins with. facts: all else that it is told, also of the stages before; of JSON."""

    video: str
    facts: dict[str, Any] = field(default_factory=dict)


WAITING, DONE, QUARANTINED = "waiting", "done", "quarantined"


@dataclass(frozen=True)
class Outcome:
    """What became of one row. file: what the stage made, None if nothing. made: its facts. why: of a quarantine, in one sentence."""

    id: str
    work: Work
    status: str
    verdict: Verdict
    file: str | None = None
    made: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    why: str = ""

    @property
    def edit(self) -> str:
        """The edited frame or video that the stage made, or was asked about."""
        return self.file or self.work.facts["edit"]

    @property
    def edit_bytes(self) -> int | None:
        """Its size as its record has it; None in those of earlier versions. The file itself may be gone."""
        return self.made.get("bytes", self.work.facts.get("edit_bytes"))

    @property
    def facts(self) -> dict[str, Any]:
        """Of the row, without those of the edit that it was asked about."""
        return {name: value for name, value in self.work.facts.items() if name not in ("edit", "edit_bytes")}

    @property
    def scores(self) -> dict[str, float]:
        return self.made.get("scores", {})

    @property
    def is_kept(self) -> bool:
        return self.status == DONE and self.verdict.is_kept

    @property
    def reason(self) -> str:
        """Why it is not kept; empty if it is, or waits."""
        return self.verdict.reason if self.status == DONE else "failed" if self.status == QUARANTINED else ""
