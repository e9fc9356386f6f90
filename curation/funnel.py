"""What became of everything: for each stage in, out, reasons and seconds; and the pairs that came out, as records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ..evaluation.judge.cost import Cost
from .flow import STAGES, Flow
from .outcomes import DONE, QUARANTINED, WAITING, Outcome
from .records import Pair
from .stages.triplets import directed

PAIR_STAGES = ("frames", "frame_verdicts", "videos", "video_verdicts", "triplets")
"""Whose rows are pairs."""


@dataclass(frozen=True)
class Count:
    """One stage. entered: rows; kept, rejected, quarantined and waiting add up to it. reasons: {reason: rejected}, the most first.

    unmeasured: {gate: rows whose score is not there}. seconds: of work on the rows that are done.
    """

    stage: str
    title: str
    entered: int
    kept: int
    rejected: int
    quarantined: int
    waiting: int
    reasons: dict[str, int]
    unmeasured: dict[str, int]
    seconds: float

    @property
    def rate(self) -> float | None:
        """Kept of those that are done."""
        done = self.kept + self.rejected
        return self.kept / done if done else None


def counts(flow: Flow) -> list[Count]:
    """One for each stage, in their order."""
    return [_count(stage, flow.outcomes(stage)) for stage in flow.stages]


def _count(stage: str, outcomes: list[Outcome]) -> Count:
    status = Counter(one.status for one in outcomes)
    kept = sum(one.is_kept for one in outcomes)
    reasons = Counter(one.reason for one in outcomes if one.status == DONE and not one.is_kept)
    unmeasured = Counter(gate for one in outcomes if one.status == DONE for gate in one.verdict.unmeasured)
    return Count(
        stage, STAGES[stage].ABOUT.title, len(outcomes), kept, status[DONE] - kept, status[QUARANTINED], status[WAITING],
        dict(reasons.most_common()), dict(unmeasured), round(sum(one.seconds for one in outcomes), 3),
    )  # fmt: skip


def judge_costs(flow: Flow) -> dict[str, list[Cost]]:
    """{stage: what the VLM's answers took, one for each row that has any}."""
    took = {stage: [one.made["judge"] for one in flow.outcomes(stage) if "judge" in one.made] for stage in flow.stages}
    return {stage: [Cost(**each) for each in of] for stage, of in took.items() if of}


def pairs(flow: Flow) -> Iterator[Pair]:
    """A record of every pair that was tried: accepted ones, and those that a stage has rejected or given up, with all their scores."""
    reached: dict[str, dict[str, Outcome]] = {}
    for stage in filter(PAIR_STAGES.__contains__, flow.stages):
        for one in flow.outcomes(stage):
            reached.setdefault(one.id, {})[stage] = one
    for id, stages in reached.items():
        last = [*stages.values()][-1]
        if last.status == WAITING:
            continue
        yield _pair(flow, id, stages, last)


def _pair(flow: Flow, id: str, stages: dict[str, Outcome], last: Outcome) -> Pair:
    facts, proposal, settings = last.work.facts, last.work.facts["proposal"], flow.settings
    video = stages.get("videos")
    synthetic = video.file if video else None
    ends = directed({**facts, "synthetic": synthetic}, settings)
    accepted = "triplets" in stages and last.is_kept
    triplet = stages.get("triplets")
    return Pair(
        id=id,
        parent=facts["clip"],
        task=ends["task"],
        instruction=ends["instruction"],
        instructions=tuple(ends["instructions"]),
        context=ends["context"],
        target=ends["target"],
        latents=triplet.file if triplet else None,
        fps=settings.fps,
        frames=settings.frames,
        width=settings.width,
        height=settings.height,
        direction=settings.direction,
        source={**facts["source"], "span": facts["span"]},
        prompts={"edit": proposal["instruction"], "edit_task": proposal["task"]}
        | ({"target": proposal["target"]} if "target" in proposal else {}),
        models=({"plans": proposal["model"]} if "model" in proposal else {})
        | {stage: one.made["model"] for stage, one in stages.items() if "model" in one.made},
        seeds={stage: one.made["seed"] for stage, one in stages.items() if "seed" in one.made},
        scores={stage: one.scores for stage, one in stages.items() if one.scores},
        seconds={stage: one.seconds for stage, one in stages.items()},
        status="accepted" if accepted else "rejected",
        reason="" if accepted else last.why or last.reason,
        gate="" if accepted or not last.verdict.gate else last.verdict.gate.name,
    )
