"""IVE-Bench's quantity accuracy: whether an edit shows as many objects as the instruction asks for, counted by GroundingDINO."""

from __future__ import annotations

import re
from functools import partial

import torch

from ..frames import Inputs
from ..metrics.features import HubModel, as_image, load, ready
from ..metrics.metric import Metric

DINO = HubModel("IDEA-Research/grounding-dino-base", "main", "AutoModelForZeroShotObjectDetection")

BOX, TEXT, FRAMES, NEAR = 0.3, 0.25, 5, 0.5
"""Least confidence of a box and of its words; frames that are looked at; by how much the mean count may be off."""

FACT = "counted"
"""Of an item, the objects and how many: the metric is for items that have it."""

NUMBERS = {word: number for number, word in enumerate("zero one two three four five six seven eight nine ten".split())}
AMOUNT = rf"(?P<amount>\d+|{'|'.join(NUMBERS)})"
ASKED = (
    rf"\b(?:increase|decrease|reduce|change|set)\s+the\s+(?:number|quantity|amount)\s+of\s+(?P<what>.+?)\s+(?:from\s+\w+\s+)?to\s+{AMOUNT}\b",
    rf"\bmake\s+{AMOUNT}\s+(?P<what>[^.,]+)",
)


def asked(instruction: str) -> tuple[str, int] | None:
    """The objects and how many; None for an instruction that names no number."""
    for pattern in ASKED:
        if found := re.search(pattern, instruction, re.IGNORECASE):
            amount = found["amount"].lower()
            return found["what"].strip().lower(), NUMBERS[amount] if amount in NUMBERS else int(amount)
    return None


@torch.no_grad()
def counted(frames: torch.Tensor, what: str) -> float:
    """Mean over five frames of [T, H, W, 3] uint8 of the boxes whose words hold the object's."""
    network, processor = load(DINO)
    counts = []
    for frame in frames[:: max(1, len(frames) // FRAMES)][:FRAMES]:
        inputs = processor(images=as_image(frame), text=f"a {what}.", return_tensors="pt")
        (one,) = processor.post_process_grounded_object_detection(
            network(**inputs), inputs["input_ids"], threshold=BOX, text_threshold=TEXT
        )
        counts.append(sum(what in phrase for phrase in one["text_labels"]))
    return sum(counts) / len(counts)


def _accuracy(inputs: Inputs) -> dict[str, float]:
    what, amount = inputs.item.facts[FACT]
    return {METRIC.name: float(abs(counted(inputs.edit_as_made.frames, what) - amount) <= NEAR)}


METRIC = Metric(
    "quantity_accuracy", _accuracy, "1 where GroundingDINO counts as many objects as the instruction asks for, else 0 (IVE-Bench).",
    needs=(FACT,), ready=partial(ready, DINO), model=DINO.described,
)  # fmt: skip
