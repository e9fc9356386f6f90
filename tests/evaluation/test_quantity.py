"""IVE-Bench's counting of objects: what instructions ask for, and GroundingDINO's own steps on small random weights."""

import pytest
import torch
from liveditor_isa.evaluation.benches import quantity
from liveditor_isa.evaluation.frames import Inputs
from liveditor_isa.evaluation.items import Item
from liveditor_isa.evaluation.metrics.features import HubModel
from PIL import Image
from small_detectors import write_grounding


@pytest.mark.parametrize(
    "instruction, found",
    [
        ("Increase the number of dogs to 3.", ("dogs", 3)),
        ("Please change the number of red balls from two to five", ("red balls", 5)),
        ("reduce the quantity of Cars to ONE", ("cars", 1)),
        ("Make three boats, in the river", ("boats", 3)),
        ("set the number of birds to 12 in all frames", ("birds", 12)),
        ("Make the sky red", None),
        ("Remove the dog", None),
    ],
)
def test_an_instruction_says_how_many(instruction, found):
    assert quantity.asked(instruction) == found


def test_boxes_are_counted_as_the_library_counts_them(tmp_path, monkeypatch):
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    folder = write_grounding(tmp_path / "words")
    monkeypatch.setattr(quantity, "DINO", HubModel(str(folder), "main", "AutoModelForZeroShotObjectDetection"))
    monkeypatch.setattr(quantity, "BOX", 0.1)
    monkeypatch.setattr(quantity, "TEXT", 0.05)
    frames = torch.randint(0, 256, (11, 48, 64, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    network, processor = (
        AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval(),
        AutoProcessor.from_pretrained(folder),
    )
    counts = []
    for at in (0, 2, 4, 6, 8):  # every 11 // 5th, five of them
        inputs = processor(images=Image.fromarray(frames[at].numpy()), text="a red ball.", return_tensors="pt")
        with torch.no_grad():
            out = network(**inputs)
        boxes = processor.post_process_grounded_object_detection(out, inputs["input_ids"], threshold=0.1, text_threshold=0.05)
        counts.append(len([phrase for phrase in boxes[0]["text_labels"] if "red ball" in phrase]))
    assert sum(counts) > 0 and quantity.counted(frames, "red ball") == sum(counts) / 5

    class Edit:
        frames = None

    inputs = Inputs(Item("one", "", "", facts={quantity.FACT: ["red ball", round(sum(counts) / 5)]}), "")
    inputs.__dict__["edit_as_made"] = Edit
    Edit.frames = frames
    near = abs(sum(counts) / 5 - round(sum(counts) / 5)) <= 0.5
    assert quantity.METRIC.compute(inputs) == {"quantity_accuracy": float(near)}
    inputs.item.facts[quantity.FACT][1] += 2
    assert quantity.METRIC.compute(inputs) == {"quantity_accuracy": 0.0}
