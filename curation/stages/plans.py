"""Stage 1: which edits of a clip are tried, and how they are said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..outcomes import Outcome, Work
from ..planners import OWN, Proposals
from ..planners.vlm import questions
from ..plugins import module_of
from ..settings import About, Settings, StageChoice

ABOUT = About(
    "plans",
    ("seed", "proposals", "shares", "planner", "variants"),
    questions=lambda settings: questions(settings) if settings.planner == "vlm" else 0,
    reads=("caption",),
)


def rows(kept: list[Outcome], settings: Settings) -> Iterator[tuple[str, Work]]:
    for clip in kept:
        assert clip.file
        yield clip.id, Work(clip.file, clip.work.facts | {"clip": clip.id})


def load(choice: StageChoice):
    """The planner: a function of settings and work that returns proposals, as `planners.rules.propose`.

    Raises ValueError, a sentence, where the planner's VLM is neither at an address nor in a folder.
    """
    if choice.settings.planner == "vlm":
        _ = choice.settings.vlm  # raises it
    return choice.settings, module_of(choice.settings.planner, "planners", OWN).propose


def edit_file(tools, work: Work, output: Path, progress: bool) -> tuple[None, dict]:
    settings, propose = tools
    proposals = propose(settings, work)
    asked = {"judge": proposals.cost._asdict()} if isinstance(proposals, Proposals) else {}
    return None, {"scores": {"proposals": len(proposals)}, "proposals": proposals, **asked}
