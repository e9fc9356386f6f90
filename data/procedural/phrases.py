"""Instructions: words for every name, sentence templates for every task.

In templates, [a|b] is either, and {name} a phrase that depends on the edit. Each task has its held-out templates, made of
words that the others use too; the train split never uses them.
"""

from __future__ import annotations

import re
from random import Random

from . import film_phrases
from .scenes import COLOURS, LOOKS, PLACES, SHAPES, Thing
from .styles import STYLES
from .textures import NAMED

SHAPE_WORDS = {
    "ball": ("ball", "ball", "circle"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "ring": ("ring", "ring", "hoop"),
    "diamond": ("diamond", "diamond", "rhombus"),
    "cross": ("cross", "cross", "plus sign"),
}
"""An entry that occurs twice is chosen twice as often."""

COLOUR_WORDS = {name: (name,) for name in COLOURS} | {
    "turquoise": ("turquoise", "turquoise", "cyan"),
    "purple": ("purple", "purple", "violet"),
}

LOOK_WORDS = {
    "plain": (("plain", "smooth"), ("a plain surface", "a smooth surface")),
    "striped": (("striped", "stripy"), ("stripes", "a striped pattern")),
    "dotted": (("dotted", "spotted"), ("dots", "spots", "polka dots")),
    "checked": (("checked", "chequered"), ("checks", "a checked pattern", "a chequered pattern")),
    "outlined": (("outlined",), ("an outline", "a thick outline")),
    "golden": (("golden", "gold"), ("a golden surface", "a gold finish")),
    "glowing": (("glowing", "shining"), ("a glow", "a bright glow")),
    "see-through": (("see-through", "transparent"), ("a see-through look", "a transparent look")),
}
"""Each look as an adjective, and as something that an object has."""

LOOK_COMMANDS = {
    "plain": ("remove the pattern from {ref}", "take the pattern off {ref}"),
    "striped": ("cover {ref} with stripes", "paint stripes on {ref}"),
    "dotted": ("cover {ref} with dots", "paint spots on {ref}"),
    "checked": ("cover {ref} with checks", "paint checks on {ref}"),
    "outlined": ("draw an outline around {ref}", "outline {ref}"),
    "golden": ("turn {ref} into gold", "{ref} should be made of gold"),
    "glowing": ("make {ref} [glow|shine]", "let {ref} [glow|shine]"),
    "see-through": ("make {ref} look like glass", "turn {ref} into glass"),
}

PLACE_WORDS = {
    "left": ("on the left", "on the left side", "to the left"),
    "right": ("on the right", "on the right side", "to the right"),
    "top": ("at the top", "in the upper part"),
    "bottom": ("at the bottom", "in the lower part"),
    "centre": ("in the middle", "in the centre"),
    "top left": ("at the top left", "in the top left corner", "in the upper left corner"),
    "top right": ("at the top right", "in the top right corner", "in the upper right corner"),
    "bottom left": ("at the bottom left", "in the bottom left corner", "in the lower left corner"),
    "bottom right": ("at the bottom right", "in the bottom right corner", "in the lower right corner"),
}

BACKGROUND_WORDS = {
    "meadow": (("a green meadow", "a meadow", "a field of grass"), ("in a green meadow", "in a meadow", "on the grass")),
    "sea": (("the sea", "the ocean", "a blue sea"), ("at sea", "on the ocean", "by the sea")),
    "desert": (("a desert", "a sandy desert", "sand dunes"), ("in the desert", "on sand dunes")),
    "night sky": (("a starry sky", "a night sky with stars"), ("in the night sky", "under a starry sky", "among the stars")),
    "snowy mountains": (
        ("snowy mountains", "a snowy mountain", "mountains with snow"),
        ("in the snowy mountains", "on a snowy mountain", "in the snow"),
    ),
    "brick wall": (("a brick wall", "a wall of bricks"), ("in front of a brick wall", "in front of bricks")),
    "wooden wall": (("a wooden wall", "wooden planks"), ("in front of a wooden wall", "in front of wooden planks")),
    "cloudy sky": (("a cloudy sky", "a blue sky with clouds", "clouds"), ("in the clouds", "in a cloudy sky")),
    "chequerboard": (("a chequerboard", "a checkerboard"), ("on a chequerboard", "in front of a checkerboard")),
    "city": (("a city", "a city skyline", "a city at dusk"), ("in the city", "in front of a city skyline")),
}
"""Each background as a noun, and as the place of the objects."""

STYLE_WORDS = {
    "black and white": (
        ("black and white", "monochrome", "grey"),
        ("a black and white film", "a black and white video", "a greyscale video"),
        ("black and white", "greyscale", "monochrome"),
    ),
    "sepia": (
        ("sepia", "look old and brown"),
        ("an old sepia photograph", "a sepia film", "an old brown photograph"),
        ("sepia", "old photograph"),
    ),
    "night": (("look like night", "dark like the night"), ("a night scene", "a scene at night"), ("night", "moonlight")),
    "sunset": (
        ("look like sunset", "warm and orange"),
        ("a sunset scene", "a warm sunset", "a scene at sunset"),
        ("sunset", "warm"),
    ),
    "inverted": (
        ("look like a negative", "inverted"),
        ("a negative", "a colour negative"),
        ("negative", "inverted colour"),
    ),
    "poster": (
        ("look like a poster", "posterised"),
        ("a poster", "a poster with few colours", "a printed poster"),
        ("poster", "posterised"),
    ),
    "pencil sketch": (
        ("look like a pencil sketch", "look drawn in pencil"),
        ("a pencil sketch", "a pencil drawing"),
        ("pencil sketch", "pencil drawing"),
    ),
    "mosaic": (("pixelated", "blocky"), ("a mosaic", "pixel art", "big pixels"), ("mosaic", "pixel")),
    "dreamy": (("blurry", "soft and dreamy", "blurred"), ("a blurry dream", "a soft dream"), ("dreamy", "blur", "soft")),
    "cartoon": (
        ("look like a cartoon", "look like a comic"),
        ("a cartoon", "a comic", "a cartoon with dark outlines"),
        ("cartoon", "comic"),
    ),
    "neon": (("look like neon", "glow like neon"), ("neon lights", "glowing neon lines"), ("neon", "neon light")),
    "foggy": (("foggy", "misty"), ("a foggy scene", "a scene in fog", "a misty day"), ("fog", "mist")),
    "underwater": (
        ("look like it is under water", "look like it is deep in the sea"),
        ("an underwater scene", "a scene under water"),
        ("underwater",),
    ),
}
"""Each style as a property of the video, as what the video becomes, and as the name of the effect."""

STYLE_COMMANDS = {
    "black and white": ("remove all [colour|colours|color]", "take all [colour|colours] out of {video}"),
    "sepia": ("give {video} old brown colours",),
    "night": ("turn day into night", "set the scene at night"),
    "sunset": ("give {video} warm sunset colours", "set the scene at sunset"),
    "inverted": ("invert [the|all] colours", "invert {video}"),
    "poster": ("posterise {video}", "use only few colours"),
    "pencil sketch": ("draw {video} in pencil", "sketch {video}"),
    "mosaic": ("pixelate {video}", "show {video} in big pixels"),
    "dreamy": ("blur {video}", "blur everything"),
    "cartoon": ("draw {video} as a cartoon", "draw everything like in a comic"),
    "neon": ("show only glowing lines", "draw {video} in neon lights"),
    "foggy": ("add [fog|mist]", "fill the scene with [fog|mist]"),
    "underwater": ("put the [video|scene] under water", "put everything under water"),
}

TEMPLATES = {
    "add": (
        "[add|add|put|place|insert|draw] {new} {place}",
        "[make|let] {new} appear {place}",
        "{place}, [add|put|draw] {new}",
        "I want {new} {place}",
        "there should be {new} {place}",
        "[show|include] {new} {place}",
        "add {new} to the [video|scene] {place}",
        "bring in {new} {place}",
        "[can|could] you [add|put] {new} {place}?",
    ),
    "remove": (
        "[remove|remove|delete|erase] {ref}",
        "[get rid of|take away|take out] {ref}",
        "make {ref} [disappear|vanish|go away]",
        "{ref} should [disappear|vanish|be gone]",
        "[remove|erase] {ref} from the [video|scene|clip]",
        "take {ref} [away|out]",
        "I want {ref} [removed|gone]",
        "there should be no {bare}",
        "[show|I want] the [video|scene] without {ref}",
        "can you [remove|delete] {ref}?",
    ),
    "swap": (
        "replace {ref} [with|by] {new}",
        "swap {ref} for {new}",
        "[turn|change|transform] {ref} into {new}",
        "{ref} should [become|be] {new}",
        "exchange {ref} for {new}",
        "substitute {new} for {ref}",
        "put {new} in place of {ref}",
        "[use|show|draw] {new} instead of {ref}",
        "I want {new} instead of {ref}",
        "can you [replace {ref} with|turn {ref} into] {new}?",
    ),
    "recolour": (
        "[make|paint|colour|color] {ref} {colour}",
        "[change|turn] {ref} to {colour}",
        "change the [colour|color] of {ref} to {colour}",
        "recolour {ref} {colour}",
        "turn {ref} {colour}",
        "{ref} should be {colour}",
        "give {ref} {a colour} [colour|color]",
        "I want {ref} to be {colour}",
        "can you make {ref} {colour}?",
    ),
    "stylise_object": (
        "make {ref} {adjective}",
        "make {ref} look {adjective}",
        "give {ref} {noun}",
        "add {noun} to {ref}",
        "put {noun} on {ref}",
        "{ref} should [be|look] {adjective}",
        "{ref} should have {noun}",
        "I want {ref} to [be|look] {adjective}",
        "can you make {ref} {adjective}?",
    ),
    "style": (
        "make {video} {made}",
        "[turn|transform|change] {video} into {becomes}",
        "{video} should look like {becomes}",
        "I want {video} to look like {becomes}",
        "restyle {video} as {becomes}",
        "[apply|add] {an effect} [effect|filter]",
        "use the {effect} [style|effect|filter]",
        "give {video} {an effect} [look|style]",
        "can you make {video} {made}?",
    ),
    "background": (
        "[change|set] the background to {scene}",
        "[replace the background with|swap the background for] {scene}",
        "[make|turn] the background into {scene}",
        "the background should be {scene}",
        "put {them} {there}",
        "[place|show|let me see] {them} {there}",
        "use {scene} as the background",
        "put {scene} behind {them}",
        "I want {them} {there}",
        "can you put {them} {there}?",
    ),
}

AMERICAN = {"colour": "color", "grey": "gray", "centre": "center", "chequer": "checker", "posterise": "posterize"}

HELD_OUT_TEMPLATES = {
    "add": ("the [video|scene] should have {new} {place}", "let there be {new} {place}"),
    "remove": ("let {ref} [vanish|disappear]", "I want no {bare} in the [video|scene]"),
    "swap": ("let {ref} become {new}", "instead of {ref}, [show|draw] {new}"),
    "recolour": ("let {ref} be {colour}", "the colour of {ref} should be {colour}"),
    "stylise_object": ("let {ref} look {adjective}", "I want {noun} on {ref}"),
    "style": ("show {video} as {becomes}", "let {video} look like {becomes}"),
    "background": ("let {them} be {there}", "show {scene} behind {them}"),
}

UNCHANGED = (
    ", keep everything else the same",
    " and keep everything else the same",
    " and leave the rest as it is",
    ", do not change anything else",
)
"""What may follow a command."""

UNCHANGED_TOO = (", everything else should stay the same", ", nothing else should change")
"""What may follow a statement."""

STATEMENTS = ("I ", "I'd ", "the ", "there ", "this ")

VIDEO = ("it", "the video", "the video", "the clip", "the scene", "the whole video")


def capabilities() -> dict[str, tuple[str, ...]]:
    """What instructions can name."""
    return {
        "shapes": SHAPES,
        "colours": tuple(COLOURS),
        "looks": LOOKS,
        "places": tuple(PLACES),
        "styles": tuple(STYLES),
        "backgrounds": tuple(NAMED),
    }


def indefinite(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def describe(rng: Random, thing: Thing) -> str:
    """Words without article: "striped red star"; golden things have no other colour."""
    words = [] if thing.look == "golden" else [rng.choice(COLOUR_WORDS[thing.colour])]
    if thing.look != "plain":
        words.insert(0, rng.choice(LOOK_WORDS[thing.look][0]))
    return " ".join([*words, rng.choice(SHAPE_WORDS[thing.shape])])


def refer(rng: Random, thing: Thing, others: list[Thing]) -> str:
    """Words without article that fit this object and none of the others: "red star", "star", "red one"."""
    colour, shape = rng.choice(COLOUR_WORDS[thing.colour]), rng.choice(SHAPE_WORDS[thing.shape])
    choices = [f"{colour} {shape}"] * 5
    if all(other.shape != thing.shape for other in others):
        choices += [shape] * 3
    if all(other.colour != thing.colour for other in others):
        choices += [f"{colour} {rng.choice(('object', 'shape', 'one'))}"]
    return rng.choice(choices)


def phrase(
    rng: Random, split: str, task: str, fields: dict[str, str], commands: tuple[str, ...] = (), filmed: bool = False
) -> str:
    """One instruction.

    fields: a phrase for each {name} that the task's templates use; without a "place", no place is said.
    commands: templates for this very look or style; the train split uses them as well.
    filmed: the train split uses the templates of `film_phrases` too.
    """
    templates = HELD_OUT_TEMPLATES[task] if split == "held-out" else TEMPLATES[task]
    if split == "train" and filmed:
        templates += film_phrases.TEMPLATES[task]
    if split == "train" and commands and rng.random() < 0.25:
        templates = commands
    if task == "add" and "place" not in fields:
        templates = tuple(template.replace(" {place}", "") for template in templates if " {place}" in template)
    chosen = re.sub(r"\[([^]]*)\]", lambda found: rng.choice(found[1].split("|")), rng.choice(templates))
    return _finish(rng, chosen.format_map(fields), may_go_on=task != "style")


def _finish(rng: Random, text: str, may_go_on: bool) -> str:
    is_question, is_statement = text.endswith("?"), text.startswith(STATEMENTS)
    if rng.random() < 0.08 and not is_question and not is_statement and "," not in text:
        text = f"please {text}"
    if may_go_on and not is_question and rng.random() < 0.25:
        text += rng.choice(UNCHANGED_TOO if is_statement else UNCHANGED)
    if not is_question and rng.random() < 0.25:
        text += "."
    if rng.random() < 0.3:
        for british, american in AMERICAN.items():
            text = text.replace(british, american)
    return text[0].upper() + text[1:] if rng.random() < 0.5 else text
