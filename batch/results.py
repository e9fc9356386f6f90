"""The folder a batch job writes to, laid out so that whatever is killed when, each clip is there once or not at all.

    <id>.mp4               the edited clip; other editors than LIVEditor may make a file of another kind, or none
    records/<id>.json      how it was made; a clip is done if, and only if, it has a record
    quarantine/<id>.json   why a clip was given up
    summary.json, metrics.csv
    errors.log             tracebacks of what failed and was not the clip's own fault; grows
    .batch/job.json        the settings all clips share
    .batch/run-…/          what one run has not finished; to rename it away is to take the job over

All other files are written elsewhere on the same disk and get their names when they are whole.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..checkpoint.files import Occupied, occupying


class JobError(RuntimeError):
    """Why a job cannot begin or go on, in one sentence. What is done stays done."""


class Results:
    """folder: need not exist yet. Construction changes nothing on disk."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).resolve()
        self._inner = self.folder / ".batch"

    def video(self, id: str) -> Path:
        return self.folder / f"{id}.mp4"

    def record(self, id: str) -> dict | None:
        return _read(self._record(id))

    def quarantined(self, id: str) -> dict | None:
        return _read(self._quarantine(id))

    def is_done(self, id: str) -> bool:
        return self._record(id).exists()

    def publish(self, id: str, made: Path | None, record: dict, work: Path):
        """Give a finished file, which keeps its ending, and then its record their names. `made` and `work` are inside of the run's folder.

        Of two workers at the same clip both may come here: one video and one record are left.
        Raises FileNotFoundError where the run is over.
        """
        if made:
            _flush(made)
            os.replace(made, self.video(id).with_name(f"{id}{made.suffix}"))
        _write(self._record(id), record, work)
        self._quarantine(id).unlink(missing_ok=True)

    @property
    def log_file(self) -> Path:
        return self.folder / "errors.log"

    def log(self, outcome: dict):
        """Writes a worker's report of a failure, with its traceback, to the log; the clip may leave quarantine later."""
        entry = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {outcome['id']}: {outcome['reason']}\n{outcome['traceback']}\n"
        with suppress(OSError), open(self.log_file, "a", encoding="utf-8", errors="backslashreplace") as file:  # on a full disk
            file.write(entry)

    def put_in_quarantine(self, id: str, why: dict, work: Path):
        """Raises FileNotFoundError if the run is over."""
        _write(self._quarantine(id), why, work)

    def release(self, id: str):
        """Remove a clip from quarantine."""
        self._quarantine(id).unlink(missing_ok=True)

    def forget(self, id: str):
        """Remove the record of a finished clip. Its video stays until the next one replaces it."""
        self._record(id).unlink(missing_ok=True)

    def check(self, settings: dict):
        """Raises JobError if the folder cannot take the results of a job with these settings."""
        if self.folder.exists() and not self.folder.is_dir():
            raise JobError(f"{self.folder} is a file: name another folder for the results.")
        earlier = _read(self._inner / "job.json")
        if earlier is None:
            if self.folder.exists() and any(not path.name.startswith(".") for path in self.folder.iterdir()):
                raise JobError(f"{self.folder} holds other files than a batch job's: name a new or an empty folder.")
            return
        other = [name for name in settings if name in earlier and settings[name] != earlier[name]]
        outcomes = itertools.chain(*((self.folder / name).glob("*.json") for name in ("records", "quarantine")))
        if other and any(outcomes):  # before the first outcome, wrong settings may be corrected
            changes = ", ".join(f"{name} {earlier[name]!r}, now {settings[name]!r}" for name in other)
            raise JobError(f"{self.folder} belongs to a job with other settings ({changes}): name another folder.")

    @contextmanager
    def claim(self, settings: dict) -> Iterator[Path]:
        """The folder for this run's unfinished work, in it for as long as the job is this process's.

        What killed runs left goes. Should a worker of one of them still be at work, it can finish nothing from here on.
        Raises JobError where another process is at the job, or `check` does.
        """
        self.check(settings)
        with self._locked():
            self._remove_runs()
            work = self._inner / f"run-{uuid.uuid4().hex[:12]}"
            work.mkdir()
            _write(self._inner / "job.json", settings, work)
            for folder in ("records", "quarantine"):
                (self.folder / folder).mkdir(exist_ok=True)
            try:
                yield work
            finally:
                self._remove_runs()

    @contextmanager
    def _locked(self):
        with ExitStack() as stack:
            try:
                self._inner.mkdir(parents=True, exist_ok=True)
                stack.enter_context(occupying(self._inner / "lock"))
            except Occupied as error:
                raise JobError(f"Another process is at this job ({error}): wait for it, or stop it.") from None
            except OSError as error:
                raise JobError(f"Nothing can be written to {self.folder} ({error.strerror}): name another folder.") from None
            yield

    def _remove_runs(self):
        for run in self._inner.glob("run-*"):
            # Rename first, which is atomic: a remaining worker could create new files during the removal.
            gone = run.with_name(f"over-{run.name}")
            os.rename(run, gone)
        for gone in self._inner.glob("over-*"):
            shutil.rmtree(gone, ignore_errors=True)

    def write_summary(self, summary: dict, rows: list[dict], work: Path):
        """summary.json, and metrics.csv with one row per clip; the columns are those of all rows together."""
        _write(self.folder / "summary.json", summary, work)
        columns = list({name: None for row in rows for name in row})
        partial = work / "metrics.csv"
        with open(partial, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        _flush(partial)
        os.replace(partial, self.folder / "metrics.csv")

    def _record(self, id: str) -> Path:
        return self.folder / "records" / f"{id}.json"

    def _quarantine(self, id: str) -> Path:
        return self.folder / "quarantine" / f"{id}.json"


def _read(path: Path) -> dict | None:
    """None for a missing file, and for an incomplete one after a loss of power."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _write(path: Path, content: dict, work: Path):
    partial = work / f"{uuid.uuid4().hex}.json"
    partial.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    _flush(partial)
    os.replace(partial, path)


def _flush(path: Path):
    """Flush to the disk before the file gets the name of a complete one."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
