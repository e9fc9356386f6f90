"""Chains of ffmpeg's filters."""

from __future__ import annotations

from typing import Any

import av

from .readable import readable


class Chain:
    """Filters, one after the other, from a source to a sink. graph: the filters' own, not yet linked."""

    def __init__(self, graph: av.filter.Graph, filters: list[Any]):
        self._graph = graph
        with readable():
            for before, after in zip(filters, filters[1:]):
                before.link_to(after)
            graph.configure()

    def push(self, frame: av.VideoFrame | av.AudioFrame | None) -> list[Any]:
        """The frames that come out after this one goes in; after None, which is the end, all the rest."""
        results = []
        with readable():
            self._graph.push(frame)
            while True:
                try:
                    results.append(self._graph.pull())
                except (av.error.BlockingIOError, av.error.EOFError):
                    return results
