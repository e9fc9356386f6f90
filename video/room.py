"""Whether a video can be written, found out before hours of sampling: the file's name, its folder, the temporary folder, space."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LEAST_BYTES = 8 * 2**20
"""Free space that is asked for in each folder beyond what is known: container, metadata, what an encoder says."""

NUMBERED_ON = "_00001_"
"""What a name becomes longer by where a file has it already."""

PARTIAL_BYTES = 64
"""Longest name of an unfinished file beside the video."""

NAME_BYTES, PATH_BYTES = 255, 4096
"""Limits of common file systems, for where the system tells none."""


class Words(NamedTuple):
    """What is said of a folder: its path comes first."""

    full: str
    unwritable: str


OF_VIDEO = Words(
    "The folder {} is full: {} MB are free, about {} MB are needed; make room, or name another",
    "The folder {} cannot be written to ({}); name another",
)
OF_TEMPORARY = Words(
    "The temporary folder {} is full: {} MB are free, about {} MB are needed; make room, or set TMPDIR to another",
    "The temporary folder {} cannot be written to ({}); set TMPDIR to another",
)


def check_output(path: str | os.PathLike, picture_bytes: int = 0, temporary_bytes: int = 0) -> None:
    """Check all that writing a video to `path` needs. Leaves nothing behind.

    picture_bytes: space that the file will take, where that can be estimated; temporary_bytes: what is written to the
    temporary folder on the way, such as uncompressed sound (4 bytes times channels times samples).

    Raises OSError, whose strerror is a sentence with the cure: ENOENT for no such folder, ENAMETOOLONG for a name that the
    folder's file system does not take, numbered on included, EINVAL for one with characters that it refuses, ENOSPC for a
    full disk, EACCES and its like where nothing can be written. Calls from several threads and processes do not meet.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise NotADirectoryError(
            errno.ENOTDIR, f"There is no folder {path.parent} to write to; make it, or name another", str(path.parent)
        )
    check_length(path)
    _check_folder(path.parent, OF_VIDEO, picture_bytes, path.name)
    check_temporary(temporary_bytes)


def check_temporary(needed: int = 0) -> None:
    """The part of `check_output` that concerns the temporary folder; needed: bytes. Raises OSError as it does."""
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError as error:
        raise OSError(error.errno, "There is no temporary folder that can be written to; set TMPDIR to one", None) from None
    _check_folder(temporary, OF_TEMPORARY, needed, "liveditor")


def check_length(path: Path) -> None:
    """Raises OSError with ENAMETOOLONG where the file system of the folder takes no name as long as the path's."""
    name = len(os.fsencode(path.name))
    whole = len(os.fsencode(path.parent.absolute())) + 1 + max(name, PARTIAL_BYTES)
    more = len(NUMBERED_ON) if os.path.lexists(path) else 0
    name_limit, path_limit = _limit(path.parent, "PC_NAME_MAX", NAME_BYTES), _limit(path.parent, "PC_PATH_MAX", PATH_BYTES)
    for what, size, limit in (("name", name, name_limit), ("path", whole, path_limit - 1)):
        if size + more > limit:
            numbered = ", with the number that it gets where a file has it already," if size <= limit else ""
            raise OSError(
                errno.ENAMETOOLONG,
                f"The {what} of {_shortened(path.name)} takes {size + more} bytes{numbered} of the {limit} that "
                f"{path.parent} allows; give the video a shorter name",
                str(path.parent),
            )


def _limit(folder: Path, name: str, otherwise: int) -> int:
    with suppress(OSError, ValueError, AttributeError):  # Windows has no pathconf
        limit = os.pathconf(folder, name)
        return limit if limit > 0 else otherwise
    return otherwise


def _shortened(name: str) -> str:
    return name if len(name) < 60 else f"{name[:40]}…{name[-15:]}"


def _check_folder(folder: Path, words: Words, needed: int, name: str) -> None:
    """Write a file called `name`, in a folder of its own below `folder`."""
    usage = shutil.disk_usage(folder)
    free = usage.free
    if usage.total and free < needed + LEAST_BYTES:
        sentence = words.full.format(folder, f"{free / 2**20:.0f}", f"{(needed + LEAST_BYTES) / 2**20:.0f}")
        raise OSError(errno.ENOSPC, sentence, str(folder))
    trial = folder / f".liveditor-{uuid.uuid4().hex[:8]}"
    try:
        trial.mkdir()
    except OSError as error:
        raise _cannot_write(words, folder, error) from None
    try:
        # Longer than the path itself by the folder of its own, which is no fault of the name's.
        (trial / name).write_bytes(b"\0" * 4096)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EILSEQ, errno.ENOENT) or getattr(error, "winerror", None) == 123:
            raise OSError(
                errno.EINVAL,
                f"{folder} takes no file called {_shortened(name)} ({error.strerror}); give the video a name without special "
                "characters",
                str(folder),
            ) from None
        if error.errno != errno.ENAMETOOLONG:
            raise _cannot_write(words, folder, error) from None
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _cannot_write(words: Words, folder: Path, error: OSError) -> OSError:
    return OSError(error.errno or errno.EIO, words.unwritable.format(folder, error.strerror), str(folder))
