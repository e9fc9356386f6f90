"""Jobs on disk, so that a server that is started again knows them: a folder for each, under a name that nobody guesses.

<id>/job.json       what was asked, and what became of it; a folder without it holds an upload that never became a job
<id>/video.mp4 ...  what was sent
<id>/work/          what an attempt has not finished
<id>/edited.mp4     the result
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..checkpoint.files import Occupied, occupying, replacing

logger = logging.getLogger(__name__)

QUEUED, RUNNING, DONE, FAILED = "queued", "in_progress", "completed", "failed"
"""Statuses, by the words of OpenAI's API."""

RECORD, RESULT, WORK = "job.json", "edited.mp4", "work"


class JobsError(RuntimeError):
    """Why a folder cannot hold a server's jobs, in one sentence."""


@dataclass
class Job:
    """One edit.

    owner: of whom it is, in no form that a client's token can be read from; "" for a client without one.
    edit: an `Edit` as a dictionary, its files by their names within the job's folder.
    attempts: how often a worker began it; progress: 0..100, of the present attempt, kept in memory only.
    created, completed: seconds since 1970. error: one sentence. facts: of `edit_file`.
    """

    id: str
    owner: str
    edit: dict
    created: int = field(default_factory=lambda: int(time.time()))
    status: str = QUEUED
    attempts: int = 0
    progress: int = 0
    completed: int | None = None
    error: str | None = None
    facts: dict | None = None


class Jobs:
    """The folder. `opened` reads it; no other method looks at what others wrote."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).resolve()

    @contextmanager
    def opened(self) -> Iterator[list[Job]]:
        """All jobs by age, and no other server in the folder until the end of the block.

        Uploads that never became jobs are removed, as is what attempts left.
        Raises JobsError where the folder cannot be used, or another server has it.
        """
        with ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(occupying(self.folder / ".lock"))
            except Occupied as error:
                raise JobsError(f"Another server has the jobs in {self.folder} ({error}): name another folder.") from None
            except OSError as error:
                raise JobsError(f"{self.folder} cannot hold jobs ({error.strerror}): name another folder.") from None
            yield sorted(filter(None, map(_read, self.folder.glob("video_*"))), key=lambda job: job.created)

    def new_folder(self) -> tuple[str, Path]:
        """An id of 128 random bits, and its empty folder."""
        id = f"video_{secrets.token_hex(16)}"
        folder = self.of(id)
        folder.mkdir()
        return id, folder

    def of(self, id: str) -> Path:
        return self.folder / id

    def result(self, id: str) -> Path:
        return self.of(id) / RESULT

    def save(self, job: Job):
        with replacing(self.of(job.id) / RECORD) as partial:
            partial.write_text(json.dumps(asdict(job), indent=1) + "\n", encoding="utf-8")

    def forget(self, id: str):
        """The job is no longer one; its files stay until `remove`, because a worker may be reading them."""
        (self.of(id) / RECORD).unlink(missing_ok=True)

    def remove(self, id: str):
        shutil.rmtree(self.of(id), ignore_errors=True)

    def begin(self, id: str) -> Path:
        """An empty folder for an attempt."""
        work = self.of(id) / WORK
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        return work

    def publish(self, id: str, video: str):
        """Give the attempt's finished video its name."""
        os.replace(self.of(id) / WORK / video, self.result(id))
        shutil.rmtree(self.of(id) / WORK, ignore_errors=True)


def _read(folder: Path) -> Job | None:
    try:
        job = Job(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        shutil.rmtree(folder, ignore_errors=True)
        return None
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s is left alone: its job cannot be read (%s)", folder, error)
        return None
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return job
