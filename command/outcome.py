"""How a command ends: its exit status, and what `--json` prints."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import NamedTuple


class Status(IntEnum):
    """Exit statuses of all commands."""

    DONE = 0
    PARTLY = 1
    """A batch in which clips are in quarantine or left, or an evaluation that lacks files, edits or scores."""
    FAILED = 2
    """Also for options that are wrong. One line on stderr says why."""
    STOPPED = 130
    """By Ctrl-C."""


STATUSES = "exit status: 0 done; 1 partly done: clips in quarantine or left, scores missing; 2 failed, with one line on stderr; 130 stopped by Ctrl-C"


class Outcome(NamedTuple):
    """status: the exit status. facts: what was done, for JSON; a failure's are {"error": the sentence}."""

    status: int
    facts: dict

    def as_json(self, command: str | None) -> str:
        """One line. command: its name, None where there is none of it."""
        return json.dumps({"command": command, "status": int(self.status), **self.facts}, default=str)


def failure(sentence: str, status: Status = Status.FAILED) -> Outcome:
    return Outcome(status, {"error": sentence})
