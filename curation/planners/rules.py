"""A planner without a model, in the words that the included editor was taught: `data.procedural.phrases`.

Of real footage it asks for what that editor can do there: to change the style, and to add an object at a place. The other tasks change
objects that the editor knows, which real clips have not. Where their share is drawn, the draw is repeated among the possible ones.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ...data.procedural import phrases
from ...data.procedural.scenes import COLOURS, PLACES, SHAPES, Thing
from ...data.procedural.styles import STYLES
from ..outcomes import Work
from ..settings import Settings

TRIES = 50
"""Draws for one proposal: there may be fewer different ones than are asked for."""

SPLIT = "train"
"""Of `data.procedural`: the pairs of colour and shape, and the sentences, that the editor was trained on."""

BACK_FROM_STYLE = (
    "remove the {effect} effect",
    "take the {effect} filter off the video",
    "make the video look as it was filmed",
    "turn {becomes} back into real footage",
    "undo the {effect} look and show natural colours",
)
"""The editor was never taught the way back; it is what a larger one learns from the pair."""


def propose(settings: Settings, work: Work) -> list[dict]:
    """As many proposals as settings ask for, all different, where there are so many. The same for the same clip and seed."""
    rng = Random(f"{settings.seed} {work.facts['clip']}")
    possible = {task: share for task, share in settings.shares.items() if task in TASKS and share > 0}
    found: list[dict] = []
    for _ in range(TRIES * settings.proposals if possible else 0):
        if len(found) == settings.proposals:
            break
        task = rng.choices([*possible], [*possible.values()])[0]
        proposal = TASKS[task](rng, settings.variants)
        if all(proposal["expected"] != other["expected"] for other in found):
            found.append(proposal)
    return found


def _style(rng: Random, variants: int) -> dict:
    style = rng.choice([*STYLES])

    def forward() -> str:
        made, becomes, effect = (rng.choice(words) for words in phrases.STYLE_WORDS[style])
        fields = {"video": rng.choice(phrases.VIDEO), "made": made, "becomes": becomes, "effect": effect}
        fields["an effect"] = phrases.indefinite(effect)
        return phrases.phrase(rng, SPLIT, "style", fields, phrases.STYLE_COMMANDS[style])

    def backward() -> str:
        _, becomes, effect = (rng.choice(words) for words in phrases.STYLE_WORDS[style])
        return rng.choice(BACK_FROM_STYLE).format(becomes=becomes, effect=effect)

    return _proposal("style", "style", forward, backward, variants, {"style": style})


def _add(rng: Random, variants: int) -> dict:
    usual = [Thing(shape, colour) for shape in SHAPES for colour in COLOURS]
    thing = rng.choice([thing for thing in usual if not thing.is_held_out])
    place = rng.choice([*PLACES])

    def forward() -> str:
        fields = {"new": phrases.indefinite(phrases.describe(rng, thing)), "place": rng.choice(phrases.PLACE_WORDS[place])}
        return phrases.phrase(rng, SPLIT, "add", fields)

    def backward() -> str:
        words = phrases.describe(rng, thing)
        return phrases.phrase(rng, SPLIT, "remove", {"ref": f"the {words}", "bare": words})

    expected = {"colour": thing.colour, "shape": thing.shape, "place": place}
    return _proposal("add", "remove", forward, backward, variants, expected) | {"new_object": f"{thing.colour} {thing.shape}"}


def _proposal(
    task: str, back_task: str, forward: Callable[[], str], backward: Callable[[], str], variants: int, expected: dict
) -> dict:
    """Variants may be fewer than asked for: only different ones are kept."""
    ways = [list(dict.fromkeys(say() for _ in range(2 * variants)))[:variants] for say in (forward, backward)]
    return {
        "task": task,
        "back_task": back_task,
        "instruction": ways[0][0],
        "forward": ways[0],
        "backward": ways[1],
        "expected": expected,
    }


TASKS = {"style": _style, "add": _add}
