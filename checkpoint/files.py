"""Files that exist complete or not at all: each is written under a unique name beside its own, then renamed."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_name(path: Path) -> Path:
    """A hidden name beside `path` that no other writer uses, in this process or another."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")


def partials_of(path: Path) -> list[Path]:
    """Unfinished files of `path`, being written or left over, also under the single name of earlier versions."""
    pattern = re.compile(rf"\.{re.escape(path.name)}(\.[0-9a-f]{{8}})?\.partial")
    return [file for file in path.parent.iterdir() if pattern.fullmatch(file.name)]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name to write to. On success the file replaces `path`. On failure it is removed and `path` stays.

    If several writers write at once, the file of the last one remains, complete.
    """
    partial = partial_name(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def publish_new(partial: Path, path: Path) -> None:
    """Give a complete file its name. Raises FileExistsError if another process has taken the name meanwhile."""
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
