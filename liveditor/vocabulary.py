"""What a small text encoder was taught: a large one knows every word, a small one just those of its training."""

from __future__ import annotations

import re


def words(text: str) -> list[str]:
    """Its words in lower case, in order; hyphens and apostrophes belong to them."""
    return re.findall(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*", text.lower())


def unknown_words(text: str, known: frozenset[str]) -> list[str]:
    """Those of `text` that are not in `known`, each once."""
    return list(dict.fromkeys(word for word in words(text) if word not in known))
