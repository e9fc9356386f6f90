"""Chooses an edit for a scene, by name, and the instruction for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from random import Random
from typing import NamedTuple

from . import film_phrases, photos, phrases
from .scenes import COLOURS, LOOKS, PLACES, SHAPES, SLOTS, Thing
from .styles import GRADES, STYLES
from .textures import NAMED, NAMELESS, PLAIN

FILM = "film"
"""The background that `data.procedural.footage` draws."""

TASKS = ("add", "remove", "swap", "recolour", "stylise_object", "style", "background")

PAIRS = tuple(Thing(shape, colour) for shape, colour in product(SHAPES, COLOURS))
USUAL, UNUSUAL = ([thing for thing in PAIRS if thing.is_held_out == held_out] for held_out in (False, True))

SOURCE_LOOKS = ("plain",) * 6 + ("striped", "dotted", "checked", "outlined")
"""Looks in which colour and shape stay recognisable; the others occur only as the result of an edit."""

HALVED = ("striped", "checked")
"""Looks in which a black and a white object are the same."""

NEW_LOOKS = ("plain",) * 8 + ("striped", "dotted", "checked", "golden", "glowing")

HIDDEN = {
    "meadow": ("green",),
    "sea": ("blue",),
    "desert": ("orange",),
    "night sky": ("black",),
    "snowy mountains": ("white",),
    "brick wall": ("red",),
    "wooden wall": (),
    "cloudy sky": ("white", "blue"),
    "chequerboard": ("black", "white"),
    "city": ("black",),
}
"""Colours that would hardly be visible before a named background."""


@dataclass(frozen=True)
class Plan:
    """One clip and its edit."""

    task: str
    before: tuple[Thing | None, ...]
    """SLOTS objects from back to front, None where there is none."""
    after: tuple[Thing | None, ...]
    background: str
    """A painter's name, "photo", "photo, not dark", or FILM."""
    instruction: str
    place: str | None = None
    """Where the added object is: in the centre, if the instruction does not say it."""
    new_background: str | None = None
    style: str | None = None

    @property
    def edited(self) -> int | None:
        """Slot of the edited object."""
        changed = [slot for slot, (old, new) in enumerate(zip(self.before, self.after)) if old != new]
        return changed[0] if changed else None


def plan(rng: Random, split: str, tasks: tuple[str, ...] = TASKS, filmed: bool = False) -> Plan:
    """A random clip and a random one of the tasks.

    split: "train" never draws pairs of colour and shape that are held out; in "held-out", the object that an edit makes,
    or else the one that it changes, is such a pair.
    filmed: about half of the backgrounds are films, in "held-out" all; grades and the words of `film_phrases` come in.
    """
    task = rng.choice(tasks)
    share = (1.0 if split == "held-out" else 0.8 if task == "style" else 0.5) if filmed else 0.0
    background = FILM if share and rng.random() < share else _background(rng, split, bright=task == "style")
    if task == "style":
        return _plan_style(rng, split, background, filmed)
    if task == "background":
        return _plan_background(rng, split, background, filmed)
    return _plan_object(rng, split, task, background, filmed)


def _background(rng: Random, split: str, bright: bool) -> str:
    if photos.names(split) and rng.random() < (0.65 if bright else 0.5):
        return "photo, not dark" if bright else "photo"
    kinds = NAMED if rng.random() < 0.6 else NAMELESS
    return rng.choice([name for name in kinds if not (bright and name in PLAIN)])


class _Cast:
    """Chooses a scene's objects: no pair of colour and shape twice, no colour that would hardly show."""

    def __init__(self, rng: Random, *backgrounds: str):
        hidden = {colour for name in backgrounds for colour in HIDDEN.get(name, ())}
        self._rng = rng
        self._usual, self._unusual = ([thing for thing in pool if thing.colour not in hidden] for pool in (USUAL, UNUSUAL))

    def pick(
        self,
        unusual: bool = False,
        fits: Callable[[Thing], bool] = lambda thing: True,
        looks: Sequence[str] = SOURCE_LOOKS,
    ) -> Thing:
        pool = self._unusual if unusual else self._usual
        thing = self._rng.choice([thing for thing in pool if fits(thing)])
        pool.remove(thing)
        distinct = [look for look in looks if look not in HALVED or thing.colour not in ("black", "white")]
        return replace(thing, look=self._rng.choice(distinct))


def _plan_style(rng: Random, split: str, background: str, filmed: bool) -> Plan:
    cast = _Cast(rng, background)
    if background == FILM:
        count = rng.choices((0, 1, 2), (6, 2, 1))[0]
    else:
        count = rng.randint(0 if background.startswith("photo") else 1, SLOTS)
    slots = _in_slots(rng, [cast.pick(split == "held-out" and rank == 0) for rank in range(count)])
    styles, words, commands = STYLES, phrases.STYLE_WORDS, phrases.STYLE_COMMANDS
    if filmed:
        styles, words = styles | GRADES, words | film_phrases.STYLE_WORDS
        commands = commands | film_phrases.STYLE_COMMANDS
    style = rng.choice(list(styles))
    made, becomes, effect = (rng.choice(choices) for choices in words[style])
    fields = {"video": rng.choice(phrases.VIDEO), "made": made, "becomes": becomes, "effect": effect}
    fields["an effect"] = phrases.indefinite(effect)
    instruction = phrases.phrase(rng, split, "style", fields, commands[style], filmed)
    return Plan("style", slots, slots, background, instruction, style=style)


