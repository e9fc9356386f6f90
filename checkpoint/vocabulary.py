"""The words of a small text encoder, which knows only those of its training; a large one knows every word."""

from __future__ import annotations

import re

LONGEST_TEXT = 4096
"""Largest number of tokens to which a small encoder pads its text."""


def words(text: str) -> list[str]:
    """The words of a text in lower case, in order; hyphens and apostrophes are part of a word."""
    return re.findall(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*", text.lower())


def unknown_words(text: str, known: frozenset[str]) -> list[str]:
    """The words of `text` that are not in `known`, each once."""
    return list(dict.fromkeys(word for word in words(text) if word not in known))


def check_texts(config: dict) -> None:
    """Raises ValueError unless a small encoder's config has valid words and a valid number of tokens to pad to."""
    words, length = config.get("words", []), config.get("min_length", 1)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or not 0 < length <= LONGEST_TEXT:
        raise ValueError("its config says nonsense of its texts")
