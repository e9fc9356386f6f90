"""Planners and editors by name: this package's own, and anybody's module."""

from __future__ import annotations

import importlib
from types import ModuleType


def module_of(name: str, folder: str, own: tuple[str, ...]) -> ModuleType:
    """name: one of `own`, modules of `folder` in this package; or the full name of a module that every worker can import.

    Raises ValueError in one sentence where there is none.
    """
    if name in own:
        return importlib.import_module(f".{folder}.{name}", __package__)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise ValueError(
                f"There is no module {name!r}: name one of {', '.join(own)}, or a module that Python can import."
            ) from None
        raise
