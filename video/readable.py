"""One sentence for whatever goes wrong where a video is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import is_out_of_memory

PLAINER = {
    "Invalid data found when processing input": "it is damaged, or no video",
    "End of file": "its end is missing",
}
"""ffmpeg's words for what users meet most, and ours."""


class UnreadableVideo(ValueError):
    """A video cannot be read; the message is a sentence with the cause and what to do."""


@contextmanager
def readable() -> Iterator[None]:
    """Turns every error of reading into one UnreadableVideo, except out of memory, which keeps the library's exception."""
    try:
        yield
    except UnreadableVideo:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        # Without the number of an error of the system or of ffmpeg.
        words, file = getattr(error, "strerror", None), getattr(error, "filename", None)
        file = None if file == "<none>" else file  # bytes, which have no name
        cause = ": ".join(filter(None, (PLAINER.get(words or "", words), file))) or error
        raise UnreadableVideo(
            f"The video cannot be read ({cause}). If a player shows it, convert it to an mp4 with H.264 and load that."
        ) from error
