"""Stage 2: the edit of a clip's first frame, the best of several."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..editors import best_edit, editor_of
from ..outcomes import Outcome, Work
from ..settings import Settings, StageChoice

TITLE, DEPENDS, USES_MODEL = (
    "target frames",
    ("seed", "frame_editor", "frame_model", "frame_candidates", "width", "height", "steps", "guidance", "cut"),
    True,
)


def rows(kept: list[Outcome], settings: Settings) -> Iterator[tuple[str, Work]]:
    for plan in kept:
        facts = plan.work.facts | {"real": plan.work.video}
        for number, proposal in enumerate(plan.made["proposals"], 1):
            yield f"{plan.id}-{proposal['task']}-{number}", Work(plan.work.video, facts | {"proposal": proposal})


def load(choice: StageChoice):
    settings = choice.settings
    return settings, editor_of(settings.frame_editor, choice, settings.frame_model, 1)


def edit_file(tools, work: Work, output: Path, progress: bool) -> tuple[Path, dict]:
    settings, editor = tools
    return best_edit(editor, settings, work, output, frames=1, candidates=settings.frame_candidates)
