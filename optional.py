"""Packages that only one node needs. They are imported on use, so that a missing one stops only that node."""

from __future__ import annotations

import importlib
from importlib import metadata
from pathlib import Path
from types import ModuleType

from .errors import is_out_of_memory


def _is_installed() -> bool:
    """Whether pip installed this project, and is not merely its folder on the path."""
    try:
        metadata.version("liveditor-isa")
    except metadata.PackageNotFoundError:
        return False
    return True


def needed(module: str, package: str, extra: str | None = None) -> ModuleType:
    """Import `module` of `package`. Raises RuntimeError, which says what to install where that cannot be imported.

    extra: the one of this project's that brings the package, for a Python of one's own; "" where none brings it; None: ComfyUI's Python
    needs it.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if isinstance(error, ModuleNotFoundError) and error.name == module.split(".")[0]:
            raise missing(package, extra) from None
        cure = f"install it into {_python(extra)} with pip install {package} --force-reinstall"
        raise RuntimeError(f"{package} cannot be imported ({error}): {cure}.") from error


def missing(package: str, extra: str | None = None) -> RuntimeError:
    """The error that says how to install a package; extra: as of `needed`."""
    what = f'"liveditor-isa[{extra}]"' if extra and _is_installed() else package
    return RuntimeError(f"{package} is missing: install it into {_python(extra)} with pip install {what}.")


def _python(extra: str | None) -> str:
    return "ComfyUI's Python" if extra is None else "this Python"


def named_module(name: str, cure: str) -> ModuleType:
    """A module that the user names, by its full name. Raises ValueError in one sentence, which ends with the cure, where there is none."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise ValueError(f"There is no module {name!r}: {cure}.") from None
        raise


def toml_reader(extra: str | None = None) -> ModuleType:
    """The module that reads TOML, Python's own or, before 3.11, the package. Raises RuntimeError as `needed`."""
    try:
        return importlib.import_module("tomllib")
    except ModuleNotFoundError:
        return needed("tomli", "tomli", extra)


def read_toml(path: Path, extra: str | None = None, kind: str = "") -> dict:
    """What a TOML file holds. kind: of file, in front of its name in errors, as "The recipe ". Raises ValueError in one sentence for one that cannot be read or is not TOML."""
    name = f"{kind}{path}"
    try:
        return toml_reader(extra).loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error.strerror}): check the name.") from None
    except ValueError as error:
        raise ValueError(f"{name} is not TOML ({error}).") from None
