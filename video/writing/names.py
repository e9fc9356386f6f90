"""Names of files while they are written, and when they are whole. A finished video is never lost over its name."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = re.compile(r"\.liveditor-[0-9a-f]{32}\.partial(\.\w+)?")
"""Names of unfinished files and folders. Only this program uses them, so it may remove old ones."""

ABANDONED_SECONDS = 24 * 3600
"""Seconds without a new frame after which an unfinished file is taken for the remains of a killed run."""

SHORTER = (200, 120, 60)
"""Bytes of names to try where a file system refuses a name: common ones take 255, encrypted ones less."""

NOT_IN_NAMES = re.compile(r'[\x00-\x1f<>:"/\\|?*]+')
"""Characters that some file systems refuse."""

NOT_THE_NAME = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Errors that another name does not help against."""

TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)


@contextmanager
def unfinished(beside: Path, suffix: str) -> Iterator[Path]:
    """A file of this suffix beside a path, or a folder where there is no suffix; removed at the end unless it got its name.

    Raises OSError, which says what to do, where none can be made.
    """
    partial = beside.parent / f".liveditor-{uuid.uuid4().hex}.partial{suffix}"
    try:
        partial.touch(exist_ok=False) if suffix else partial.mkdir()
    except OSError as error:
        raise cannot_write(beside.parent, error) from None
    try:
        _remove_abandoned(beside.parent, partial.stat().st_mtime)
        yield partial
    finally:
        _remove(partial)


def published(partial: Path, path: Path, say: Callable[[str], object]) -> Path:
    """Give a whole file or folder its name, or one like it where that is taken, too long or refused; says so.

    Raises OSError where no name helps, such as on a disk that was removed.
    """
    name, reason = path.name, ""
    others = itertools.chain((_shortened(path, length) for length in SHORTER), [f"{partial.name.split('.')[1]}{path.suffix}"])
    while True:
        try:
            _move(partial, path)
        except OSError as error:
            if error.errno in TAKEN and (path.exists() or path.is_symlink()):
                path, reason = _numbered_on(path), reason or "is taken"
                continue
            other = next(others, None)
            if other is None or error.errno in NOT_THE_NAME:
                raise cannot_write(path.parent, error) from None
            path, reason = path.with_name(other), "is too long, or not allowed on this disk"
        else:
            if reason:
                say(f"The name {name} {reason}: the video is {path.name}.")
            return path


def _move(partial: Path, path: Path):
    """Raises FileExistsError, or another of TAKEN, where `path` exists; never replaces a file."""
    if partial.is_dir():
        os.rename(partial, path)  # a folder replaces no file, and no folder that holds something
        return
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # exFAT and some network drives have no links
        open(path, "xb").close()
        os.replace(partial, path)


def _numbered_on(path: Path) -> Path:
    """name_00001_.mp4, as ComfyUI numbers files, becomes name_00002_.mp4."""
    match = re.fullmatch(r"(.*?)(?:_(\d+)_)?", path.stem, re.DOTALL)
    assert match, "any name matches"
    stem, number = match.groups()
    return path.with_name(f"{stem}_{int(number or 0) + 1:05}_{path.suffix}")


def _shortened(path: Path, length: int) -> str:
    """A name of at most `length` bytes, of characters that every file system takes."""
    stem = NOT_IN_NAMES.sub("_", path.stem).encode(errors="replace")[: length - len(path.suffix.encode())]
    return f"{stem.decode(errors='ignore').strip('. ') or 'video'}{path.suffix}"


def _remove_abandoned(folder: Path, now: float):
    """now: the time by the disk's clock, which may be another computer's."""
    for partial in folder.glob(".liveditor-*.partial*"):
        try:
            if PARTIAL.fullmatch(partial.name) and now - partial.stat().st_mtime > ABANDONED_SECONDS:
                _remove(partial)
        except OSError:
            pass  # removed meanwhile, or owned by another user


def _remove(partial: Path):
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)


def cannot_write(folder: Path, error: OSError) -> OSError:
    """The error in a sentence that says what to do."""
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(folder).free / 2**20
        sentence = f"The disk is full: {free:.0f} MB are free in {folder}. Make room and run again"
    else:
        sentence = (
            f"Nothing can be written to {folder} ({error.strerror}). Make it a folder that may be written to, and run again"
        )
    return OSError(error.errno, sentence, str(folder))
