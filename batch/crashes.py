"""How an attempt's worker process ended: a crash of native code leaves a note in the attempt's folder, a killed process none."""

from __future__ import annotations

import faulthandler
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath

NOTE = "crash"


@contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Where SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGABRT ends the process, its name and the Python stack are in `folder`/crash.

    SIGKILL, which is what the system and Ray send where memory runs out, leaves the file empty.
    """
    was_enabled = faulthandler.is_enabled()
    with open(folder / NOTE, "wb", buffering=0) as file:
        faulthandler.enable(file)
        try:
            yield
        finally:
            faulthandler.disable()
            if was_enabled:
                with suppress(Exception):  # no stderr, or one that is no file
                    faulthandler.enable(sys.__stderr__, all_threads=False)


def crash_in(folders: list[Path]) -> str | None:
    """The first note in the attempts' folders, or None."""
    for folder in folders:
        with suppress(OSError):
            if note := (folder / NOTE).read_text(encoding="utf-8", errors="replace").strip():
                return note
    return None


def name_of(note: str) -> str:
    """The signal's name, and where Python was: "Segmentation fault in source.py, line 80, decode"."""
    what = re.search(r"(?:Fatal Python error|Windows fatal exception): (.+)", note)
    where = re.search(r'(?:Current thread|^Stack).*\n\s+File "(.+)", line (\d+) in (\S+)', note, re.MULTILINE)
    place = f" in {PureWindowsPath(where[1]).name}, line {where[2]}, {where[3]}" if where else ""  # it takes both slashes
    return (what[1] if what else note.splitlines()[0]) + place
