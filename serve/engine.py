"""The queue: jobs run one after the other in a worker, which is started again where it dies."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack

from ..batch.job import EDITOR
from ..errors import sentence
from ..pipelines.request import Edit, ModelChoice
from . import worker as work
from .jobs import DONE, FAILED, QUEUED, RUNNING, Job, Jobs
from .worker import Worker

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""How often a job, or loading the model, may kill its worker."""


class QueueFull(RuntimeError):
    """As many jobs wait as may."""


class ModelGone(RuntimeError):
    """Why no job can run any more: the model could not be loaded again."""


class Engine:
    """Runs the jobs of a folder, in the order in which they came. Methods may be called from any thread.

    max_queue: so many jobs may wait. editor: as of `Worker`.
    A context manager: it begins with the jobs that the folder holds, returns once the model is loaded, and raises JobsError or
    ModelGone where it cannot. At its end the running job is queued again.
    """

    def __init__(self, jobs: Jobs, choice: ModelChoice, max_queue: int, editor: str = EDITOR):
        self.jobs, self._choice, self._max_queue, self._editor = jobs, choice, max_queue, editor
        self._known: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._at_work: Job | None = None  # what the worker has, also after that was cancelled
        self._changed = threading.Condition()
        self._is_loaded, self._is_ending = threading.Event(), threading.Event()
        self._fault: str | None = None
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._exits = ExitStack()

    def __enter__(self) -> Engine:
        for job in self._exits.enter_context(self.jobs.opened()):
            self._known[job.id] = job
            if job.status == QUEUED:
                self._waiting.append(job)
            elif job.status == RUNNING:
                self._take(job, work.Report(work.LOST, "the server was killed, perhaps for want of memory"))
        self._thread.start()
        try:
            while not self._is_loaded.wait(work.LOOK_EVERY):  # Ctrl-C ends it
                pass
            self.check()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        self._is_ending.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join()
        self._exits.close()

    def check(self):
        """Raises ModelGone where no job can run any more."""
        if self._fault:
            raise ModelGone(self._fault)

    def check_room(self):
        """Raises QueueFull or ModelGone, as `submit` would now."""
        self.check()
        if len(self._waiting) >= self._max_queue:
            raise QueueFull(f"{len(self._waiting)} edits wait, as many as may: try again later.")

    def submit(self, id: str, owner: str, edit: Edit | dict) -> Job:
        """id: of `Jobs.new_folder`, where the edit's files are. Raises QueueFull, ModelGone, or OSError for a full disk."""
        job = Job(id, owner, edit if isinstance(edit, dict) else vars(edit))
        with self._changed:
            self.check_room()
            self.jobs.save(job)
            self._known[id] = job
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def of(self, owner: str) -> list[Job]:
        """A client's jobs, the newest first."""
        with self._changed:
            return [job for job in reversed(self._known.values()) if job.owner == owner]

    def job(self, id: str, owner: str) -> Job | None:
        """None where there is no such job of this client's."""
        job = self._known.get(id)
        return job if job and job.owner == owner else None

    def place(self, job: Job) -> int:
        """How many jobs run before this one."""
        with self._changed:
            if job not in self._waiting:
                return 0
            return [each.id for each in self._waiting].index(job.id) + (self._at_work is not None)

    def counts(self) -> dict[str, int]:
        """By status. A cancelled edit counts as running until the worker has left it."""
        with self._changed:
            statuses = [job.status for job in self._known.values()]
            return {status: statuses.count(status) for status in (QUEUED, RUNNING, DONE, FAILED)} | {
                RUNNING: int(self._at_work is not None)
            }

    def remove(self, job: Job):
        """Cancels it where it is not done, and removes it with all its files; a running one's once the worker has left them."""
        with self._changed:
            if self._known.pop(job.id, None) is None:
                return
            self.jobs.forget(job.id)
            if job.status == QUEUED:
                self._waiting.remove(job)
            if job.status != RUNNING:
                self.jobs.remove(job.id)

    def _run(self):
        worker: Worker | None = None
        try:
            worker = self._loaded_worker()
            self._is_loaded.set()
            while self._waits_for_job():
                worker = worker or self._loaded_worker()
                if not self._is_ending.is_set() and not self._runs_next(worker):
                    worker.end()
                    worker = None
        except ModelGone as error:
            self._fault = str(error)
            logger.error("%s", error)
        except Exception as error:
            self._fault = f"The server's queue has stopped ({error}): start it again; no job is lost."
            logger.exception("The queue has stopped")
        finally:
            if worker:
                worker.end()
            self._is_loaded.set()

    def _loaded_worker(self) -> Worker | None:
        """None where the server ends meanwhile."""
        for _ in range(ATTEMPTS):
            worker = Worker(self._editor, self._choice)
            report = worker.loaded(self._is_ending.is_set)
            if report.kind == work.READY:
                return worker
            worker.end()
            if report.kind == work.ENDED:
                return None
            if report.kind == work.UNLOADABLE:
                raise ModelGone(f"The model cannot be loaded: {report.value}")
        raise ModelGone(f"{ATTEMPTS} workers in turn died while they loaded the model: most likely memory is short.")

    def _waits_for_job(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_ending.is_set())
            return not self._is_ending.is_set()

    def _runs_next(self, worker: Worker) -> bool:
        """Whether the worker can go on."""
        with self._changed:
            if not self._waiting:  # cancelled meanwhile
                return True
            self._at_work = job = self._waiting.popleft()
            job.status, job.attempts, job.progress = RUNNING, job.attempts + 1, 0
        try:
            self.jobs.begin(job.id)
            self.jobs.save(job)
            report = worker.edit(
                job.id, job.edit, self.jobs.of(job.id), self._shows(job), lambda: job.id not in self._known, self._is_ending.is_set
            )  # fmt: skip
        except OSError as error:  # a full disk
            report = work.Report(work.FAILED, sentence(error))
        self._take(job, report)
        return report.kind not in (work.LOST, work.ENDED)

    def _shows(self, job: Job) -> Callable[[float], None]:
        def show(share: float):
            # After the last step the edit is decoded and written: 100 is said when it can be fetched.
            job.progress = min(99, int(100 * share))

        return show

    def _take(self, job: Job, report: work.Report):
        with self._changed:
            self._at_work = None
            if job.id not in self._known:
                self.jobs.remove(job.id)
                return
            if report.kind == work.DONE:
                video, job.facts = report.value
                try:
                    self.jobs.publish(job.id, video)
                    job.status, job.progress = DONE, 100
                except OSError as error:
                    job.status, job.error = FAILED, sentence(error)
            elif report.kind == work.ENDED:
                job.status, job.attempts = QUEUED, job.attempts - 1
                self._waiting.appendleft(job)
            elif report.kind == work.LOST and job.attempts < ATTEMPTS:
                logger.warning("%s is run again: %s", job.id, report.value)
                job.status = QUEUED
                self._waiting.appendleft(job)
            else:
                lost = f"{job.attempts} workers in turn were lost over this edit: " if report.kind == work.LOST else ""
                job.status, job.error = FAILED, f"{lost}{report.value}"
            if job.status in (DONE, FAILED):
                job.completed = int(time.time())
            try:
                self.jobs.save(job)
            except OSError as error:  # a full disk; a server that is started again runs the job again
                logger.error("What became of %s cannot be written: %s", job.id, sentence(error))
