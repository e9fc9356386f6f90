"""The order of the stages. Each is a job of the batch engine over what the stage before has kept, in a folder of its own.

    sources.jsonl, settings.json      what the run is of
    1-shots/ … 8-triplets/            folders of batch jobs: records with all scores, quarantine, files

A stage's rows follow from the records before it and from the gates, so that nothing else has to be stored: after a kill, a second
run or with other gates, each stage does what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ..batch import cluster, job
from ..batch.manifest import Clip
from ..batch.results import Results
from ..pipelines.request import ModelChoice
from . import duplicates
from .gates import GATES, Gate, Verdict, of_stage, verdict
from .outcomes import DONE, QUARANTINED, WAITING, Outcome, Work
from .settings import Settings, StageChoice
from .sources import Source, fingerprint
from .stages import clips, frame_verdicts, frames, plans, shots, triplets, video_verdicts, videos

STAGES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (shots, clips, plans, frames, frame_verdicts, videos, video_verdicts, triplets)
}

NONE, CHEAP, ALL = HERE = "none", "cheap", "all"


@dataclass(frozen=True)
class Where:
    """Where a run works. here: which stages run in this process, without Ray: none, those without a model, or all; the rest as in
    `batch.job.run`. In this process a clip that crashes a decoder ends the run."""

    here: str = NONE
    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float = 1.0
    progress: bool = True


class Flow:
    """folder: of the run. Construction changes nothing on disk; outcomes are read once and kept."""

    def __init__(self, folder: Path, sources: Sequence[Source], settings: Settings, gates: Sequence[Gate] = GATES):
        self.folder, self.sources, self.settings = folder.resolve(), [*sources], settings
        self.gates = duplicates.applicable(gates, settings.duplicate_features)
        self._outcomes: dict[str, list[Outcome]] = {}

    @property
    def stages(self) -> list[str]:
        """Names of this run's, in their order."""
        return [stage for stage, module in STAGES.items() if self.settings.vlm_model or not module.ABOUT.only_asks]

    def _before(self, stage: str) -> str | None:
        """The stage whose outcomes are this one's rows; None for the first."""
        order = self.stages
        return order[order.index(stage) - 1] if stage != order[0] else None

    def stage_folder(self, stage: str) -> Path:
        return self.folder / f"{[*STAGES].index(stage) + 1}-{stage}"

    def rows(self, stage: str) -> list[Clip]:
        """Of the batch job: what the stage before has kept."""
        before = self._before(stage)
        if before is None:
            works: Iterator[tuple[str, Work]] = shots.first_rows(self.sources)
        else:
            works = STAGES[stage].rows([one for one in self.outcomes(before) if one.is_kept], self.settings)
        return [Clip(id, line, work, fingerprint(self._asked(stage, work))) for line, (id, work) in enumerate(works, 1)]

    def outcomes(self, stage: str) -> list[Outcome]:
        """One for every row, those that wait included."""
        if stage not in self._outcomes:
            results, gates = Results(self.stage_folder(stage)), of_stage(self.gates, stage)
            found = (_outcome(row, results, gates) for row in self.rows(stage))
            self._outcomes[stage] = [*(duplicates.scored(found, gates) if stage == "clips" else found)]
        return self._outcomes[stage]

    def choice(self, stage: str, model: ModelChoice) -> StageChoice:
        about = STAGES[stage].ABOUT
        holds_vlm = self.settings.has_local_vlm and about.questions(self.settings) > 0
        return StageChoice(self.settings, model, about.depends, about.uses_model, holds_vlm)

    def run(
        self, model: ModelChoice, where: Where = Where(), retry_quarantined: bool = False, until: str = "triplets",
        each: Callable[[str, job.Summary], object] = lambda stage, summary: None,
    ) -> dict[str, job.Summary]:  # fmt: skip
        """Do what is missing, stage by stage. Raises JobError in one sentence where a stage cannot begin or go on.

        until: the last stage. each: called after every stage.
        """
        summaries = {}
        with ExitStack() as stack:
            order = [*STAGES]
            for stage in filter(order[: order.index(until) + 1].__contains__, self.stages):
                self._outcomes.pop(stage, None)
                rows, choice = self.rows(stage), self.choice(stage, model)
                # Of the stages behind, the rows hold what is still needed.
                self._outcomes = {name: of for name, of in self._outcomes.items() if name == self._before(stage)}
                if not rows:
                    break
                here = where.here == ALL or (where.here == CHEAP and choice.is_cheap)
                planned = job.plan(rows, Results(self.stage_folder(stage)), retry_quarantined)
                if (planned.pending or planned.changed) and not here:
                    # One Ray for all stages; none where nothing is to be done.
                    stack.enter_context(cluster.connected(where.address))
                summaries[stage] = job.run(
                    rows, choice, self.stage_folder(stage), where.address, where.workers, where.gpus_per_worker,
                    retry_quarantined, redo_changed=True, progress=where.progress, editor=STAGES[stage].__name__, here=here,
                )  # fmt: skip
                each(stage, summaries[stage])
        return summaries

    def _asked(self, stage: str, work: Work) -> dict:
        """What the stage's work depends on, and is done again for: of where a video comes from only what the stage reads. The engine looks
        at the size of the work's own video."""
        reads = STAGES[stage].ABOUT.reads
        facts = work.facts | {"source": {name: work.facts["source"].get(name, "") for name in reads}}
        return {"video": _within(work.video, self.folder), **self._portable(facts)}

    def _portable(self, facts: dict) -> dict:
        """Paths within the run's folder relative to it, so that the whole folder may be moved."""
        text = json.dumps(facts, sort_keys=True)
        return json.loads(text.replace(json.dumps(str(self.folder))[1:-1] + "/", ""))


def _within(path: str, folder: Path) -> str:
    """Of a raw video, which lies elsewhere, the name alone: it may be moved too. The engine looks at its size."""
    return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else Path(path).name


def _outcome(row: Clip, results: Results, gates: list[Gate]) -> Outcome:
    work = row.edit
    assert isinstance(work, Work)
    if (record := results.record(row.id)) and record["fingerprint"] == row.fingerprint:
        made = record["run"]
        file = made.get("file")
        whole = str(results.folder / file) if file else None
        return Outcome(row.id, work, DONE, verdict(made.get("scores", {}), gates), whole, made, record["seconds"])
    if (why := results.quarantined(row.id)) and why["fingerprint"] == row.fingerprint:
        return Outcome(row.id, work, QUARANTINED, Verdict(None), why=why["reason"])
    return Outcome(row.id, work, WAITING, Verdict(None))