def _plan_background(rng: Random, split: str, background: str, filmed: bool) -> Plan:
    new = rng.choice([name for name in NAMED if name != background])
    cast = _Cast(rng, background, new)
    things = [cast.pick(split == "held-out" and rank == 0) for rank in range(_count(rng))]
    scene, there = (rng.choice(words) for words in phrases.BACKGROUND_WORDS[new])
    them = ["it", f"the {phrases.refer(rng, things[0], [])}"] if len(things) == 1 else ["them", "the objects"]
    fields = {"scene": scene, "there": there, "them": rng.choice(them)}
    slots = _in_slots(rng, things)
    instruction = phrases.phrase(rng, split, "background", fields, filmed=filmed)
    return Plan("background", slots, slots, background, instruction, new_background=new)


def _count(rng: Random) -> int:
    return rng.choices((1, 2, 3), (4, 4, 3))[0]


class _ObjectEdit(NamedTuple):
    old: Thing | None
    new: Thing | None
    fields: dict[str, str]
    commands: tuple[str, ...] = ()
    place: str | None = None


def _plan_object(rng: Random, split: str, task: str, background: str, filmed: bool) -> Plan:
    cast = _Cast(rng, background)
    others = [cast.pick() for _ in range(_count(rng) - 1)]
    edit = OBJECT_EDITS[task](rng, cast, split == "held-out")
    fields = edit.fields
    if edit.old:
        words = phrases.refer(rng, edit.old, others)
        fields |= {"ref": f"the {words}", "bare": words}
    instruction = phrases.phrase(rng, split, task, fields, edit.commands, filmed)
    pairs = [(thing, thing) for thing in others] + [(edit.old, edit.new)]
    before, after = zip(*_in_slots(rng, pairs, absent=(None, None)))
    return Plan(task, before, after, background, instruction, place=edit.place)


def _add(rng: Random, cast: _Cast, unusual: bool) -> _ObjectEdit:
    new = cast.pick(unusual, looks=NEW_LOOKS)
    fields = {"new": phrases.indefinite(phrases.describe(rng, new))}
    if rng.random() < 0.2:
        return _ObjectEdit(None, new, fields, place="centre")
    place = rng.choice(list(PLACES))
    return _ObjectEdit(None, new, fields | {"place": rng.choice(phrases.PLACE_WORDS[place])}, place=place)


def _remove(rng: Random, cast: _Cast, unusual: bool) -> _ObjectEdit:
    return _ObjectEdit(cast.pick(unusual), None, {})


def _swap(rng: Random, cast: _Cast, unusual: bool) -> _ObjectEdit:
    new = cast.pick(unusual, looks=NEW_LOOKS)
    old = cast.pick(fits=lambda thing: thing.shape != new.shape)
    return _ObjectEdit(old, new, {"new": phrases.indefinite(phrases.describe(rng, new))})


def _recolour(rng: Random, cast: _Cast, unusual: bool) -> _ObjectEdit:
    new = cast.pick(unusual)
    old = cast.pick(fits=lambda thing: thing.shape == new.shape)
    colour = rng.choice(phrases.COLOUR_WORDS[new.colour])
    return _ObjectEdit(old, replace(new, look=old.look), {"colour": colour, "a colour": phrases.indefinite(colour)})


def _stylise(rng: Random, cast: _Cast, unusual: bool) -> _ObjectEdit:
    """Removes a pattern or an outline, or gives a plain object a look, so that no look replaces another."""
    look = rng.choice(LOOKS)
    old = cast.pick(unusual, looks=[name for name in SOURCE_LOOKS if (name == "plain") != (look == "plain")])
    adjective, noun = (rng.choice(words) for words in phrases.LOOK_WORDS[look])
    # The commands for "plain" speak of a pattern, which an outline is not.
    commands = phrases.LOOK_COMMANDS[look] if old.look != "outlined" else ()
    return _ObjectEdit(old, replace(old, look=look), {"adjective": adjective, "noun": noun}, commands)


OBJECT_EDITS = {"add": _add, "remove": _remove, "swap": _swap, "recolour": _recolour, "stylise_object": _stylise}


def _in_slots(rng: Random, entries: list, absent=None) -> tuple:
    """Entries in random slots, the rest absent."""
    slots = [*entries, *[absent] * (SLOTS - len(entries))]
    rng.shuffle(slots)
    return tuple(slots)


def all_instructions(count: int, seed: int = 0, filmed: bool = False) -> Iterator[str]:
    """Instructions of the train split, all tasks alike: the text to make a vocabulary from. filmed: as for `plan`."""
    rng = Random(f"instructions {seed}")
    for _ in range(count):
        yield plan(rng, "train", filmed=filmed).instruction
