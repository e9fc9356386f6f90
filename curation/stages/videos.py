"""Stage 3: the edit of the whole clip, the best of several."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .. import objects
from ..editors import best_edit, editor_of
from ..outcomes import Outcome, Work
from ..settings import About, Settings, StageChoice

ABOUT = About(
    "target videos",
    (
        "seed", "frames", "video_editor", "video_model", "depth_model", "pose_model", "detector_model", "grounding_model", "mask_model",
        "video_candidates", "width", "height", "steps", "guidance", "cut",
    ),
    uses_model=True,
)  # fmt: skip


def rows(kept: list[Outcome], settings: Settings) -> Iterator[tuple[str, Work]]:
    for frame in kept:
        # By its size a frame that was made anew is known.
        yield (
            frame.id,
            Work(frame.work.facts["real"], frame.facts | {"target_frame": frame.edit, "target_bytes": frame.edit_bytes}),
        )


def load(choice: StageChoice):
    """Raises RuntimeError, a sentence, where a detector is not there."""
    settings = choice.settings
    detectors = objects.detectors_of(settings)
    return settings, editor_of(settings.video_editor, choice, settings.video_model, settings.frames), detectors


def edit_file(tools, work: Work, output: Path, progress: bool) -> tuple[Path, dict]:
    settings, editor, detectors = tools
    more = partial(objects.scores, detectors, proposal=work.facts["proposal"])
    return best_edit(editor, settings, work, output, "videos", settings.video_candidates, more)
