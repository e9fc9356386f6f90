"""Stage 2: the edit of a clip's first frame, the best of several."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...evaluation.metrics.features import ready
from ...evaluation.metrics.preference import model_of, preference
from .. import objects
from ..editors import best_edit, editor_of
from ..outcomes import Outcome, Work
from ..settings import About, Settings, StageChoice

ABOUT = About(
    "target frames",
    (
        "seed", "frame_editor", "frame_model", "preference_model", "detector_model", "grounding_model", "mask_model",
        "frame_candidates", "width", "height", "steps", "guidance", "cut",
    ),
    uses_model=True,
)  # fmt: skip


def rows(kept: list[Outcome], settings: Settings) -> Iterator[tuple[str, Work]]:
    for plan in kept:
        facts = plan.work.facts | {"real": plan.work.video}
        for number, proposal in enumerate(plan.made["proposals"], 1):
            yield f"{plan.id}-{proposal['task']}-{number}", Work(plan.work.video, facts | {"proposal": proposal})


def load(choice: StageChoice):
    """Raises RuntimeError, a sentence, where the preference model or a detector is not there."""
    settings = choice.settings
    liked = model_of(settings.preference_model) if settings.preference_model else None
    if liked:
        ready(liked)
    detectors = objects.detectors_of(settings)
    return settings, editor_of(settings.frame_editor, choice, settings.frame_model, 1), liked, detectors


def edit_file(tools, work: Work, output: Path, progress: bool) -> tuple[Path, dict]:
    settings, editor, liked, detectors = tools
    proposal = work.facts["proposal"]

    def more(source, edit) -> dict:
        found = objects.scores(detectors, source, edit, proposal)
        if liked and (description := proposal.get("target")):
            found["preference"] = preference(liked, edit, description)
        return found

    return best_edit(editor, settings, work, output, "frames", settings.frame_candidates, more)
