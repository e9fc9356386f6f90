"""Files that are there whole or not at all: written under another name beside it, which nobody else writes to."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_name(path: Path) -> Path:
    """A hidden name beside `path` that no other writer has, in this process or another."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")


def partials_of(path: Path) -> list[Path]:
    """What others write, or left, to become `path`; under the one name that earlier versions gave it, too."""
    pattern = re.compile(rf"\.{re.escape(path.name)}(\.[0-9a-f]{{8}})?\.partial")
    return [file for file in path.parent.iterdir() if pattern.fullmatch(file.name)]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name to write to. It becomes `path`, in place of what is there; where the writing fails, it goes and `path` stays.

    Of several writers at once the last one's file is left, whole.
    """
    partial = partial_name(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def publish_new(partial: Path, path: Path) -> None:
    """Give a whole file its name. Raises FileExistsError where another process has taken the name meanwhile."""
    try:
        os.link(partial, path)  # unlike renaming, linking does not replace
    except FileExistsError:
        raise
    except OSError:  # exFAT and some network drives have no links
        open(path, "xb").close()
        try:
            os.replace(partial, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    else:
        partial.unlink()
