"""stdout and stderr of a command. What is shown about the work never fails it: not for a terminal's encoding, a closed pipe, a
full disk behind a redirection, or no stream at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Lenient:
    """A text stream that drops what cannot be written. All else is the stream's."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # a UnicodeError is a ValueError, as is a closed file
            self._stream.write(text)
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name):
        return getattr(self._stream, name)


@contextmanager
def lenient_output() -> Iterator[None]:
    """sys.stdout and sys.stderr, also for logging and progress bars, until the end of the block.

    A character that the encoding has not is written as \\x… or \\u….
    """
    before = sys.stdout, sys.stderr
    streams = [open(os.devnull, "w", encoding="utf-8") if stream is None else stream for stream in before]
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            with suppress(OSError, ValueError):
                stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (Lenient(stream) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            _flush(stream)


def quiet_loading():
    """diffusers and transformers, which are imported already, show no bars where they load or write a folder."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()


def _flush(stream):
    """Flush now: Python does at its end, and ends with status 120 where that fails."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
