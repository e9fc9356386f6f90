"""IVE-Bench (arXiv 2510.11647): 400 short and 200 long videos with one edit each, scored for quality, compliance and fidelity.

Written from its definitions; its code has no licence, and nothing of it is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from ..frames import Inputs
from ..items import Item
from ..metrics.features import IMAGES_AT_A_TIME, HubModel, image_features, load, squashed
from ..metrics.metric import Metric, NothingToMeasure
from ..records import REFERENCE
from ..results import Scored
from . import quantity
from .bench import Bench, LayoutError, check_rows, described, exported, mean_of, read_json, write_json

LISTS = {"short": "ivebenchdb_prompt_short.json", "long": "ivebenchdb_prompt_long.json"}
NEEDED = ("src_video_name", "category", "subcategory", "source_prompt", "edit_prompt", "target_prompt")
OPTIONAL = ("target_phrase", "target_span")
ENDINGS = (".mp4", ".mov", ".webm", "")

DINO_S = HubModel("facebook/dino-vits16", "main", "ViTModel")
CLIP_B = HubModel("openai/clip-vit-base-patch32", "main", "CLIPModel")

QUALITY = {"subject_consistency": 1, "background_consistency": 1, "temporal_flickering": 1, "motion_smoothness": 1, "vtss": 4}
COMPLIANCE = {
    "overall_semantic_consistency": 1, "phrase_semantic_consistency": 1, "instruction_satisfaction": 3, "quantity_accuracy": 1,
}  # fmt: skip
FIDELITY = {"semantic_fidelity": 1, "motion_fidelity": 1, "content_fidelity": 3}
"""{part: its weight}. The weight of vtss is the code's, which reproduces every published row; the paper's appendix says 5."""
GROUPS = {"quality": QUALITY, "compliance": COMPLIANCE, "fidelity": FIDELITY}

RANGES = {"instruction_satisfaction": (1.0, 4.0), "content_fidelity": (1.0, 4.0), "vtss": (-0.05, 0.15)}
"""{part: (least, span)}, by which it is brought to 0..1."""

ZERO_IF_MISSING = ("subject_consistency", "background_consistency", "temporal_flickering", "motion_smoothness")
"""Columns in which the published code counts a missing video as 0."""


def prepare(folder: Path, subset: str | None) -> list[Item]:
    """The list of the subset, short unless long is asked for, and the videos anywhere below the folder."""
    path = folder / LISTS[subset or "short"]
    rows = read_json(path, "IVE-Bench has this list beside its videos")
    if not isinstance(rows, list):
        raise LayoutError(f"{path} holds no items: it should be a list of objects.")
    check_rows(((f"{path.name}, item {at}", row) for at, row in enumerate(rows)), NEEDED, OPTIONAL)
    there = _videos(folder, {row["src_video_name"] for row in rows})
    return [_item(folder, there, row) for row in rows]


def _videos(folder: Path, names: set[str]) -> dict[str, Path]:
    """{name: its video, or else the folder of its frames}. Raises LayoutError for a name that several have: one of them may be an edit."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        frames = path.is_dir()
        name = path.name if frames else path.stem
        if name in names and (frames or path.suffix.lower() in ENDINGS):
            found.setdefault(name, []).append(path)
    chosen = {name: [path for path in paths if path.is_file()] or paths for name, paths in found.items()}
    faults = [
        f"{name} is there {len(paths)} times, as {paths[0]} and {paths[1]}: keep edits in a folder of their own."
        for name, paths in chosen.items()
        if len(paths) > 1
    ]
    if faults:
        raise LayoutError(*faults)
    return {name: paths[0] for name, paths in chosen.items()}


def _item(folder: Path, there: dict[str, Path], row: dict) -> Item:
    name = row["src_video_name"]
    facts: dict = {key: row[key] for key in ("subcategory", "target_phrase", "target_span") if row.get(key)}
    if counted := quantity.asked(row["edit_prompt"]):
        facts[quantity.FACT] = [*counted]
    return Item(
        name, str(there.get(name, folder / f"{name}.mp4")), row["edit_prompt"], task=row["category"], bench="ive",
        source_prompt=row["source_prompt"], target_prompt=row["target_prompt"], result=name, facts=facts,
    )  # fmt: skip


