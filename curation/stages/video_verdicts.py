"""A VLM's verdict on the edited video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..outcomes import Outcome, Work
from ..settings import Settings, StageChoice
from ..verdicts import judge, judged

TITLE, DEPENDS, USES_MODEL = "verdicts on videos", ("vlm_model",), False


def rows(kept: list[Outcome], settings: Settings) -> Iterator[tuple[str, Work]]:
    for edit in kept:
        yield edit.id, Work(edit.edit, edit.work.facts | {"edit": edit.edit})


def load(choice: StageChoice):
    return judge(choice)


def edit_file(tools, work: Work, output: Path, progress: bool) -> tuple[None, dict]:
    return judged(tools, work)
