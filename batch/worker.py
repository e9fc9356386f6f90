"""The work on one clip, in one of a job's worker processes."""

from __future__ import annotations

import errno
import gc
import importlib
import itertools
import json
import os
import pickle
import shutil
import socket
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from ..errors import NotFiniteError, UnreachableError, is_of_device, sentence
from ..pipelines.record import versions
from .crashes import crash_in, name_of, noted
from .manifest import Clip
from .results import Results

ATTEMPTS = 3
"""How often a clip, or loading the model, may kill its worker."""

BAD_INPUT = "bad input"
"""Kind of a failure caused by the clip: its row or its video is wrong."""

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Worker:
    """Holds the loaded model and edits one clip per call; Ray Data keeps a pool of them.

    editor: the module with `load` and `edit_file`, as in `pipelines.edit`; `edit_file` may return None in place of a file, where the
        facts are all that it makes. choice: what `load` takes. out: the job's folder; work: this run's within it.

    A call returns what became of the clip and raises nothing: {"id", "status": "done", "quarantined" or "stopped", "reason",
    "kind", "attempt", "traceback"}. "stopped" is for what would fail every other clip too; the clip is then as it was before.
    kind: BAD_INPUT, "killed", "crashed" (native code), or the error's class. traceback: of an error that is not the
    input's, else None.
    """

    def __init__(self, editor: str, choice, out: str, work: str):
        self._editor_name, self._choice = editor, choice
        self._results, self._work = Results(out), Path(work)
        self._pipe = None

    def __call__(self, row: dict) -> dict:
        clip, source_bytes = pickle.loads(row["row"])
        return {"row": json.dumps(self._outcome(clip, source_bytes))}

    def _outcome(self, clip: Clip, source_bytes: int | None) -> dict:
        try:
            if self._results.is_done(clip.id):  # by a worker that was killed or lost before it reported
                return _done(clip, self._results.record(clip.id) or {})
            folder, attempt = self._begin(clip.id)
        except OSError as error:
            return _stopped(clip, self._out_of_reach(error))
        try:
            if attempt > ATTEMPTS:
                return self._killed_before(clip, source_bytes, folder)
            with noted(folder):
                if self._pipe is None and (stopped := self._load(clip, folder)):
                    return stopped
                return self._edit(clip, source_bytes, folder, attempt)
        except OSError as error:
            return _stopped(clip, self._out_of_reach(error))
        finally:
            shutil.rmtree(folder.parent, ignore_errors=True)

    def _begin(self, id: str) -> tuple[Path, int]:
        """A folder for this attempt, and its number: attempts whose worker was killed leave their folders."""
        (self._work / id).mkdir(exist_ok=True)
        for attempt in itertools.count(1):
            try:
                folder = self._work / id / str(attempt)
                folder.mkdir()
                return folder, attempt
            except FileExistsError:
                continue

    def _killed_before(self, clip: Clip, source_bytes: int | None, folder: Path) -> dict:
        earlier = [folder.with_name(str(number)) for number in range(1, ATTEMPTS + 1)]
        crash = crash_in(earlier)
        if all((attempt / "loading").exists() for attempt in earlier):
            if crash:
                reason = (
                    f"{ATTEMPTS} workers in turn crashed in native code while they loaded the model ({name_of(crash)}), which is "
                    f"no want of memory: look at {self._results.log_file} and at the versions of PyTorch and its libraries."
                )
                return _stopped(clip, reason, crash)
            reason = (
                f"{ATTEMPTS} workers in turn were killed while they loaded the model, most likely for want of memory: "
                "take fewer workers, or choose --storage fp8"
            )
            return _stopped(clip, reason + ".")
        if crash:
            reason = (
                f"{ATTEMPTS} workers in turn were lost over this clip, by a crash in native code ({name_of(crash)}), which is no "
                "want of memory: convert the video to an mp4 of H.264 and AAC, and report the file."
            )
            return self._give_up(clip, source_bytes, reason, "crashed", ATTEMPTS, crash)
        notes = (attempt / "last-words" for attempt in earlier)
        words = next((note.read_text(encoding="utf-8") for note in notes if note.exists()), None)
        reason = (
            f"{ATTEMPTS} workers in turn died over this clip ({words.splitlines()[0]})."
            if words
            else f"{ATTEMPTS} workers in turn were killed over this clip, most likely for want of memory: ask for fewer "
            "frames or a smaller size."
        )
        return self._give_up(clip, source_bytes, reason, "killed", ATTEMPTS, words)

    def _load(self, clip: Clip, folder: Path) -> dict | None:
        """None, or why the job cannot go on."""
        loading = folder / "loading"
        loading.touch()
        try:
            self._editor = importlib.import_module(self._editor_name)
            self._pipe = self._editor.load(self._choice)
        except Exception as error:
            return _stopped(clip, f"The model cannot be loaded: {sentence(error)}", traceback.format_exc())
        loading.unlink()
        return None

    def _edit(self, clip: Clip, source_bytes: int | None, folder: Path, attempt: int) -> dict:
        if not os.path.exists(clip.edit.video):
            if source_bytes is None:
                return self._give_up(clip, None, f"There is no file {clip.edit.video}.", BAD_INPUT, attempt, None)
            where = socket.gethostname()
            return _stopped(
                clip, f"{clip.edit.video} is not to be found on {where}: keep the clips where every node sees them."
            )
        begun = time.monotonic()
        try:
            video, metrics = self._editor.edit_file(self._pipe, clip.edit, folder / f"{clip.id}.mp4", progress=False)
            seconds = time.monotonic() - begun
            if self._results.is_done(clip.id):  # by another worker, on a node that was taken for lost
                return _done(clip, self._results.record(clip.id) or {})
            record = {
                "id": clip.id,
                "status": "done",
                "frames": metrics.get("frames"),
                "seconds": round(seconds, 3),
                "attempt": attempt,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "finished": _now(),
                "line": clip.line,
                "fingerprint": clip.fingerprint,
                "source_bytes": source_bytes,
                "edit": asdict(clip.edit),
                "run": metrics,
                "versions": versions(),
            }
            self._results.publish(clip.id, video and Path(video), record, folder)
            return _done(clip, record)
        except Exception as error:
            if not self._work.exists():
                return _stopped(clip, self._out_of_reach(error))
            if isinstance(error, UnreachableError) or _is_the_disks(error, self._results.folder):
                return _stopped(clip, sentence(error), traceback.format_exc())
            if is_of_device(error):
                (folder / "last-words").write_text(
                    f"{sentence(error)}\n{traceback.format_exc()}", encoding="utf-8", errors="replace"
                )
                os._exit(1)  # this process cannot go on; Ray starts another one and gives it the clip
            bad_input = _is_bad_input(error, self._editor_name)
            kind = BAD_INPUT if bad_input else type(error).__name__
            trace = None if bad_input else traceback.format_exc()
            reason = sentence(error)
            del error
            free_memory()
            return self._give_up(clip, source_bytes, reason, kind, attempt, trace)

    def _give_up(self, clip: Clip, source_bytes, reason: str, kind: str, attempt: int, trace: str | None) -> dict:
        why = {
            "id": clip.id,
            "status": "quarantined",
            "reason": reason,
            "kind": kind,
            "attempt": attempt,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "finished": _now(),
            "line": clip.line,
            "fingerprint": clip.fingerprint,
            "source_bytes": source_bytes,
            "edit": asdict(clip.edit),
            "versions": versions(),
        }
        self._results.put_in_quarantine(clip.id, why | ({"traceback": trace} if trace else {}), self._work / clip.id)
        outcome = {"id": clip.id, "status": "quarantined", "reason": reason, "kind": kind, "attempt": attempt}
        return outcome | {"traceback": trace}

    def _out_of_reach(self, error: Exception) -> str:
        folder, host = self._results.folder, socket.gethostname()
        if not isinstance(error, FileNotFoundError):
            return sentence(error)
        if not folder.exists():
            return f"{folder} is not to be found on {host}: choose a folder that every node sees."
        return f"{folder} was taken over by another run, or its folder .batch was removed."


def _done(clip: Clip, record: dict) -> dict:
    return {"id": clip.id, "status": "done", "attempt": record.get("attempt"), "kind": None, "reason": None, "traceback": None}


def _stopped(clip: Clip, reason: str, trace: str | None = None) -> dict:
    return {"id": clip.id, "status": "stopped", "reason": reason, "kind": None, "attempt": None, "traceback": trace}


def _is_bad_input(error: Exception, editor: str) -> bool:
    """Whether the editor, or this package, refused what it was given. editor: name of its module.

    A result that is not finite is not the input's fault, nor is a ValueError that a library raised somewhere inside.
    """
    if not isinstance(error, ValueError) or isinstance(error, NotFiniteError):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    packages = {name.partition(".")[0] for name in (__name__, editor)}
    return frame.f_globals.get("__name__", "").partition(".")[0] in packages


def _is_the_disks(error: Exception, folder: Path) -> bool:
    """Whether the results' folder caused the error, such as a full disk, and not the clip."""
    if not isinstance(error, OSError):
        return False
    return error.errno in DISK_ERRORS or bool(error.filename and Path(os.fsdecode(error.filename)).is_relative_to(folder))


def free_memory():
    """Free the memory of the failed edit, on the GPU too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
