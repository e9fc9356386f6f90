"""FiVE-Bench (arXiv 2503.13684): 100 videos, 420 pairs of prompts of six kinds, with masks of what should change.

Written from its definitions; its code has no licence, and nothing of it is here. In mode reference numbers are those of the published
code: every eighth frame, the edit stretched to the source's size, a mask of everything above 0, both pictures black within it. In mode
corrected the source is cropped as the edit is, and only pixels outside of the mask count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from ...batch.manifest import all_ids
from ...optional import needed
from ..frames import STRETCH, Inputs, read_video
from ..items import Item
from ..metrics import lpips, pixels
from ..metrics.features import CLIP_L, HubModel, load, text_alignment
from ..metrics.metric import Metric
from ..records import REFERENCE
from ..results import Scored
from .bench import Bench, LayoutError, check_rows, described, exported, mean_of, read_json, safe_id, write_json

TYPES = {1: "rigid", 2: "non-rigid", 3: "colour", 4: "material", 5: "addition", 6: "removal"}
EVERY = 8
"""Frames from one that is measured to the next."""

DINO_B = HubModel("facebook/dino-vitb8", "main", "ViTModel")
KEYS_OF = 11
"""The transformer block whose keys describe structure, the last."""

NEEDED = ("video_name", "source_prompt", "target_prompt", "save_dir")
QUESTIONS = ("multiple_choice_question", "source_yes_no_question", "target_yes_no_question")


def prepare(folder: Path, subset: str | None) -> list[Item]:
    """Of the folder data, or the one above it. subset: a kind of edit."""
    root = folder / "data" if (folder / "data").is_dir() else folder
    items: list[Item] = []
    for number, kind in TYPES.items():
        if subset in (None, kind):
            path = root / "edit_prompt" / f"edit{number}_FiVE.json"
            rows = read_json(path, "FiVE-Bench has edit_prompt/edit1_FiVE.json to edit6_FiVE.json beside images and bmasks")
            if not isinstance(rows, list):
                raise LayoutError(f"{path} holds no items: it should be a list of objects.")
            check_rows(((f"{path.name}, item {at}", row) for at, row in enumerate(rows)), NEEDED, QUESTIONS)
            items += [_item(root, number, row) for row in rows]
    names = all_ids([(None, item.id) for item in items])
    return [Item(**{**vars(item), "id": name}) for item, name in zip(items, names)]


def _item(root: Path, number: int, row: dict) -> Item:
    name, target = row["video_name"], without_brackets(row["target_prompt"])
    video, mask = root / "videos" / f"{name}.mp4", root / "bmasks" / name
    facts = {key: row[key] for key in QUESTIONS if row.get(key)}
    return Item(
        safe_id(f"{name}_{TYPES[number]}"), str(video if video.is_file() else root / "images" / name),
        f"Change the video so that it shows: {target}", mask=str(mask), task=TYPES[number], bench="five",
        source_prompt=without_brackets(row["source_prompt"]), target_prompt=target,
        result=f"{name}/{number}_{target[: len(row['save_dir']) - 2]}", facts=facts,
    )  # fmt: skip


KINDS = {"swap": 1, "background": 1, "recolour": 3, "stylise_object": 4, "style": 4, "add": 5, "remove": 6}
"""{kind of edit of LIVEditor-Bench-mini: the bench's number}. It has none for backgrounds and styles: they are with what else takes
something's place, and with what else changes how things look."""

RESULT_LETTERS = 60
"""Of the target prompt, in the name of an edit."""


def export(folder: Path, items: Sequence[Item]) -> None:
    """Videos, frames and masks; of an item's instruction nothing is left, for the bench has prompts alone."""
    root, rows = folder / "data", {number: [] for number in TYPES}
    numbers = {kind: number for number, kind in TYPES.items()} | KINDS
    for item in items:
        if item.task not in numbers:
            raise LayoutError(f"{item.id} is of the kind {item.task!r}: FiVE-Bench has {', '.join(TYPES.values())}.")
        if not item.mask:
            raise LayoutError(f"{item.id} has no mask, which the bench's layout asks for.")
        number, prompts = numbers[item.task], described(item)
        video = exported(item, root / "videos")
        _save(root / "images" / item.id, read_video(str(video)).frames)
        _save(root / "bmasks" / item.id, Inputs(item, str(video)).mask.to(torch.uint8) * 255)
        save_dir = f"{number}_{prompts['target_prompt'][:RESULT_LETTERS]}"
        questions = {key: item.facts[key] for key in QUESTIONS if key in item.facts}
        rows[number].append(
            {"editing_type_id": str(number), "video_name": item.id, **prompts, "save_dir": save_dir, **questions}
        )
    for number, of_kind in rows.items():
        write_json(root / "edit_prompt" / f"edit{number}_FiVE.json", of_kind)


def _save(folder: Path, frames: torch.Tensor) -> None:
    """00001.jpg, …; [T, H, W, 3] or [T, H, W] uint8."""
    from PIL import Image

    folder.mkdir(parents=True)
    for at, frame in enumerate(frames, 1):
        Image.fromarray(frame.contiguous().numpy()).save(folder / f"{at:05d}.jpg", quality=95, subsampling=0)


def without_brackets(prompt: str) -> str:
    """Changed words are in brackets."""
    return " ".join(re.sub(r"[\[\]]", " ", prompt).split())


def sampled(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Source, edit [t, 3, H, W] in 0..1 and mask [t, 1, H, W] of every eighth frame."""
    source, edit = (video[::EVERY].movedim(-1, 1).float() / 255 for video in (inputs.source, inputs.edit))
    return source, edit, inputs.mask[::EVERY, None].float()


def _background(inputs: Inputs) -> dict[str, float]:
    source, edit, mask = sampled(inputs)
    pairs = [*zip(source * (1 - mask), edit * (1 - mask))]
    values = {name: [measure(two, one) for one, two in pairs] for name, measure in MEASURES.items()}
    return {f"five_{name}": SCALES[name] * sum(found) / len(found) for name, found in values.items()}


MEASURES = {"psnr": pixels.psnr, "mse": pixels.mse, "ssim": pixels.ssim}
SCALES = {"psnr": 1, "mse": 1e4, "ssim": 100}


def _lpips(inputs: Inputs) -> dict[str, float]:
    source, edit, mask = sampled(inputs)
    pairs = zip(source * (1 - mask), edit * (1 - mask))
    values = [float(lpips.distance("squeeze", two[None], one[None])) for one, two in pairs]
    return {"five_lpips": 1000 * sum(values) / len(values)}


@torch.no_grad()
def _clip(inputs: Inputs) -> dict[str, float]:
    """torchmetrics' CLIPScore: 100 times the cosine, none below 0."""
    model, processor = load(CLIP_L)
    source, edit, mask = inputs.source[::EVERY], inputs.edit[::EVERY], inputs.mask[::EVERY, ..., None]
    asked = {
        "five_clip_source": (source, inputs.item.source_prompt),
        "five_clip_target": (edit, inputs.item.target_prompt),
        "five_clip_edited": (edit * mask, inputs.item.target_prompt),
    }
    return {name: max(0.0, text_alignment(model, processor, frames, text)) for name, (frames, text) in asked.items()}


def self_similarity(model, images: torch.Tensor) -> torch.Tensor:
    """[N, P, P]: cosines of the keys of all pairs of tokens, all heads together. images: [N, 3, H, W], normalised."""
    keys = []
    handle = _key_layer(model).register_forward_hook(lambda module, given, out: keys.append(out))
    try:
        model(images, interpolate_pos_encoding=True)
    finally:
        handle.remove()
    unit = F.normalize(keys[0].float(), dim=-1)
    return unit @ unit.transpose(1, 2)


def _key_layer(model) -> torch.nn.Module:
    """The linear layer that makes the last block's keys, under whichever name transformers has it."""
    named = [layer for name, layer in model.named_modules() if name.rsplit(".", 1)[-1] in ("key", "k_proj")]
    if not named:
        raise RuntimeError("This transformers names the keys of ViT otherwise: structure distance cannot be computed.")
    return named[min(KEYS_OF, len(named) - 1)]


def as_published(frames: torch.Tensor, correct: bool) -> torch.Tensor:
    """[t, 3, H, W] in 0..1 -> DINO's input: short side 224, long side 480 at most, ImageNet's mean and deviation.

    The published code normalises values of 0..255 as if they were 0..1; correct: 0..1.
    """
    transforms = needed("torchvision.transforms.v2.functional", "torchvision")
    small = transforms.resize(frames if correct else frames * 255, [224], max_size=480, antialias=True)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (small - mean[:, None, None]) / deviation[:, None, None]


@torch.no_grad()
def _structure(inputs: Inputs) -> dict[str, float]:
    model, _ = load(DINO_B)
    source, edit, _ = sampled(inputs)
    correct = inputs.alignment != STRETCH
    values = []
    for one, two in zip(source, edit):
        maps = [self_similarity(model, as_published(frame[None], correct)) for frame in (one, two)]
        values.append(float((maps[0] - maps[1]).square().mean()))
    return {"five_structure": 1000 * sum(values) / len(values)}


OWN = (
    Metric(
        "five_background", _background, "FiVE-Bench: PSNR, MSE ×10⁴ and SSIM ×100 of every eighth frame, both black within the mask.",
        ("mask",), ("five_psnr", "five_mse", "five_ssim"), None,
    ),
    Metric(
        "five_lpips", _lpips, "FiVE-Bench: LPIPS (SqueezeNet) ×1000 of every eighth frame, both black within the mask.", ("mask",),
        higher=False, model=partial(lpips.model_of, "squeeze"), ready=partial(lpips.weights_of, "squeeze"),
    ),
    Metric(
        "five_clip", _clip, "FiVE-Bench: CLIP scores of source and source prompt, edit and target prompt, edited region and target prompt.",
        ("mask", "source_prompt", "target_prompt"), ("five_clip_source", "five_clip_target", "five_clip_edited"),
        model=CLIP_L.described, ready=CLIP_L.folder,
    ),
    Metric(
        "five_structure", _structure, "FiVE-Bench: ×1000, squared difference of the self-similarity of DINO ViT-B/8 keys.",
        ("mask",), higher=False, version="2", model=DINO_B.described, ready=DINO_B.folder,
    ),
)  # fmt: skip

COLUMNS = {
    "five_structure": "structure distance", "five_psnr": "PSNR", "five_lpips": "LPIPS", "five_mse": "MSE", "five_ssim": "SSIM",
    "five_clip_source": "CLIP source", "five_clip_target": "CLIP target", "five_clip_edited": "CLIP edited part",
}  # fmt: skip
CORRECTED = {
    "psnr_source_outside": ("PSNR outside", 1), "mse_source_outside": ("MSE outside", 1e4), "ssim_source_outside": ("SSIM outside", 100),
}  # fmt: skip
ANSWERS = {"judge_yes_no": "YN", "judge_choice": "MC"}


def macro(scored: Sequence[Scored], column: str) -> float | None:
    """The mean over the kinds of edit of the means over their items: a kind of 10 counts as much as one of 100."""
    means = [mean_of([one for one in scored if one.item.task == kind], column) for kind in TYPES.values()]
    known = [mean for mean in means if mean is not None]
    return sum(known) / len(known) if known else None


def accuracy(yes_no: float, choice: float, union: float, both: float) -> float:
    """FiVE-Acc: the mean of the shares that are right by yes-no questions, by multiple choice, by one of both, and by both."""
    return (yes_no + choice + union + both) / 4


def aggregate(scored: Sequence[Scored], mode: str) -> dict[str, float]:
    """Means over kinds of edit. Mode reference: the published columns; corrected: what is outside of the mask, aligned."""
    columns = {column: (name, 1.0) for column, name in COLUMNS.items()} if mode == REFERENCE else CORRECTED
    found = {name: (macro(scored, column), times) for column, (name, times) in columns.items()}
    shown = {name: value * times for name, (value, times) in found.items() if value is not None}
    answers = {name: macro(scored, column) for column, name in ANSWERS.items()}
    together = {name: macro(scored, f"judge_{name}") for name in ("union", "both")}
    if None not in (*answers.values(), *together.values()):
        shown |= answers | {"∪": together["union"], "∩": together["both"]}
        shown["FiVE-Acc"] = accuracy(answers["YN"], answers["MC"], together["union"], together["both"])
    return shown


BENCH = Bench(
    "five",
    "FiVE-Bench",
    "data/ with edit_prompt, images or videos, bmasks; results as VIDEO/TYPE_PROMPT",
    prepare,
    aggregate,
    metrics=(*(metric.name for metric in OWN), *CORRECTED),
    own=OWN,
    subsets=tuple(TYPES.values()),
    export=export,
    notes=(
        "Means over the six kinds of edit, each counting alike. Not computed here: NIQE, and motion fidelity (CoTracker3).",
    ),
    reference_alignment=STRETCH,
)
