"""What an edited video says of how it was made: enough to make it again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path

from ..version import __version__
from ..video.writing.png import FIRST_PICTURE
from .request import Edit, ModelChoice

TAG = "liveditor"
"""Name of the file's metadata that holds the record, as JSON."""

PACKAGES = ("torch", "diffusers", "transformers", "ray")

AS_GIVEN = "as_given"
"""Key of a record: its relative paths that are seen from where the edit was made, and not from its file."""

EDIT_PATHS, MODEL_PATHS = ("video", "mask", "references"), ("model", "text_encoder", "vae", "loras")
"""Values of an Edit and of a ModelChoice that are paths, or several."""

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


def record_of(edit: Edit, choice: ModelChoice | None, folder: Path) -> dict:
    """The edit's values, {"model": the choice's, "versions": ..., AS_GIVEN: paths that are not as seen from there}. choice: None for a
    pipeline that `load` did not make.

    folder: where the file with the record will lie; see `seen_from`.
    """
    model = choice and {name: value for name, value in asdict(choice).items() if name not in ELSEWHERE}
    as_given = []

    def told(path: str) -> str:
        if (seen := seen_from(folder, path)) is None:
            as_given.append(path)
        return path if seen is None else seen

    record = with_paths(asdict(edit) | {"model": model, "versions": versions()}, told)
    return record | ({AS_GIVEN: as_given} if as_given else {})


def with_paths(record: dict, change: Callable[[str], str]) -> dict:
    """The record with every path in it changed."""

    def changed(values: dict, names: tuple[str, ...]) -> dict:
        found = {name: values[name] for name in names if values.get(name)}
        return values | {
            name: change(value) if isinstance(value, str) else tuple(map(change, value)) for name, value in found.items()
        }

    record = changed(record, EDIT_PATHS)
    if isinstance(model := record.get("model"), dict):
        names = MODEL_PATHS if model.get("model") != ModelChoice.model else ("loras",)
        record["model"] = changed(model, names)
    return record


def seen_from(folder: Path, path: str) -> str | None:
    """A relative path as seen from `folder`, which holds wherever the reader works, and where both are moved together. An absolute one as
    it is.

    None for one that is not there, and for one that would then name folders which it does not name itself, above the present one: a
    record tells no more of a machine than it was given.
    """
    given = Path(path)
    if given.is_absolute():
        return path
    if not os.path.exists(path):
        return None
    try:
        seen = Path(os.path.relpath(Path(os.path.realpath(given.parent), given.name), os.path.realpath(folder)))
    except ValueError:  # on another drive of Windows
        return None
    names = tuple(part for part in seen.parts if part != os.pardir)
    return seen.as_posix() if names == given.parts[len(given.parts) - len(names) :] else None


def found_from(folder: Path, path: str) -> str | None:
    """The file that `seen_from` recorded, as the reader sees it; None where there is none as seen from `folder`. A relative path stays one,
    so that a new record has no other names."""
    there = folder / path
    if not os.path.exists(there):
        return None
    try:
        return str(there) if Path(path).is_absolute() else os.path.relpath(there)
    except ValueError:  # on another drive of Windows
        return str(there)


def recorded_in(path: str | Path) -> dict:
    """The record of an edited file, or of a folder of pictures, whose first one holds it.

    Raises ValueError in one sentence for a file without one. A GIF has no place for it.
    """
    path = Path(path)
    try:
        tags = _tags_of(path / FIRST_PICTURE if path.is_dir() else path)
    except (OSError, ValueError) as error:  # PyAV's own and Pillow's are among them
        raise ValueError(f"{path} cannot be read ({error}).") from None
    try:
        record = json.loads(tags.get(TAG) or tags.get(TAG.upper()) or "null")
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("model"), dict):
        raise ValueError(
            f"{path.name} does not say how it was made: take a file that `liveditor edit` has written, of another format than GIF."
        )
    return record


def _tags_of(path: Path) -> dict[str, str]:
    if path.suffix.lower() == ".png":
        from PIL import Image

        with Image.open(path) as picture:
            return getattr(picture, "text", {})
    import av

    with av.open(str(path)) as container:
        return dict(container.metadata)
