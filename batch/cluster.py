"""The Ray cluster of a job, and the number of workers that fit on it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass

from ..optional import needed
from .results import JobError

OBJECT_STORE_BYTES = 100 * 2**20
"""Bytes of Ray's object store. Processes exchange only lines of text; Ray's default is a third of the memory."""

SOCKET_ROOM = 20
"""Longest path of a temporary folder, in characters: Ray's sockets lie below it, and systems allow about 103 for a socket."""


@contextmanager
def connected(address: str | None):
    """A connection to a cluster, or to a local Ray that ends with this process and removes its files."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # otherwise it writes internal messages to stderr
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default, 15, starves workers and GPU
    needed("ray.data", "ray[data]", "batch")
    import ray

    if ray.is_initialized():
        yield ray
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    folder = None
    try:
        if address is None:
            folder = tempfile.mkdtemp(prefix="liveditor-", dir=None if len(tempfile.gettempdir()) < SOCKET_ROOM else "/tmp")
            alone = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES, "_temp_dir": folder}
            _start(ray, alone | quiet)
        else:
            _connect(ray, address, quiet)
        yield ray
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _start(ray, options: dict):
    try:
        ray.init(address="local", **options)
    except Exception as error:  # Ray raises plain ones where a part of it does not start in time
        reason = str(error).split("\n")[0].rstrip(".")
        raise JobError(
            f"Ray cannot start on this machine ({reason}): see that cores and memory are free, and try again."
        ) from error


def _connect(ray, address: str, quiet: dict):
    try:
        host, colon, port = address.rpartition(":")
        if colon and port.isdecimal() and "/" not in host:
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray would wait for minutes
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        cure = "start one with ray start --head; where it wants a token, set RAY_AUTH_MODE=token"
        raise JobError(f"The Ray cluster at {address} cannot be reached ({reason}): {cure}.") from None


@contextmanager
def sigterm_as_ctrl_c():
    """Turns SIGTERM, which schedulers send before they kill, into an exception. Used within Ray, whose handler aborts the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@dataclass(frozen=True)
class Pool:
    """Number of workers, and the resources of each."""

    size: int
    cpus: int
    gpus: float


def pool_for(ray, choice, workers: int | None, gpus_per_worker: float, pending: int, is_local: bool) -> Pool:
    """Raises JobError if that many do not fit, ValueError for a device that workers cannot choose."""
    if choice.device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {choice.device}: a job gives each worker a GPU of its own; use CUDA_VISIBLE_DEVICES.")
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    on_gpus = choice.device == "cuda" or (choice.device == "auto" and any(node.get("GPU") for node in nodes))
    if on_gpus:
        rooms = [(node, int(node.get("GPU", 0) / gpus_per_worker)) for node in nodes]
    else:
        per_node = -(-(workers or 0) // max(1, len(nodes))) or 1
        rooms = [(node, min(per_node, int(node.get("CPU", 0)))) for node in nodes]
    rooms = [(node, room) for node, room in rooms if room]
    room = sum(room for _, room in rooms)
    wanted = workers or room
    # A cluster may grow: Ray waits for missing nodes.
    if wanted < 1 or (is_local and wanted > room):
        what = f"{gpus_per_worker:g} of a GPU" if on_gpus else "a CPU core"
        raise JobError(f"Each worker takes {what}; there is room for {room}, not for {max(1, wanted)}.")
    cpus = min((int(node.get("CPU", 0)) // room for node, room in rooms), default=1)
    return Pool(min(wanted, pending), cpus, gpus_per_worker if on_gpus else 0)
