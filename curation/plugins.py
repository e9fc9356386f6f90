"""Planners and editors by name: this package's own, and anybody's module."""

from __future__ import annotations

import importlib
from types import ModuleType

from ..optional import named_module


def module_of(name: str, folder: str, own: tuple[str, ...]) -> ModuleType:
    """name: one of `own`, modules of `folder` in this package; or the full name of a module that every worker can import.

    Raises ValueError in one sentence where there is none.
    """
    if name in own:
        return importlib.import_module(f".{folder}.{name}", __package__)
    return named_module(name, f"name one of {', '.join(own)}, or a module that Python can import")