KINDS = {
    "add": ("subject_editing", "add new subject"), "remove": ("subject_editing", "remove existing subject"),
    "swap": ("subject_editing", "replace existing subject"), "recolour": ("attribute_editing", "color"),
    "stylise_object": ("attribute_editing", "material"), "style": ("style_editing", "style"),
    "background": ("attribute_editing", "background"),
}  # fmt: skip
"""{kind of edit of LIVEditor-Bench-mini: category and subcategory}. Others keep their names, as the category."""


def export(folder: Path, items: Sequence[Item]) -> None:
    """As the short subset."""
    rows = []
    for number, item in enumerate(items, 1):
        exported(item, folder / "videos")
        category, subcategory = KINDS.get(item.task, (item.task, ""))
        rows.append({
            "id": number, "src_video_name": item.id, "category": category, "subcategory": item.facts.get("subcategory", subcategory),
            "edit_prompt": item.instruction, **described(item), "target_phrase": item.facts.get("target_phrase", ""),
            "target_span": item.facts.get("target_span", ""),
        })  # fmt: skip
    write_json(folder / LISTS["short"], rows)


def anchored(features: torch.Tensor) -> float:
    """Mean over frames but the first of the cosines with the frame before and with the first one, negative ones taken for 0. [T, C]."""
    if len(features) < 2:
        raise NothingToMeasure("One frame alone has no neighbour: consistency over time cannot be measured.")
    unit = F.normalize(features.float(), dim=-1)
    before = (unit[1:] * unit[:-1]).sum(-1).clamp(min=0)
    first = (unit[1:] * unit[:1]).sum(-1).clamp(min=0)
    return float((before + first).mean() / 2)


@torch.no_grad()
def _subject(inputs: Inputs) -> dict[str, float]:
    model, _ = load(DINO_S)
    parts = squashed(inputs.edit_as_made.frames).split(IMAGES_AT_A_TIME)
    return {"subject_consistency": anchored(torch.cat([model(part).last_hidden_state[:, 0] for part in parts]))}


@torch.no_grad()
def _background(inputs: Inputs) -> dict[str, float]:
    return {"background_consistency": anchored(image_features(*load(CLIP_B), inputs.edit_as_made.frames))}


OWN = (
    Metric(
        "subject_consistency", _subject, "DINO ViT-S/16 features against the frame before and the first frame (IVE-Bench).",
        ready=partial(DINO_S.folder), model=DINO_S.described,
    ),
    Metric(
        "background_consistency", _background, "CLIP ViT-B/32 features against the frame before and the first frame (IVE-Bench).",
        ready=partial(CLIP_B.folder), model=CLIP_B.described,
    ),
    quantity.METRIC,
)  # fmt: skip


def totals(means: Mapping[str, float]) -> dict[str, float]:
    """{"total", "quality", "compliance", "fidelity"} in 0..1 of the means of all parts, those of judges and vtss in their own ranges.

    A group is left out where one of its parts is, and the total where a group is.
    """
    scaled = {name: (value - RANGES[name][0]) / RANGES[name][1] if name in RANGES else value for name, value in means.items()}
    found = {}
    for group, weights in GROUPS.items():
        if all(name in scaled for name in weights):
            found[group] = sum(weight * scaled[name] for name, weight in weights.items()) / sum(weights.values())
    return ({"total": sum(found.values()) / 3} if len(found) == 3 else {}) | found


def aggregate(scored: Sequence[Scored], mode: str) -> dict[str, float]:
    """Totals and the mean of every part. Mode reference: an item without an edit counts as 0 where the published code does so."""
    means = {}
    for name in (name for weights in GROUPS.values() for name in weights):
        value = mean_of(scored, name)
        if value is None:
            continue
        if mode == REFERENCE and name in ZERO_IF_MISSING:
            value *= sum(name in one.values for one in scored) / len(
                [one for one in scored if name in one.values or one.edit is None]
            )
        means[name] = value
    return totals(means) | means


BENCH = Bench(
    "ive",
    "IVE-Bench",
    f"{LISTS['short']} or {LISTS['long']}, videos anywhere below; results by the source's name",
    prepare,
    aggregate,
    metrics=("subject_consistency", "background_consistency", "temporal_flickering", "quantity_accuracy"),
    own=OWN,
    subsets=tuple(LISTS),
    export=export,
    notes=(
        "Not computed here: motion smoothness (AMT), VTSS, the three measures by VideoCLIP-XL, motion fidelity, and "
        "the judgements of Qwen2.5-VL-72B. A group's total needs all of its parts.",
    ),
)
