"""Packages that only one node needs. They are imported on use, so that a missing one stops only that node."""

from __future__ import annotations

import importlib
from types import ModuleType

from .errors import is_out_of_memory


def needed(module: str, package: str, python: str = "ComfyUI's Python") -> ModuleType:
    """Import `module` of `package`, for `python`. Raises RuntimeError, which says what to do, where that cannot be imported."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        cure = f"install it into {python} with pip install {package}"
        if isinstance(error, ModuleNotFoundError) and error.name == module.split(".")[0]:
            raise RuntimeError(f"{package} is missing: {cure}.") from None
        raise RuntimeError(f"{package} cannot be imported ({error}): {cure} --force-reinstall.") from error
