"""The message of a command that fails."""

from __future__ import annotations

import logging
import sys

from ..errors import is_out_of_memory, sentence
from .outcome import Outcome, failure

log = logging.getLogger(__name__)


def reported(command: str, error: Exception, debug: bool) -> Outcome:
    """After one line on stderr. The traceback is logged at level INFO.

    debug: raise the error instead. One of the device itself, after which CUDA refuses everything, is always raised: its
    traceback is all there is to go by.
    """
    if debug or (type(error).__name__ == "AcceleratorError" and not is_out_of_memory(error)):
        raise error
    log.info("liveditor %s failed", command, exc_info=error)
    print(f"liveditor {command}: {sentence(error)}", file=sys.stderr)
    return failure(sentence(error))
