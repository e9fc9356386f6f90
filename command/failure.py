"""The message of a command that fails."""

from __future__ import annotations

import logging
import sys

from ..errors import is_out_of_memory, sentence
from ..runtime.torchrun import is_first, tell
from .outcome import Outcome, failure

log = logging.getLogger(__name__)


def reported(command: str, error: Exception, debug: bool) -> Outcome:
    """After one line on stderr, the first process's where torchrun started several; in torchrun's summary it stands too. The traceback is
    logged at level INFO.

    debug: raise the error instead. One of the device itself, after which CUDA refuses everything, is always raised: its
    traceback is all there is to go by.
    """
    if debug or (type(error).__name__ == "AcceleratorError" and not is_out_of_memory(error)):
        raise error
    log.info("liveditor %s failed", command, exc_info=error)
    words = sentence(error)
    tell(words)
    if is_first():
        print(f"liveditor {command}: {words}", file=sys.stderr)
    return failure(words)
