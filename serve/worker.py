"""The process that holds the model, and its end of the line to the server. It may be killed at any time."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import NamedTuple

from ..batch.crashes import crash_in, name_of, noted
from ..batch.worker import free_memory
from ..errors import is_of_device, sentence
from ..pipelines.request import Edit, ModelChoice
from .jobs import RESULT, WORK

logger = logging.getLogger(__name__)

READY, UNLOADABLE, PROGRESS, DONE, FAILED, CANCELLED, LOST, ENDED = (
    "ready", "unloadable", "progress", "done", "failed", "cancelled", "lost", "ended",
)  # fmt: skip
"""What a worker reports. The last two are of one that died, and of one that the server ended."""

PACKAGE = __name__.rsplit(".", 2)[0]

LOOK_EVERY = 0.2
"""Seconds between two looks whether an edit was cancelled."""

GRACE = 5
"""Seconds for a process to end by itself, which leaves nothing of it behind."""

NO_MEMORY = "the process was killed, most likely for want of memory: ask for fewer frames or a smaller size"


class Report(NamedTuple):
    """kind: of the above. value: a sentence where it failed or was lost; of DONE, the video's name and the facts."""

    kind: str
    value: object = None


class Cancelled(Exception):
    """Nobody wants the edit any more."""


class ServerGone(BaseException):
    """The other end of the line is closed. No Exception: an editor's own may be an EOFError or a ConnectionError too."""


class Worker:
    """Starts the process, which loads the model.

    editor: the module with `load` and `edit_file`, by its name. Methods are for one thread.
    """

    def __init__(self, editor: str, choice: ModelChoice):
        context = new_processes()
        self._line, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, editor, choice), name="liveditor worker", daemon=True)
        self._process.start()
        theirs.close()

    def loaded(self, stopped: Callable[[], bool]) -> Report:
        """READY, UNLOADABLE or LOST with the reason, or ENDED. Waits as long as loading takes, or until `stopped()`."""
        return self._report(stopped) or Report(ENDED)

    def edit(
        self,
        id: str,
        edit: dict,
        folder: Path,
        on_progress: Callable[[float], object],
        is_cancelled: Callable[[], bool],
        stopped: Callable[[], bool],
    ) -> Report:
        """DONE, FAILED, CANCELLED, LOST or ENDED; the video lies in `folder`/work. on_progress: called with 0..1.

        A cancelled edit ends after its present step. After LOST and ENDED this worker can do nothing more.
        """

        def changes() -> bool:
            return stopped() or is_cancelled()

        wanted = True
        try:
            self._line.send((id, edit, folder))
            while not stopped():
                report = self._report(changes if wanted else stopped)
                if report is None:
                    if not stopped():
                        wanted = False
                        self._line.send((CANCELLED, id))
                elif report.kind == PROGRESS:
                    on_progress(report.value)
                else:
                    return report if report.kind != LOST else Report(LOST, _why_lost(folder / WORK))
        except OSError:  # the line is broken
            return Report(LOST, _why_lost(folder / WORK))
        return Report(ENDED)

    def end(self):
        """Ends the process, an edit in it too. What does not end by itself, deep in native code, is killed."""
        self._process.terminate()
        self._process.join(GRACE)
        self._process.kill()
        self._process.join()
        self._line.close()

    def _report(self, until: Callable[[], bool]) -> Report | None:
        """The next one; None where `until()` came first. LOST where the process is gone."""
        try:
            while not self._line.poll(LOOK_EVERY):
                if until():
                    return None
            return self._line.recv()
        except (EOFError, OSError):
            return Report(LOST, NO_MEMORY)


def new_processes() -> BaseContext:
    """How the server's processes begin: from one that has imported this module and done nothing else, so that one that died is soon
    replaced. A fork of the server would share its sockets and threads. Without forks, as on Windows: from nothing.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, f"{PACKAGE}.video.clip"])
    return context


def _why_lost(work: Path) -> str:
    if (words := work / "last-words").exists():
        return words.read_text(encoding="utf-8")
    crash = crash_in([work])
    if crash is None:
        return NO_MEMORY
    return (
        f"a crash in native code ({name_of(crash)}), which is no want of memory: convert the video to an mp4 of H.264 and AAC"
    )


def _work(line: Connection, editor_name: str, choice: ModelChoice):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches it too; the server ends it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with suppress(ServerGone):
        try:
            editor = importlib.import_module(editor_name)
            pipe = editor.load(choice)
        except Exception as error:
            logger.exception("The model cannot be loaded")
            with connected():
                line.send(Report(UNLOADABLE, sentence(error)))
            return
        report = Report(READY)
        while True:
            with connected():
                line.send(report)
                while (request := line.recv())[0] == CANCELLED:  # of an edit that has ended meanwhile
                    pass
            report = _edited(line, editor, pipe, *request)


@contextmanager
def connected() -> Iterator[None]:
    """Raises ServerGone where the line is used and closed."""
    try:
        yield
    except (EOFError, ConnectionError):
        raise ServerGone from None


def _edited(line: Connection, editor, pipe, id: str, edit: dict, folder: Path) -> Report:
    def on_step(done: int, of: int):
        with connected():
            line.send(Report(PROGRESS, done / of))
            while line.poll():
                if line.recv() == (CANCELLED, id):
                    raise Cancelled

    # Files go by their names there, so that the record within the result names no folder of the server's.
    os.chdir(folder)
    try:
        with noted(folder / WORK):
            out = Path(WORK, RESULT)
            video, facts = editor.edit_file(pipe, Edit.from_dict(edit), out, progress=False, on_step=on_step, folder=folder)
        return Report(DONE, (Path(video).name, facts))
    except Cancelled:
        report = Report(CANCELLED)
    except Exception as error:
        if is_of_device(error):
            Path(WORK, "last-words").write_text(sentence(error), encoding="utf-8", errors="replace")
            logger.exception("The device failed; this process ends")
            os._exit(1)
        level = logging.INFO if isinstance(error, ValueError) else logging.ERROR
        logger.log(level, "An edit failed: %s", sentence(error), exc_info=error)
        report = Report(FAILED, sentence(error))
    free_memory()
    return report
