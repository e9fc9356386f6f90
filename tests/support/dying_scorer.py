"""Scores as `evaluation.scoring_job` does, but over items whose names say so the worker is killed: once, or whenever it comes to them."""

import os
import signal
from dataclasses import replace

from liveditor_isa.evaluation import scoring_job

load = scoring_job.load


def edit_file(loaded, task, output, progress=True):
    if task.id.startswith("deadly") or (task.id.startswith("once") and not _been(loaded.run.folder / f"killed-{task.id}")):
        scoring_job.edit_file(replace(loaded, metrics=loaded.metrics[:1]), task, output)  # the first score is stored before
        os.kill(os.getpid(), signal.SIGKILL)
    return scoring_job.edit_file(loaded, task, output)


def _been(mark) -> bool:
    if mark.exists():
        return True
    mark.touch()
    return False
