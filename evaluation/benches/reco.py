"""ReCo-Bench (arXiv 2512.17650): 480 edits, 120 each that add, remove, replace and stylise, with nine scores of a judge.

Its lists, names of results and averages are those of its card and of the code that comes with it; the data is CC BY-NC-SA.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from glob import escape
from pathlib import Path

from ...batch.manifest import all_ids
from ..items import Item
from ..results import Scored
from .bench import Bench, LayoutError, exported, mean_of, safe_id

TASKS = ("add", "remove", "replace", "style")
VIDEOS, LISTS = "ori_videos", "configs"
PARTS = {
    "judge_accuracy": "edit accuracy", "judge_naturalness": "video naturalness", "judge_video_quality": "video quality",
}  # fmt: skip
"""{column: the bench's name}: each the cube root of the product of three scores from 0 to 10."""
LETTERS = 80
"""Of the instruction, in the name of an edit."""
REMOVED = str.maketrans({" ": "_", ":": " ", ".": None, ",": None})

KINDS = {
    "add": "add", "remove": "remove", "swap": "replace", "recolour": "replace", "stylise_object": "replace", "background": "replace",
    "style": "style",
}  # fmt: skip
"""{kind of edit of LIVEditor-Bench-mini: the bench's}. It has none for colours, materials and backgrounds: they are with what else takes
something's place."""


def prepare(folder: Path, subset: str | None) -> list[Item]:
    """subset: a task."""
    rows = [(task, *row) for task in TASKS if subset in (None, task) for row in _rows(folder / LISTS / f"{task}.txt")]
    names = all_ids([(None, safe_id(f"{task}_{Path(video).stem}")) for task, video, _, _ in rows])
    return [
        Item(
            name, _video(folder, video), instruction, task=task, bench="reco", result=f"{task}/{edit_name(video, instruction)}",
            pictures=(str(folder / picture),) if picture else (),
        )
        for name, (task, video, instruction, picture) in zip(names, rows)
    ]  # fmt: skip


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """(video, instruction, reference picture or nothing) of each line "VIDEO: INSTRUCTION | PICTURE"."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise LayoutError(
            f"{path} cannot be read ({error}): ReCo-Bench has {', '.join(f'{LISTS}/{task}.txt' for task in TASKS)}."
        ) from None
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            video, _, rest = line.partition(":")
            instruction, _, picture = (part.strip() for part in rest.partition("|"))
            if not (video.strip() and instruction):
                raise LayoutError(f"{path.name}, line {number}: this is not VIDEO: INSTRUCTION.")
            yield video.strip(), instruction, picture


def _video(folder: Path, name: str) -> str:
    usual = folder / VIDEOS / name
    return str(usual if usual.is_file() else next(folder.rglob(escape(Path(name).name)), usual))


def edit_name(video: str, instruction: str) -> str:
    """As the bench's code looks for an edit, without ending."""
    return f"{video.removesuffix('.mp4')}_{instruction.translate(REMOVED)[:LETTERS]}"


def export(folder: Path, items: Sequence[Item]) -> None:
    lines: dict[str, list[str]] = {task: [] for task in TASKS}
    for item in items:
        kind = KINDS.get(item.task, item.task)
        if kind not in lines:
            raise LayoutError(f"{item.id} is of the kind {item.task!r}: ReCo-Bench has {', '.join(TASKS)}.")
        if "|" in item.instruction or len(item.instruction.splitlines()) != 1:
            raise LayoutError(f"{item.id}: the bench's layout has no place for an instruction with | or of several lines.")
        lines[kind].append(f"{exported(item, folder / VIDEOS).name}: {item.instruction}")
    (folder / LISTS).mkdir(parents=True)
    for task, listed in lines.items():
        (folder / LISTS / f"{task}.txt").write_text("".join(f"{line}\n" for line in listed), encoding="utf-8")


def aggregate(scored: Sequence[Scored], mode: str) -> dict[str, float]:
    """{task and part: mean over its items}, and S, the mean of the three parts; items whose judge failed are left out."""
    found = {}
    for task in TASKS:
        inside = [one for one in scored if one.item.task == task and all(part in one.values for part in PARTS)]
        means = {name: mean_of(inside, part) for part, name in PARTS.items()}
        values = [value for value in means.values() if value is not None]
        if values:
            found |= {f"{task}: {name}": value for name, value in zip(means, values)}
            found[f"{task}: S"] = sum(values) / len(values)
    return found


BENCH = Bench(
    "reco",
    "ReCo-Bench",
    f"{LISTS}/add.txt, remove.txt, replace.txt, style.txt beside {VIDEOS}/; results as TASK/VIDEO_INSTRUCTION.mp4",
    prepare,
    aggregate,
    subsets=TASKS,
    export=export,
    notes=("Published rows are scores of Gemini 2.5 Flash Thinking, which was asked in other words.",),
)
