"""The memory graph of newer cores (0.38 and later, the *Comfy Compiler*): beside ISA."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable


def outside_memory_graph(function: Callable) -> Callable:
    """`function`, of whose allocations core's memory graph takes no note.

    It records what a transformer block allocates, and expects all of it to be freed before the block ends. Contexts that are
    kept, statistics and cached tables live longer: as part of the graph they break it, block after block, until memory runs out.
    Itself where this core has no such graph.
    """
    pause = getattr(sys.modules.get("comfy.model_prefetch"), "pause_malloc_graph", None)
    if pause is None:
        return function

    @functools.wraps(function)
    def outside(*args, **kwargs):
        with pause():
            return function(*args, **kwargs)

    return outside
