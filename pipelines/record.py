"""What an edited video says of how it was made: enough to make it again."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path

from ..version import __version__
from .request import Edit, ModelChoice

TAG = "liveditor"
"""Name of the file's metadata that holds the record, as JSON."""

PACKAGES = ("torch", "diffusers", "transformers", "ray")

ELSEWHERE = ("device", "offload")
"""Of a ModelChoice: these belong to the machine, not to the edit."""


def versions() -> dict[str, str]:
    """Of this package and those that the result depends on."""
    return {"liveditor-isa": __version__} | {name: found for name in PACKAGES if (found := _version(name))}


@cache
def _version(package: str) -> str | None:
    """Kept, because it takes milliseconds to read, and jobs ask for each clip."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def record_of(edit: Edit, choice: ModelChoice | None) -> dict:
    """The edit's values, {"model": the choice's, "versions": ...}. choice: None for a pipeline that `load` did not make."""
    model = choice and {name: value for name, value in asdict(choice).items() if name not in ELSEWHERE}
    return asdict(edit) | {"model": model, "versions": versions()}


def recorded_in(path: str | Path) -> dict:
    """The record of an edited file. Raises ValueError in one sentence for a file without one."""
    import av

    try:
        with av.open(str(path)) as container:
            tags = dict(container.metadata)
    except (OSError, ValueError) as error:  # PyAV's own are among them
        raise ValueError(f"{path} cannot be read ({error}).") from None
    try:
        record = json.loads(tags.get(TAG) or tags.get(TAG.upper()) or "null")
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("model"), dict):
        raise ValueError(f"{Path(path).name} does not say how it was made: take a file that `liveditor edit` has written.")
    return record
