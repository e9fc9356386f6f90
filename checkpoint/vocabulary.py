"""What a small text encoder was taught: a large one knows every word, a small one just those of its training."""

from __future__ import annotations

import re

LONGEST_TEXT = 4096
"""Tokens to which a small encoder may have its text filled up."""


def words(text: str) -> list[str]:
    """Its words in lower case, in order; hyphens and apostrophes belong to them."""
    return re.findall(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*", text.lower())


def unknown_words(text: str, known: frozenset[str]) -> list[str]:
    """Those of `text` that are not in `known`, each once."""
    return list(dict.fromkeys(word for word in words(text) if word not in known))


def check_texts(config: dict) -> None:
    """Raises ValueError unless a small encoder's own config says sense of its words and of the tokens it fills texts up to."""
    words, length = config.get("words", []), config.get("min_length", 1)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or not 0 < length <= LONGEST_TEXT:
        raise ValueError("its config says nonsense of its texts")
