"""What a run's folder says of itself: sources, settings and bounds. The stages' own folders lie beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..batch import job
from ..batch.results import Results
from ..pipelines.request import ModelChoice
from .flow import STAGES, Flow
from .gates import GATES, Gate, moved, read_changes, write_bounds
from .settings import Settings, read_settings, write_settings
from .sources import read_sources, write_sources

SOURCES, SETTINGS, BOUNDS = "sources.jsonl", "settings.json", "gates.json"


def stored_settings(folder: Path) -> Settings:
    """Those of the run, the usual ones where it has not begun."""
    return read_settings(folder / SETTINGS) if (folder / SETTINGS).exists() else Settings()


def stored_gates(folder: Path) -> tuple[Gate, ...]:
    """Those of the run, the usual ones where it has not begun."""
    return moved(read_changes(folder / BOUNDS)) if (folder / BOUNDS).exists() else GATES


def begin(flow: Flow, model: ModelChoice) -> None:
    """Store what the run is of. Raises JobError, and changes nothing, where a stage was made with other settings."""
    for stage in flow.stages:
        Results(flow.stage_folder(stage)).check(job.settings_of(flow.choice(stage, model), STAGES[stage].__name__))
    flow.folder.mkdir(parents=True, exist_ok=True)
    write_sources(flow.folder / SOURCES, flow.sources)
    write_settings(flow.folder / SETTINGS, flow.settings.absolute())  # the next command may be given elsewhere
    write_bounds(flow.folder / BOUNDS, flow.gates)


def opened(folder: Path, gates: Sequence[Gate] | None = None) -> Flow:
    """The run in a folder; gates: others than its own. Raises ValueError in one sentence where there is none."""
    if not (folder / SETTINGS).exists():
        raise ValueError(f"{folder} holds no data run: start one with liveditor data run.")
    return Flow(folder, read_sources(folder / SOURCES), stored_settings(folder), gates or stored_gates(folder))
