"""A page that one can look at: the funnel, the reasons, the tasks, and samples of what was kept and rejected, side by side."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from html import escape
from pathlib import Path

import torch

from ..checkpoint.files import replacing
from ..evaluation.judge import cost
from ..evaluation.report.render import html, markdown, page
from ..evaluation.report.tables import Table
from ..video.mp4 import write_mp4
from . import funnel
from .flow import STAGES, Flow
from .measure import read_frames
from .records import ACCEPTED, Pair, write_pairs

SAMPLES = 6
"""Pairs shown of each kind: accepted ones, and those of each reason."""

CARDS = """<style>
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1.5rem }
</style>"""
"""Samples beside each other, as many as there is room for."""

PLAYED = (
    'autoplay loop muted playsinline title="A click stops it or goes on." onclick="this.paused ? this.play() : this.pause()"'
)
"""Without controls, which would cover a small picture."""

SHORTEST = 160
"""Frames lower than this are doubled until they are not."""


def write_report(flow: Flow, samples: int = SAMPLES) -> Path:
    """Write pairs.jsonl, report.json, report.md and index.html with its samples into the run's folder; returns the page's path.

    samples: how many of each kind. What was made for an earlier report and is the same stays.
    """
    counts, pairs = funnel.counts(flow), [*funnel.pairs(flow)]
    write_pairs(flow.folder / "pairs.jsonl", pairs)
    outcome, bounds = _tables(flow, counts, pairs), _gate_tables(flow, counts)
    title = f"Data run {flow.folder.name}"
    numbers = {"funnel": [{**asdict(count), "rate": count.rate} for count in counts], "tasks": _tasks(flow, pairs)}
    numbers["gates"] = [asdict(gate) for gate in flow.gates]
    _write(flow.folder / "report.json", json.dumps(numbers, indent=1) + "\n")
    _write(flow.folder / "report.md", f"# {title}\n\n{markdown(outcome + bounds)}")
    body = [CARDS, f"<h1>{escape(title)}</h1>", html(outcome)]
    for heading, chosen in _sampled(pairs, samples):
        cards = "".join(_sample(flow, pair) for pair in chosen)
        body.append(f'<h2>{escape(heading)}</h2><div class="samples">{cards}</div>')
    body.append(html(bounds))
    path = flow.folder / "index.html"
    _write(path, page(title, "\n".join(body)))
    return path


def _tables(flow: Flow, counts: Sequence[funnel.Count], pairs: Sequence[Pair]) -> list[Table]:
    header = ("stage", "in", "kept", "rejected", "failed", "waiting", "kept of done", "seconds each")
    rows = []
    for count in counts:
        done = count.kept + count.rejected
        rate = "" if count.rate is None else f"{100 * count.rate:.0f} %"
        each = f"{count.seconds / done:.2f}" if done else ""
        numbers = (count.entered, count.kept, count.rejected, count.quarantined, count.waiting)
        rows.append((count.title, *map(str, numbers), rate, each))
    reasons = [(count.title, reason, str(number)) for count in counts for reason, number in count.reasons.items()]
    tasks = [
        (task, _percent(row["share"]), str(row["tried"]), str(row["accepted"]), _percent(row["share_of_accepted"]))
        for task, row in _tasks(flow, pairs).items()
    ]
    costs = [(STAGES[stage].ABOUT.title, *cost.table_row(took)) for stage, took in funnel.judge_costs(flow).items()]
    return [
        Table(
            "Funnel",
            header,
            tuple(rows),
            ("A plan has several pairs, so that more enter the target frames than plans were kept.",),
        ),
        Table(
            "Why rows were rejected",
            ("stage", "reason", "rows"),
            tuple(reasons),
            ("The first gate that fails names the reason.",),
        ),
        Table(
            "Tasks of the edits",
            ("task", "share set", "tried", "accepted", "of the accepted"),
            tuple(tasks),
            ("A planner tries the tasks that it can do. Gates do not reject all tasks alike.",),
        ),
        *([Table("What the VLM's answers took", ("stage", *cost.COLUMNS), tuple(costs), (cost.NOTE,))] if costs else []),
    ]


def _gate_tables(flow: Flow, counts: Sequence[funnel.Count]) -> list[Table]:
    """Of the stages that this run has."""
    gates = [
        (gate.name, gate.stage, gate.score, _bound(gate.least), _bound(gate.most), gate.source)
        for gate in flow.gates
        if gate.is_on and gate.stage in flow.stages
    ]
    missing = [(count.title, gate, str(number)) for count in counts for gate, number in count.unmeasured.items()]
    return [
        Table("Gates", ("gate", "stage", "score", "least", "most", "source"), tuple(gates)),
        Table("Not measured", ("stage", "gate", "rows"), tuple(missing), ("A gate without its score rejects nothing.",)),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _bound(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _tasks(flow: Flow, pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """{the edit's task: {"share" of the settings, "tried", "accepted", "share_of_accepted"}}; the shares add up to 1."""
    shares, whole = flow.settings.shares, sum(flow.settings.shares.values())
    tried = Counter(pair.prompts.get("edit_task", pair.task) for pair in pairs)
    accepted = Counter(pair.prompts.get("edit_task", pair.task) for pair in pairs if pair.status == ACCEPTED)
    return {
        task: {
            "share": shares.get(task, 0.0) / whole,
            "tried": tried[task],
            "accepted": accepted[task],
            "share_of_accepted": accepted[task] / max(1, accepted.total()),
        }
        for task in dict.fromkeys([*(task for task, _ in tried.most_common()), *shares])
    }


def _sampled(pairs: Sequence[Pair], samples: int) -> list[tuple[str, list[Pair]]]:
    """Headings with pairs, spread evenly over the run."""
    kinds: dict[str, list[Pair]] = {"Accepted": []}
    for pair in pairs:
        rejected = f"Rejected: {pair.reason}" if pair.gate else "Failed"
        kinds.setdefault("Accepted" if pair.status == ACCEPTED else rejected, []).append(pair)
    return [(f"{kind} ({len(of)})", of[:: max(1, len(of) // max(1, samples))][:samples]) for kind, of in kinds.items() if of]


def _sample(flow: Flow, pair: Pair) -> str:
    shown = _side_by_side(flow, pair)
    roles = (
        "<span>context</span><span>target</span>"
        if pair.context and pair.target
        else "<span>clip</span><span>edited frame</span>"
    )
    video = f'<div class="roles">{roles}</div><video src="{escape(shown)}" {PLAYED}></video>' if shown else ""
    scores = "".join(
        f'<p class="note">{escape(STAGES[stage].ABOUT.title)}: {escape(_scores(of))}</p>' for stage, of in pair.scores.items()
    )
    made = f'<p class="note">{escape(pair.id)}, made by: {escape(pair.prompts.get("edit", ""))}</p>'
    return f"<div><p><b>{escape(pair.instruction)}</b></p>{video}{made}{scores}</div>"


def _scores(of: dict) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in of.items() if isinstance(value, (int, float)))


def _side_by_side(flow: Flow, pair: Pair) -> str | None:
    """Address of a video with context and target beside each other; of a pair without video, the clip and its edited frame."""
    frame = next((one.file for one in flow.outcomes("frames") if one.id == pair.id), None)
    files = [file for file in (pair.context, pair.target) if file] if pair.context and pair.target else []
    files = files or [file for file in (pair.context or pair.target, frame) if file]
    if len(files) < 2:
        return None
    stamp = hashlib.sha256(repr([(file, Path(file).stat().st_mtime_ns) for file in files]).encode()).hexdigest()[:10]
    path = flow.folder / "samples" / f"{pair.id}-{stamp}.mp4"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        videos = [read_frames(file) for file in files]
        length = max(map(len, videos))
        beside = torch.cat([torch.cat([video, video[-1:].expand(length - len(video), -1, -1, -1)]) for video in videos], 2)
        while beside.shape[1] < SHORTEST:
            beside = beside.repeat_interleave(2, 1).repeat_interleave(2, 2)
        write_mp4(path, [beside.float() / 255], Fraction(pair.fps).limit_denominator(1000))
    return f"samples/{path.name}"


def _write(path: Path, content: str) -> None:
    with replacing(path) as partial:
        partial.write_text(content, encoding="utf-8")
