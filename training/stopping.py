"""How a signal stops a training run: Ctrl-C and SIGTERM, which schedulers send, wait for the end of a step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """signal: the number of the one that asked for it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.signal = number


def stop_by_signals():
    """From now on they raise Stopped. For a `main` alone."""
    for number in SIGNALS:
        signal.signal(number, _stop)


def _stop(number, frame):
    raise Stopped(number)


@contextmanager
def held_back() -> Iterator[list[int]]:
    """Within it they are put into the list and do nothing else. For the main thread alone."""
    noted: list[int] = []
    before = {number: signal.signal(number, lambda number, _: noted.append(number)) for number in SIGNALS}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
