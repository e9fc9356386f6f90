"""What judges are asked, by bench, in this project's words: the criteria are the benches', the texts and the strict JSON are not.

Columns begin with judge_: they are not the benches' own, whose judges, texts and frames are others.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..frames import Inputs, read_video
from ..items import Item
from ..records import REFERENCE
from .parse import Choices, Range

Answers = Sequence[dict[str, float | str]]

SYSTEM = "You judge edits of videos strictly and evenly. You answer with one JSON object and nothing else."


@dataclass(frozen=True)
class Question:
    """text: after it come the pictures, each with a label: (label, JPEG). wanted: {key: range or choices}."""

    text: str
    pictures: tuple[tuple[str, bytes], ...]
    wanted: dict[str, Range | Choices]


@dataclass(frozen=True)
class Rubric:
    """
    name: of the metric. columns: that it fills. ask: (item's videos, mode) -> questions. combine: answers -> {column: value}.
    calls: questions for one item, at most. pictures: of one question. needs: as in Metric. version: raise it with the text.
    """

    name: str
    about: str
    columns: tuple[str, ...]
    ask: Callable[[Inputs, str], list[Question]]
    combine: Callable[[Item, Answers], dict[str, float]]
    calls: Callable[[Item], int]
    pictures: int
    needs: tuple[str, ...] = ()
    version: str = "1"


def evenly(count: int, frames: int) -> list[int]:
    """Indices of `frames` frames of `count`, first and last included."""
    if count <= frames:
        return list(range(count))
    return [round(at * (count - 1) / (frames - 1)) for at in range(frames)]


def editverse_frames(count: int) -> list[int]:
    """EditVerseBench's: every third of the video; four frames unless its length is a multiple of 3. Shorter than 3: all."""
    return list(range(0, count, max(1, count // 3)))


def jpeg(frame: torch.Tensor, quality: int, swapped: bool = False) -> bytes:
    """[H, W, 3] uint8. swapped: red and blue exchanged."""
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray((frame.flip(-1) if swapped else frame).contiguous().numpy()).save(held, "JPEG", quality=quality)
    return held.getvalue()


def _both(inputs: Inputs, frames: int, quality: int) -> list[tuple[str, bytes]]:
    """Labelled pictures: `frames` frames of the source, then as many of the edit."""
    return [
        (f"{label}, frame {at}", jpeg(video[at], quality))
        for label, video in (("Original", inputs.source), ("Edit", inputs.edit))
        for at in evenly(len(video), frames)
    ]


# Following, preservation, quality: VIE-Bench's criteria, also for users' own clips.

PAIR_FRAMES = 3
SCALE = "1 to 3 is no, 4 to 6 partly, 7 to 10 fully"
PAIR_TEXT = (
    "Frames of an original video come first, then frames of its edit at the same times. The edit should follow this instruction:\n{asked}\n\n"
    f"Give three scores from 1 to 10, where {SCALE}:\n"
    "following: does the edit show what the instruction asks for, everywhere and in all frames?\n"
    "preservation: is all that the instruction does not speak of as in the original?\n"
    "quality: does the edit look natural and steady, without seams, smears or flicker?\n"
)
SIMILARITY_TEXT = "similarity: does what was brought in look like the reference picture, which comes before the frames?\n"
REPLY = 'Answer with JSON: {{"reason": "one or two sentences", {keys}}}'


def _keys(wanted: Sequence[str]) -> str:
    return REPLY.format(keys=", ".join(f'"{key}": number' for key in wanted))


def _ask_pair(inputs: Inputs, mode: str) -> list[Question]:
    wanted: dict[str, Range | Choices] = dict.fromkeys(("following", "preservation", "quality"), (1.0, 10.0))
    text, pictures = PAIR_TEXT.format(asked=inputs.item.instruction), []
    if inputs.item.pictures:
        wanted["similarity"] = (1.0, 10.0)
        text += SIMILARITY_TEXT
        pictures += [("Reference picture", jpeg(read_video(path, 1).frames[0], 75)) for path in inputs.item.pictures]
    pictures += _both(inputs, PAIR_FRAMES, 75)
    return [Question(text + _keys([*wanted]), tuple(pictures), wanted)]


def _combine_pair(item: Item, answers: Answers) -> dict[str, float]:
    return {f"judge_{key}": float(value) for key, value in answers[0].items()}


PAIR = Rubric(
    "judge_pair", "A judge's scores, 1 to 10, of what the edit should do, of what it should leave, and of how it looks; with a "
    "reference picture also of its likeness.", ("judge_following", "judge_preservation", "judge_quality", "judge_similarity"),
    _ask_pair, _combine_pair, lambda item: 1, 2 * PAIR_FRAMES, ("instruction",),
)  # fmt: skip


# EditVerseBench: frame by frame, three scores of 0 to 3.

FRAME_PARTS = ("following", "quality", "background")
FRAME_TEXT = (
    "The first picture is a frame of a video, the second the same frame of its edit. The edit should follow this instruction:\n{asked}\n\n"
    "Give three scores from 0 to 3:\nfollowing: is what was asked for there, and all of it?\n"
    "quality: is what was changed free of faults, and does it fit the picture?\n"
    "background: is everything else unchanged?\n"
)


def _ask_frames(inputs: Inputs, mode: str) -> list[Question]:
    wanted: dict[str, Range | Choices] = dict.fromkeys(FRAME_PARTS, (0.0, 3.0))
    text = FRAME_TEXT.format(asked=inputs.item.facts.get("text") or inputs.item.instruction) + _keys(FRAME_PARTS)
    # The published code hands RGB frames to a function that takes BGR.
    shown = [
        tuple(
            (label, jpeg(video[at], 95, mode == REFERENCE))
            for label, video in (("Before", inputs.source), ("After", inputs.edit))
        )
        for at in editverse_frames(len(inputs.edit))
    ]
    return [Question(text, pictures, wanted) for pictures in shown]


def _combine_frames(item: Item, answers: Answers) -> dict[str, float]:
    return {"judge_frames": sum(float(value) for answer in answers for value in answer.values()) / len(answers)}


FRAMES = Rubric(
    "judge_frames", "A judge's total of three scores of 0 to 3, the mean over three or four frames (EditVerseBench's criteria).",
    ("judge_frames",), _ask_frames, _combine_frames, lambda item: 4, 2, ("instruction",),
)  # fmt: skip


# IVE-Bench: satisfaction and fidelity, 1 to 5.

CLIP_FRAMES = 4
CLIP_TEXT = (
    "Frames of an original video come first, then frames of its edit at the same times. The edit should follow this instruction:\n{asked}\n\n"
    "Give two scores from 1 to 5:\nsatisfaction: does the edit reach what the instruction asks for? 1 unrelated, 5 perfectly.\n"
    "fidelity: is everything else strictly kept? 1 little of it, 5 every detail.\n"
)


def _ask_clip(inputs: Inputs, mode: str) -> list[Question]:
    wanted: dict[str, Range | Choices] = dict.fromkeys(("satisfaction", "fidelity"), (1.0, 5.0))
    pictures = _both(inputs, CLIP_FRAMES, 90)
    return [Question(CLIP_TEXT.format(asked=inputs.item.instruction) + _keys([*wanted]), tuple(pictures), wanted)]


CLIP = Rubric(
    "judge_clip", "A judge's scores, 1 to 5, of whether the instruction is satisfied and all else is kept (IVE-Bench's criteria).",
    ("judge_satisfaction", "judge_fidelity"), _ask_clip, _combine_pair, lambda item: 1, 2 * CLIP_FRAMES, ("instruction",),
)  # fmt: skip


# FiVE-Bench: questions that have a right answer.

YES_NO = frozenset(("yes", "no"))
LETTERS = frozenset("abcd")
RIGHT_LETTER = "b"
QUESTION_TEXT = (
    'Look at these frames of a video and answer the question with {kind}.\n{asked}\n\nAnswer with JSON: {{"answer": "..."}}'
)


def five_frames(count: int) -> list[int]:
    """Four, or as many as there are, from the middle of each part of the video."""
    parts = min(4, count)
    return [int((at + 0.5) * count / parts) for at in range(parts)]


def _ask_answers(inputs: Inputs, mode: str) -> list[Question]:
    facts, edit = inputs.item.facts, inputs.edit_as_made.frames
    pictures = tuple((f"Frame {at}", jpeg(edit[at], 90)) for at in five_frames(len(edit)))
    asked = [(facts.get(f"{which}_yes_no_question"), "yes or no", YES_NO) for which in ("source", "target")]
    asked.append((facts.get("multiple_choice_question"), "the letter of one choice", LETTERS))
    return [
        Question(QUESTION_TEXT.format(kind=kind, asked=text), pictures, {"answer": choices})
        for text, kind, choices in asked
        if text
    ]


def _combine_answers(item: Item, answers: Answers) -> dict[str, float]:
    """Yes-no is right if the source's question is denied and the target's affirmed."""
    left = iter([answer["answer"] for answer in answers])
    facts, parts = item.facts, {}
    rights = [
        next(left) == wanted for which, wanted in (("source", "no"), ("target", "yes")) if facts.get(f"{which}_yes_no_question")
    ]
    if rights:
        parts["judge_yes_no"] = float(all(rights))
    if facts.get("multiple_choice_question"):
        parts["judge_choice"] = float(next(left) == RIGHT_LETTER)
    if len(parts) == 2:
        parts |= {"judge_union": max(parts.values()), "judge_both": min(parts.values())}
    return parts


ANSWERS = Rubric(
    "judge_answers", "Whether a judge answers the item's questions about the edit rightly (FiVE-Bench's questions).",
    ("judge_yes_no", "judge_choice", "judge_union", "judge_both"), _ask_answers, _combine_answers,
    lambda item: sum(key.endswith("_question") for key in item.facts), 4, ("target_yes_no_question",),
)  # fmt: skip


# OpenVE-Bench: compliance, detail and stability, 1 to 5.

CAPPED_FRAMES = 8
CAPPED_PARTS = ("compliance", "detail", "stability")
CAPPED_TEXT = (
    "Frames of an original video come first, then frames of its edit at the same times. The edit should be of the kind {kind} and follow this "
    "instruction:\n{asked}\n\nGive three scores from 1 to 5, none of them above the first:\n"
    "compliance: is what the instruction asks for done, all of it and nothing else? 1 not at all, 5 perfectly.\n"
    "detail: is everything else as in the original, down to its details and its motion? 1 lost, 5 exactly.\n"
    "stability: is the edit of good quality and steady over time, without seams, smears or flicker? 1 broken, 5 clean.\n"
)


def _ask_capped(inputs: Inputs, mode: str) -> list[Question]:
    wanted: dict[str, Range | Choices] = dict.fromkeys(CAPPED_PARTS, (1.0, 5.0))
    pictures = _both(inputs, CAPPED_FRAMES, 75)
    text = CAPPED_TEXT.format(kind=inputs.item.task.replace("_", " "), asked=inputs.item.instruction)
    return [Question(text + _keys(CAPPED_PARTS), tuple(pictures), wanted)]


def _combine_capped(item: Item, answers: Answers) -> dict[str, float]:
    """No score is above the first, whatever the judge said."""
    return {f"judge_{key}": min(float(value), float(answers[0]["compliance"])) for key, value in answers[0].items()}


CAPPED = Rubric(
    "judge_capped", "A judge's scores, 1 to 5, of what the edit should do, of what it should leave, and of its quality, none above the first "
    "(OpenVE-Bench's criteria).", tuple(f"judge_{part}" for part in CAPPED_PARTS), _ask_capped, _combine_capped, lambda item: 1,
    2 * CAPPED_FRAMES, ("instruction",),
)  # fmt: skip


# ReCo-Bench: nine scores of 0 to 10, of frames side by side.

NINE_FRAMES, NINE_HEIGHT = 11, 224
"""The published code shows every eighth frame of 81, this high."""
NINE = {
    "accuracy": ("semantic", "scope", "preservation"), "naturalness": ("appearance", "scale", "motion"),
    "video_quality": ("fidelity", "steadiness", "persistence"),
}  # fmt: skip
NINE_TEXT = (
    "Each picture shows a frame of an original video on the left, and the same frame of its edit on the right. The edit should follow this "
    "instruction:\n{asked}\n\nGive nine scores from 0 to 10:\n"
    "semantic: does the edit do what the instruction says?\nscope: is only what should change changed?\n"
    "preservation: is everything else kept; of a change of style, is the structure?\n"
    "appearance: are light, texture and colour of what was edited natural?\nscale: has it a reasonable size?\n"
    "motion: does it move as such a thing would?\nfidelity: is the video clear and sharp, without faults?\n"
    "steadiness: is it free of flicker and jitter?\npersistence: does what was edited stay itself throughout?\n"
)


def _ask_nine(inputs: Inputs, mode: str) -> list[Question]:
    wanted: dict[str, Range | Choices] = dict.fromkeys(sum(NINE.values(), ()), (0.0, 10.0))
    pictures = tuple(
        (f"Frame {at}", jpeg(_shrunk(torch.cat([inputs.source[at], inputs.edit[at]], dim=1), NINE_HEIGHT), 75))
        for at in evenly(len(inputs.edit), NINE_FRAMES)
    )
    return [Question(NINE_TEXT.format(asked=inputs.item.instruction) + _keys([*wanted]), pictures, wanted)]


def _shrunk(frame: torch.Tensor, height: int) -> torch.Tensor:
    """[H, W, 3] uint8, no higher than this, in its shape."""
    import numpy as np
    from PIL import Image

    high, wide = frame.shape[:2]
    if high <= height:
        return frame
    image = Image.fromarray(frame.contiguous().numpy()).resize((round(wide * height / high), height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image))


def _combine_nine(item: Item, answers: Answers) -> dict[str, float]:
    """Of each group the cube root of the product."""
    return {f"judge_{name}": math.prod(float(answers[0][part]) for part in parts) ** (1 / 3) for name, parts in NINE.items()}


NINE_SCORES = Rubric(
    "judge_nine", "A judge's nine scores, 0 to 10, as the geometric means of accuracy, naturalness and quality (ReCo-Bench's criteria).",
    tuple(f"judge_{name}" for name in NINE), _ask_nine, _combine_nine, lambda item: 1, NINE_FRAMES, ("instruction",),
)  # fmt: skip

RUBRICS = {"editverse": FRAMES, "ive": CLIP, "vie": PAIR, "five": ANSWERS, "openve": CAPPED, "reco": NINE_SCORES}
"""{bench: what its judge is asked}; PAIR for all others."""
