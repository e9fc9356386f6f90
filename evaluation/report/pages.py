"""The report of a run: report.md, report.json, index.html, and a page for every item with its videos side by side."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from html import escape
from pathlib import Path

import torch

from ...checkpoint.files import replacing
from ...errors import sentence
from ...video.mp4 import write_mp4
from ..benches.bench import Bench
from ..frames import Inputs
from ..items import ALL
from ..metrics.metric import About
from ..records import file_states
from ..results import Results, Scored
from . import tables
from .render import contents, html, markdown, page
from .statistics import estimate

ITEMS = "Items"
FRAMES_AT_A_TIME = 16
SHORTEST = 240
"""Frames lower than this are doubled until they are not, so that small videos can be seen."""


def write_report(
    results: Results,
    metrics: dict[str, About],
    benches: dict[str, Bench],
    against: Results | None = None,
    videos: bool = True,
    inputs_of: Callable[..., Inputs] = Inputs,
    each: Callable[[], object] = lambda: None,
) -> Path:
    """Write report.md, report.json and pages into the run's folder; returns the path of index.html.

    against: a run to compare with, item by item. videos: whether item pages have one; those that are there already are kept.
    each: called after every item.
    """
    folder = results.run.report
    (folder / "items").mkdir(parents=True, exist_ok=True)
    shown = _tables(results, metrics, benches, against)
    title = f"{results.settings.label}: {results.items.name}"
    _write(folder / "report.md", f"# {title}\n\n{_facts(results)}\n\n{markdown(shown)}")
    _write(folder / "report.json", json.dumps(numbers(results, against), indent=1) + "\n")
    for index, one in enumerate(results.scored):
        shown_there = _shown(one, folder, inputs_of) if videos and one.edit else ""
        _write(folder / "items" / f"{one.item.id}.html", _item_page(results, index, shown_there))
        each()
    heading = f"<h1>{escape(title)}</h1><p>{escape(_facts(results))}</p>{contents(shown, ITEMS)}"
    _write(folder / "index.html", page(title, f"{heading}{html(shown)}{_listed(results)}"))
    return folder / "index.html"


def numbers(results: Results, against: Results | None = None) -> dict:
    """What report.json holds: {"run", "items", "means": {task or "all": {column: estimate}}, "fvd": distances of sets}."""
    found = {}
    for task in [None, *results.tasks]:
        values = {column: results.of(column, task) for column in results.columns}
        found[task or ALL] = {name: asdict(estimate([*one.values()])) for name, one in values.items() if one}
    settings = asdict(results.settings)
    kept = {name: settings[name] for name in ("label", "mode", "alignment")}
    return {
        "run": kept,
        "items": results.items.described,
        "means": found,
        "fvd": [one._asdict() for one in tables.distances(results, against)],
    }


def _tables(results: Results, metrics: dict[str, About], benches: dict[str, Bench], against: Results | None):
    bench = benches.get(results.items.bench)
    shown = {*results.columns, *(name for one in results.scored for name in one.features)}
    about = tuple((name, metric.about) for name, metric in metrics.items() if set(metric.names) & shown)
    return [
        *(tables.of_bench(results, bench) if bench else []),
        *([tables.comparison(against, results, metrics)] if against else []),
        *tables.of_sets(results, against),
        *([tables.by_task(results, results.columns)] if len(results.tasks) > 1 else []),
        *tables.means(results),
        tables.coverage(results),
        *tables.judged(results),
        tables.Table("What the columns are", ("metric", "what it is"), about),
        *(tables.published(bench) if bench else []),
    ]


def _facts(results: Results) -> str:
    described, settings = results.items.described, results.settings
    return (
        f"Bench {described['bench']}, set {described['set']} of {described['items']} items "
        f"(sha256 of the list {described['sha256'][:12]}), mode {settings.mode}, source and edit aligned by {settings.alignment}."
    )


def _listed(results: Results) -> str:
    """Every item with its scores, and a link to its page."""
    columns = "".join(f"<th>{escape(column)}</th>" for column in results.columns)
    head = f"<thead><tr><th>item</th><th>task</th><th class='text'>instruction</th>{columns}<th>missing</th></tr></thead>"
    rows = "".join(_row(one, results.columns) for one in results.scored)
    return f'<h2 id="{ITEMS.lower()}">{ITEMS}</h2><div class="wide"><table>{head}<tbody>{rows}</tbody></table></div>'


def _row(one: Scored, columns: Sequence[str]) -> str:
    link = f'<a href="items/{escape(one.item.id)}.html">{escape(one.item.id)}</a>'
    values = "".join(f"<td>{tables.number(one.values.get(column))}</td>" for column in columns)
    text, missing = escape(one.item.instruction[:120]), len(one.missing) or ""
    return f'<tr><td>{link}</td><td>{escape(one.item.task)}</td><td class="text">{text}</td>{values}<td>{missing}</td></tr>\n'


def _item_page(results: Results, index: int, video: str) -> str:
    """video: HTML."""
    one = results.scored[index]
    before, after = (results.scored[at].item.id if 0 <= at < len(results.scored) else None for at in (index - 1, index + 1))
    links = [f'<a href="{escape(id)}.html">{text}</a>' if id else "<span></span>" for id, text in ((before, "←"), (after, "→"))]
    parts = [f'<nav>{links[0]}<a href="../index.html">all items</a>{links[1]}</nav>', f"<h1>{escape(one.item.id)}</h1>"]
    parts.append(
        f"<p>{escape(one.item.instruction)}</p>" + (f'<p class="note">{escape(one.item.task)}</p>' if one.item.task else "")
    )
    parts.append("<p>There is no edit of this item.</p>" if one.edit is None else video)
    rows = tuple((name, tables.number(value)) for name, value in one.values.items())
    shown = [tables.Table("Scores", ("column", "value"), rows)]
    if one.missing:
        shown.append(tables.Table("Missing", ("metric", "reason"), tuple(one.missing.items())))
    parts.append(html(shown))
    for name, words in one.words.items():
        parts.append(f"<h2>{escape(name)}</h2><blockquote>{escape(words)}</blockquote>")
    return page(one.item.id, "\n".join(parts))


def _roles(one: Scored) -> list[str]:
    return ["source", "edit", *(["right edit"] if one.item.reference else [])]


def _shown(one: Scored, folder: Path, inputs_of: Callable[..., Inputs]) -> str:
    """HTML: source, edit and right edit in one video, or why they cannot be shown."""
    try:
        address = _video(one, folder, inputs_of)
    except (ValueError, OSError, RuntimeError) as error:
        return f'<p class="note">The videos cannot be shown: {escape(sentence(error))}</p>'
    roles = "".join(f"<span>{role}</span>" for role in _roles(one))
    return f'<div class="roles">{roles}</div><video src="{escape(address)}" controls loop muted autoplay></video>'


def _video(one: Scored, folder: Path, inputs_of: Callable[..., Inputs]) -> str:
    """Address, from the item's page, of source, edit and right edit in one video. Raises ValueError, OSError or RuntimeError."""
    assert one.edit
    states = file_states({**one.item.files, "edit": one.edit})
    key = hashlib.sha256(repr((one.edit, states)).encode()).hexdigest()[:10]
    videos = folder / "videos"
    path = videos / f"{one.item.id}-{key}.mp4"
    if not path.exists():
        videos.mkdir(exist_ok=True)
        for old in videos.glob(f"{one.item.id}-??????????.mp4"):
            old.unlink()
        inputs = inputs_of(one.item, one.edit)
        shown = [inputs.source, inputs.edit, *([inputs.reference] if one.item.reference else [])]
        write_mp4(path, _beside(shown), Fraction(inputs.fps).limit_denominator(1001) or Fraction(1))
    return f"../videos/{path.name}"


def _beside(videos: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Chunks of [f, H, W, 3] in 0..1: videos of one size beside each other, at a size that H.264 takes."""
    height, width = videos[0].shape[1:3]
    times = 1
    while height * times < SHORTEST or width * times < 2:
        times *= 2
    if times == 1:
        height, width = height - height % 2, width - width % 2
    for parts in zip(*(video[:, :height, :width].split(FRAMES_AT_A_TIME) for video in videos)):
        chunk = torch.cat(parts, dim=2).float() / 255
        yield chunk.repeat_interleave(times, 1).repeat_interleave(times, 2)


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
