"""LIVEditor-Bench-mini: edits whose right answer is known exactly, drawn when they are asked for. Nothing is fetched.

Drawn clips are of `data.procedural`'s held-out split, which the included editor was never trained on. Real clips are the sample that
comes with the pack, with edits by rule: styles, a recoloured region, something pasted or erased.

The benches of others export its items in their layouts (`liveditor evaluate export`), so that the whole way through each can be tried.

Sources are written as video first and read again; the right edit, frames as PNG, is made of what was read. So it is the source, bit by bit,
outside of the mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from ...video.geometry import fit_frames
from ...video.mp4 import write_mp4
from ..frames import Inputs, read_video, to_bytes
from ..items import Item
from ..metrics.metric import Metric
from ..results import Scored
from .bench import Bench, LayoutError, mean_of

if TYPE_CHECKING:
    from ...data.procedural.scenes import Thing

FRAMES, SIDE = 9, 128
DRAWN = {"quick": 1, "usual": 3}
"""{subset: drawn clips of each task}."""
STYLES = ("black and white", "night", "sunset", "pencil sketch")
SAMPLE = Path(__file__).resolve().parents[2] / "web/liveditor_sample.mp4"
SHOWN = "a big grey rabbit in its burrow in a green meadow"
"""In the sample."""
RATE = Fraction(16)
LEAST_LOSS = 1
"""crf of the sources."""

COLUMNS = {
    "psnr_reference": "PSNR to the right edit", "psnr_reference_inside": "within the region", "psnr_source_outside": "outside, to the source",
    "ssim_reference": "SSIM to the right edit", "mini_progress": "progress", "flicker_added": "flicker added",
}  # fmt: skip


class Drawn(NamedTuple):
    """source, edited: [T, H, W, 3] in 0..1. region: [T, H, W] bool. before, after: descriptions."""

    name: str
    task: str
    instruction: str
    source: torch.Tensor
    edited: torch.Tensor
    region: torch.Tensor
    before: str
    after: str


def prepare(folder: Path, subset: str | None) -> list[Item]:
    """Draw all items into the folder, those that are there already left as they are."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LayoutError(f"{folder} cannot be made ({error.strerror}): name another folder.") from None
    return [_written(folder, clip) for clip in (*_drawn(DRAWN[subset or "usual"]), *_real())]


def _written(folder: Path, clip: Drawn) -> Item:
    source, reference, mask = folder / f"{clip.name}.mp4", folder / f"{clip.name}-right", folder / f"{clip.name}-mask"
    item = Item(
        clip.name, str(source), clip.instruction, reference=str(reference), mask=str(mask), task=clip.task, bench="mini",
        source_prompt=clip.before, target_prompt=clip.after,
    )  # fmt: skip
    if len(_pictures(mask)) == FRAMES:  # the last that is written
        return item
    source.unlink(missing_ok=True)
    write_mp4(source, [clip.source], RATE, LEAST_LOSS)
    seen = read_video(str(source)).frames
    save_frames(reference, torch.where(clip.region[..., None], to_bytes(clip.edited), seen))
    save_frames(mask, clip.region[..., None].expand(-1, -1, -1, 3).to(torch.uint8) * 255)
    return item


def _pictures(folder: Path) -> list[Path]:
    return [*folder.glob("*.png")]


def save_frames(folder: Path, frames: torch.Tensor) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for at, frame in enumerate(frames):
        Image.fromarray(frame.contiguous().numpy()).save(folder / f"{at:05d}.png")


def _drawn(each: int) -> Iterator[Drawn]:
    """Clips of every task."""
    from ...data.procedural.stream import TASKS, EditStream

    for at, task in enumerate(TASKS):
        stream = EditStream(0, 1, FRAMES, SIDE, SIDE, split="held-out", tasks=(task,))
        for number in range(each):
            batch = stream[number * len(TASKS) + at]  # the same index for all tasks would choose alike in them
            source, target, region = (part[0].movedim(0, -1) for part in (batch.source, batch.target, batch.region))
            (plan,) = stream.plans(number * len(TASKS) + at)
            before = _described(plan.before, plan.background)
            after = _described(plan.after, plan.new_background or plan.background, plan.style)
            yield Drawn(f"{task}-{number}", task, batch.instructions[0], source, target, region[..., 0], before, after)


def _described(things: Iterable[Thing | None], background: str, style: str | None = None) -> str:
    from ...data.procedural.phrases import indefinite

    words = []
    for thing in filter(None, things):
        look = "" if thing.look == "plain" else thing.look
        colour = "" if look == "golden" else thing.colour  # golden things have no other
        words.append(" ".join(filter(None, (look, colour, thing.shape))))
    parts = [
        ", ".join(map(indefinite, words)),
        f"background: {background.partition(',')[0]}",
        f"style: {style}" if style else "",
    ]
    return "; ".join(filter(None, parts))


def _real() -> Iterator[Drawn]:
    """The sample clip's beginning, with edits by rule."""
    from ...data.procedural.styles import STYLES as RULES

    frames = fit_frames(read_video(str(SAMPLE), FRAMES).frames.float() / 255, SIDE, SIDE)[0]
    everywhere = torch.ones(frames.shape[:3], dtype=torch.bool)
    for style in STYLES:
        edited = RULES[style](frames.movedim(-1, 1)).clamp(0, 1).movedim(1, -1)
        name, instruction = f"real-{style.replace(' ', '-')}", f"turn the video into {style}"
        yield Drawn(name, "style", instruction, frames, edited, everywhere, SHOWN, f"{SHOWN}; style: {style}")
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    ball = (((x - 0.4) ** 2 + (y - 0.4) ** 2) < 0.06).expand(FRAMES, -1, -1)
    with_ball = torch.where(ball[..., None], torch.tensor([0.87, 0.10, 0.11]), frames)
    with_blue = torch.where(ball[..., None], torch.tensor([0.10, 0.27, 0.90]), frames)
    red, blue = (f"{SHOWN}; a {colour} ball at the bottom right" for colour in ("red", "blue"))
    yield Drawn("real-add", "add", "add a red ball at the bottom right", frames, with_ball, ball, SHOWN, red)
    yield Drawn("real-remove", "remove", "remove the red ball", with_ball, frames, ball, red, SHOWN)
    yield Drawn("real-recolour", "recolour", "make the red ball blue", with_ball, with_blue, ball, red, blue)


def progress(inputs: Inputs) -> dict[str, float]:
    """1 - squared error of the edit / of the source left as it is, within the region: 1 is the right edit, 0 as far off as doing nothing."""
    edit, source, reference = ((video.float() / 255)[inputs.mask] for video in (inputs.edit, inputs.source, inputs.reference))
    return {"mini_progress": float(1 - (edit - reference).square().sum() / (source - reference).square().sum())}


def aggregate(scored: Sequence[Scored], mode: str) -> dict[str, float]:
    found = {name: mean_of(scored, column) for column, name in COLUMNS.items()}
    return {name: value for name, value in found.items() if value is not None}


OWN = (
    Metric(
        "mini_progress",
        progress,
        "Within the region, 1 minus the squared error over that of the source left as it is: 1 is the right edit, 0 as far off as doing "
        "nothing.",
        ("reference", "mask"),
    ),
)

BENCH = Bench(
    "mini",
    "LIVEditor-Bench-mini",
    "an empty folder, into which clips are drawn; results by the items' ids",
    prepare,
    aggregate,
    metrics=(*COLUMNS, "psnr_source"),
    own=OWN,
    subsets=tuple(DRAWN),
)
