"""A planner that asks a VLM: it sees the clip's first, middle and last frame and its caption, and writes the instructions of a task.

The task is drawn from the paper's pool by the shares of the settings, as LIVEditor's appendix C has it; the VLM may answer that the clip has
no suitable target. The criteria are the paper's, the words are ours.
"""

from __future__ import annotations

import base64
import time
from random import Random
from typing import Any

from ...evaluation.judge.client import Reply, ask
from ...evaluation.judge.cost import cost_of
from ...evaluation.judge.parse import json_object
from ...evaluation.judge.rubrics import evenly, jpeg
from .. import measure
from ..outcomes import Work
from ..settings import Settings
from . import Proposals

POOL = {
    "add": "add one object that fits the scene",
    "remove": "remove one object that can be told clearly",
    "swap": "replace one object by another of like size",
    "stylise_object": "change the material or look of one object",
    "style": "change the style of the whole video",
    "human": "change the look of one person, such as face, hair or clothes",
    "other": "change how something moves, or the viewpoint",
}
"""{task: what it asks for}: LIVEditor's groups."""

SYSTEM = "You write instructions for an editor of videos. You answer with one JSON object and nothing else."

TEXT = (
    "These are frames of a real video.{caption}\nPropose an edit of this kind: {task}. It must change clearly what it names, be possible in all "
    "frames, and leave the rest as it is. Do not propose anything unsafe.\n"
    'Answer with JSON: {{"suitable": true or false, "forward": [{count} ways to say the edit], "backward": [{count} ways to say how to get from '
    'the edited video back to this one], "target": one sentence that describes what the edited video shows, "object": the object that is no longer '
    'there, in a few words, or "", "new_object": the object that is there instead, or ""}}. With "suitable": false all of them are empty.'
)
FRAMES = 3
LONGEST = 1000
"""Characters of an instruction or a description."""


def propose(settings: Settings, work: Work) -> Proposals:
    """One question for each of `settings.proposals` different tasks; tasks for which the clip is not suitable are left out.

    Raises JudgeError where there is no answer in the form that is asked for; UnreachableError where there is no VLM any more.
    """
    rng = Random(f"{settings.seed} {work.facts['clip']}")
    possible = _possible(settings)
    found, answers = Proposals(), []
    while possible and len(found) < settings.proposals:
        task = rng.choices([*possible], [*possible.values()])[0]
        del possible[task]
        messages, began = _messages(settings, work, task), time.perf_counter()
        said, reply, attempts = ask(settings.vlm, messages, lambda reply: understood(reply, settings.variants))
        answers.append({"tokens": reply.tokens, "attempts": attempts, "seconds": time.perf_counter() - began})
        assert isinstance(said, dict)
        if said:
            back = {"add": "remove", "remove": "add"}.get(task, task)
            found.append(
                {
                    "task": task,
                    "back_task": back,
                    "instruction": said["forward"][0],
                    "model": reply.model,
                    **said,
                    "expected": {"everywhere": True} if task == "style" else {},
                }
            )
    found.cost = cost_of(answers)
    return found


def questions(settings: Settings) -> int:
    """About one clip that every task suits; for each that does not there is one more, as long as there are tasks."""
    return min(settings.proposals, len(_possible(settings)))


def _possible(settings: Settings) -> dict[str, float]:
    return {task: share for task, share in settings.shares.items() if task in POOL and share > 0}


def understood(reply: Reply, most: int) -> dict[str, Any]:
    """{"forward", "backward"}, `most` texts each at most, "target", a text, and "object" and "new_object" where the answer names them, or
    {} for a clip that is not suitable.

    Raises ValueError for any other answer.
    """
    answer = json_object(reply.text)
    if answer.get("suitable") is False:
        return {}
    if answer.get("suitable") is not True:
        raise ValueError("suitable is neither true nor false")
    found: dict[str, Any] = {}
    for way in ("forward", "backward"):
        texts = answer.get(way)
        if not isinstance(texts, list) or not texts:
            raise ValueError(f"{way} is no list of texts")
        if not all(map(_is_text, texts)):
            raise ValueError(f"{way} holds what is no instruction")
        found[way] = list(dict.fromkeys(text.strip() for text in texts))[:most]
    if not _is_text(answer.get("target")):
        raise ValueError("target is no description")
    named = {name: answer[name].strip() for name in ("object", "new_object") if _is_text(answer.get(name))}
    return found | {"target": answer["target"].strip()} | named


def _is_text(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text.strip()) <= LONGEST and text == text.encode("utf-8", "ignore").decode("utf-8")


def _messages(settings: Settings, work: Work, task: str) -> list[dict]:
    caption = work.facts["source"].get("caption", "")
    text = TEXT.format(caption=f" Its caption: {caption}" if caption else "", task=POOL[task], count=settings.variants)
    frames = measure.read_frames(work.video)
    content: list[dict] = [{"type": "text", "text": text}]
    for at in evenly(len(frames), FRAMES):
        address = f"data:image/jpeg;base64,{base64.b64encode(jpeg(frames[at], 75)).decode()}"
        content.append({"type": "image_url", "image_url": {"url": address}})
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]
