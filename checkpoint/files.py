"""Files and folders that exist complete or not at all: each is written under a unique name beside its own, then renamed. And folders
that one process has."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


class Occupied(RuntimeError):
    """Another process has the folder; the message names it."""


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


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """The folder to write into. On success it becomes `path`, on failure it is removed.

    Raises FileExistsError where `path` is a file, or a folder that holds anything.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(errno.EEXIST, "There is something already; name a new folder, or an empty one", str(path))
    partial = partial_name(path)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            path.rmdir()  # renaming replaces an empty folder on some systems only
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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


@contextmanager
def occupying(lock: Path) -> Iterator[None]:
    """The folder of the file `lock`, which is made where it is missing, is this process's until the end of the block.

    Raises Occupied where it is another process's, and OSError where nothing can be written.
    """
    with open(lock, "a+", encoding="utf-8") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Occupied(file.read().strip()) from None
        except OSError as error:  # some network drives
            logger.warning("%s cannot be locked (%s): do not start a second process there", lock.parent, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
