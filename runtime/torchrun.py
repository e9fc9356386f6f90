"""Whether torchrun started this process, and its place among the others."""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

logger = logging.getLogger(__name__)

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun sets, all of them; with these processes find each other."""

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable by which torchrun names a file for each process, in which that says why it failed."""


@dataclass(frozen=True)
class Process:
    """This process among those of one job.

    rank: 0 for the one that writes the files. count: of all processes. local_rank, local_count: the same on this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1


def this_process() -> Process | None:
    """Its place in the job; None for a process that works alone.

    Job schedulers, and scripts for them, set some of these variables, RANK above all, in processes that know nothing of each
    other. Such a process works alone, which is logged: taken at its word, one with RANK=1 would leave writing to another.
    """
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if not missing:
        return Process(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))
    if os.environ.get("RANK") or os.environ.get("WORLD_SIZE"):
        _log_once(tuple(missing))
    return None


def is_first() -> bool:
    """Whether this process writes files and messages."""
    return (this_process() or Process()).rank == 0


def tell(sentence: str) -> None:
    """Why this process fails, for the summary with which torchrun ends, below its own traceback. Does nothing without torchrun.

    In the form of `torch.distributed.elastic`, which shows `py_callstack`.
    """
    if path := os.environ.get(ERROR_FILE):
        known = {"py_callstack": sentence, "timestamp": str(int(time.time()))}
        with suppress(OSError), open(path, "w", encoding="utf-8") as file:
            json.dump({"message": {"message": sentence, "extraInfo": known}}, file)


@lru_cache
def _log_once(missing: tuple[str, ...]):
    logger.warning(
        "RANK or WORLD_SIZE is set, but %s not, so torchrun did not start this process: it works alone", ", ".join(missing)
    )
