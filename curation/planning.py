"""What a run will cost and what will survive, before it is made: from the records of a run so far, else from published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ..evaluation.judge.cost import Cost
from ..video.geometry import latent_shape
from .flow import STAGES
from .funnel import Count
from .settings import Settings

PUBLISHED: dict[str, tuple[float, float, str]] = {
    "shots": (1.0, 0.0, "no gate that anybody has published a rate of"),
    "clips": (1.0, 0.0, "no gate that anybody has published a rate of"),
    "plans": (1.0, 0.0, "no gate that anybody has published a rate of"),
    "frames": (0.89, 0.0, "VideoX-Qwen: 89 % pass a VLM's reject list"),
    "frame_verdicts": (1.0, 0.0, "no gate that anybody has published a rate of"),
    "videos": (0.378, 1044.0, "EgoEditData: 37.8 % of VACE-14B's edits kept; Ditto: 290 GPU-hours for 1,000 clips"),
    "video_verdicts": (0.413, 0.0, "SAMA's gate: 206,596 of ReCo-Data's 500,000 kept"),
    "triplets": (1.0, 0.0, "everything is kept"),
}
"""{stage: (share kept, GPU-seconds an edit, source)}: where a run has no records of its own. Papers give seconds of the whole only, which
stand at the stage that takes most of them."""

LEAST = 20
"""Rows of a stage that have to be done before its own rate and seconds are taken."""


@dataclass(frozen=True)
class Estimate:
    """rows in, rows kept, seconds of one worker. source: of rate and seconds.

    questions: to the VLM. tokens: of their answers, prompts included; None where that is not known.
    """

    stage: str
    rows: float
    kept: float
    seconds: float
    source: str
    questions: float = 0.0
    tokens: float | None = 0.0


def estimates(
    counts: Sequence[Count], rows: float, settings: Settings, asked: Mapping[str, Sequence[Cost]] | None = None
) -> list[Estimate]:
    """counts, asked: of a run so far, as `funnel.counts` and `funnel.judge_costs`. rows: of the stage `clips`, which the plan begins with."""
    found = []
    of = {count.stage: count for count in counts}
    candidates = {"frames": settings.frame_candidates, "videos": settings.video_candidates}
    for count in counts:
        if count.stage == "shots":
            continue
        if count.stage == "frames":
            planned = of["plans"].kept if "plans" in of else 0
            rows *= count.entered / planned if planned >= LEAST else settings.proposals
        done = count.kept + count.rejected
        if done >= LEAST:
            rate, each, source = count.kept / (done + count.quarantined), count.seconds / done, f"this run, {done} rows"
        else:
            rate, each, source = PUBLISHED[count.stage]
            each *= candidates.get(count.stage, 1)
        questions, tokens = _asked(count.stage, rows, settings, (asked or {}).get(count.stage, ()))
        found.append(Estimate(count.stage, rows, rows * rate, rows * each, source, questions, tokens))
        rows *= rate
    return found


def _asked(stage: str, rows: float, settings: Settings, took: Sequence[Cost]) -> tuple[float, float | None]:
    """Questions to the VLM and their tokens, for so many rows."""
    expected = STAGES[stage].ABOUT.questions(settings)
    if not expected:
        return 0.0, 0.0
    if len(took) < LEAST:
        return rows * expected, None
    questions, _, tokens, _ = map(sum, zip(*took))
    # A server that counts no tokens tells none.
    return rows * questions / len(took), rows * tokens / len(took) or None


def latent_bytes(settings: Settings) -> int:
    """Of one triplet: two clips of Wan's latents, 16 channels of a frame in four and of 8 by 8 pixels, in bf16."""
    return 2 * 2 * 16 * prod(latent_shape(settings.frames, settings.width, settings.height))


def told(found: Sequence[Estimate]) -> list[str]:
    """Lines for a terminal; questions and tokens where a VLM is asked."""
    asks = any(one.questions for one in found)
    more = f"{'questions':>12}{'tokens':>16}" if asks else ""
    lines = [f"{'stage':<15}{'rows':>12}{'kept':>12}{'worker hours':>15}{more}  source"]
    for one in found:
        tokens = "unknown" if one.tokens is None else f"{one.tokens:,.0f}"
        more = f"{one.questions:>12,.0f}{tokens:>16}" if asks else ""
        lines.append(f"{one.stage:<15}{one.rows:>12,.0f}{one.kept:>12,.0f}{one.seconds / 3600:>15,.1f}{more}  {one.source}")
    lines.append(f"{found[-1].kept:,.0f} pairs for {sum(one.seconds for one in found) / 3600:,.1f} worker hours.")
    return lines
