"""What instructions say besides `phrases` where backgrounds are filmed: colour grades, and English as people type it.

Same form as there. The clips without film, and their held-out split, keep their instructions, so that scores stay comparable.
"""

from __future__ import annotations

STYLE_WORDS = {
    "warm": (("warm", "warmer", "look warm"), ("a warm video", "a clip with warm colours"), ("warm", "warming")),
    "cool": (("cool", "cooler", "look cold"), ("a cool video", "a clip with cold colours"), ("cool", "cold")),
    "faded": (("faded", "look faded", "washed out"), ("a faded film", "a washed out video"), ("faded", "washed out", "matte")),
    "vivid": (("vivid", "more colourful", "look vivid"), ("a vivid film", "a colourful video"), ("vivid", "vibrant")),
    "high contrast": (
        ("look high in contrast", "stronger in contrast"),
        ("a high contrast film", "a video with strong contrast"),
        ("high contrast", "strong contrast"),
    ),
    "teal and orange": (
        ("teal and orange", "look teal and orange"),
        ("a teal and orange film", "a blockbuster in teal and orange"),
        ("teal and orange", "blockbuster"),
    ),
    # "Warm" alone is the grade.
    "sunset": (
        ("look like sunset", "orange like at sunset"),
        ("a sunset scene", "a warm sunset", "a scene at sunset"),
        ("sunset",),
    ),
}

STYLE_COMMANDS = {
    "warm": ("warm up the colours", "make the colours warmer", "give {video} warm colours"),
    "cool": ("cool down the colours", "make the colours cooler", "give {video} cold colours"),
    "faded": ("fade the colours", "wash out the colours", "make the colours fade"),
    "vivid": ("boost the colours", "make the colours pop", "[increase|boost] the saturation"),
    "high contrast": ("[increase|boost|raise] the contrast", "add more contrast"),
    "teal and orange": ("grade {video} in teal and orange", "make shadows teal and highlights orange"),
}

TEMPLATES = {
    "add": (
        "could you please [add|put] {new} {place}?",
        "I'd like [to see|to have] {new} {place}",
        "this [video|clip] needs {new} {place}",
        "how about {new} {place}?",
    ),
    "remove": (
        "could you please [remove|erase|take out] {ref}?",
        "I'd like {ref} to be [gone|removed]",
        "I do not want {ref} in this [video|clip]",
        "this [video|clip] would look better without {ref}",
        "cut {ref} out of this [video|clip]",
    ),
    "swap": (
        "I'd like {new} instead of {ref}",
        "I'd rather [see|have] {new} than {ref}",
        "could you please [swap|exchange] {ref} for {new}?",
        "how about {new} instead of {ref}?",
        "could you turn {ref} into {new}?",
    ),
    "recolour": (
        "could you please make {ref} {colour}?",
        "I'd like {ref} in {colour}",
        "I'd like {ref} to be {colour} instead",
        "how about {colour} for {ref}?",
        "give {ref} {a colour} look",
    ),
    "stylise_object": (
        "could you make {ref} look {adjective}?",
        "could you please give {ref} {noun}?",
        "I'd like {ref} to have {noun}",
        "I'd like {ref} to look {adjective}",
        "how about {noun} on {ref}?",
    ),
    "style": (
        "could you make {video} look like {becomes}?",
        "could you please make {video} {made}?",
        "[turn|change] this [clip|video] into {becomes}",
        "make this [clip|video] look like {becomes}, please",
        "give this [clip|video] {an effect} look",
        "I'd like [this clip|this video|it] to look like {becomes}",
    ),
    "background": (
        "could you please put {them} {there}?",
        "could you make the background look like {scene}?",
        "I'd like {scene} as the background",
        "I'd like {scene} instead of this background",
        "I'd like to see {them} {there}",
        "how about {scene} behind {them}?",
    ),
}
