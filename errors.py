"""What an error says to a user."""

from __future__ import annotations


def sentence(error: Exception) -> str:
    """Of an error that ends an edit, in one line."""
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None or str(error.filename) in error.strerror else f": {error.filename}"
        return f"{error.strerror}{where}."
    if type(error).__name__ == "OutOfMemoryError":
        return f"{str(error).split('. ')[0]}: ask for fewer frames or a smaller size, or choose --offload."
    if isinstance(error, (ValueError, RuntimeError)) and str(error).strip():
        return str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {error}".split("\n")[0]
