"""Waiting for something to become true, with an end."""

import time


def until(true, otherwise: str = "it took too long", seconds: float = 90, every: float = 0.01):
    """Until `true()` is, looked at every so many seconds; fails with `otherwise` when it does not become so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, otherwise
        time.sleep(every)


def settled(read, within: float, for_seconds: float = 0.5, seconds: float = 30) -> float:
    """The last `read()` once readings stay within so much of each other for so long."""
    start = time.monotonic()
    least = most = read()
    since = start
    while time.monotonic() - since < for_seconds:
        assert time.monotonic() - start < seconds, f"it goes on changing between {least} and {most}"
        time.sleep(0.05)
        now = read()
        least, most = min(least, now), max(most, now)
        if most - least > within:
            least, most, since = now, now, time.monotonic()
    return now
