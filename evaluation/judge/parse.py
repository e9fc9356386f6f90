"""The answer of a judge, strictly: one JSON object with every score that was asked for, each in its range."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

Range = tuple[float, float]
Choices = frozenset[str]

REASON = "reason"
"""The key under which a judge says why."""


def parsed(text: str, wanted: Mapping[str, Range | Choices]) -> dict[str, float | str]:
    """{key: number or choice}. Raises ValueError for what is not an object, lacks a key, or is out of range."""
    answer = json_object(text)
    plain = {_plain(key): value for key, value in answer.items()}
    found: dict[str, float | str] = {}
    for key, allowed in wanted.items():
        if _plain(key) not in plain:
            raise ValueError(f"there is no {key}")
        value = plain[_plain(key)]
        found[key] = _choice(key, value, allowed) if isinstance(allowed, frozenset) else _number(key, value, allowed)
    return found


def reason_in(text: str) -> str:
    """What the judge says of why, or its whole answer."""
    try:
        return str(json_object(text).get(REASON) or text).strip()
    except ValueError:
        return text.strip()


def json_object(text: str) -> dict:
    """The text, without a code fence, or else its first balanced {...} that is JSON. Raises ValueError."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    decoder = json.JSONDecoder()
    candidate = fenced[1] if fenced else text
    for start in (match.start() for match in re.finditer(r"\{", candidate)):
        try:
            found, _ = decoder.raw_decode(candidate, start)
        except (ValueError, RecursionError):
            continue
        return found
    raise ValueError(f"no JSON object in {text.strip()[:60]!r}")


def _plain(key: str) -> str:
    """Without a range in brackets, case, underscores and blanks: "Quality score (1-10)" and quality_score are one."""
    return re.sub(r"\(.*?\)|[\s_]+", "", key).lower()


def _number(key: str, value, allowed: Range) -> float:
    """The first number of a text counts."""
    if isinstance(value, str) and (match := re.search(r"-?\d+(?:\.\d+)?", value)):
        value = float(match[0])
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{key} is no number")
    low, high = allowed
    if not low <= value <= high:
        raise ValueError(f"{key} is {value:g}, which is not from {low:g} to {high:g}")
    return float(value)


def _choice(key: str, value, allowed: Choices) -> str:
    plain = str(value).strip().strip(".()'\"").lower()
    if plain not in allowed:
        raise ValueError(f"{key} is none of {', '.join(sorted(allowed))}")
    return plain
