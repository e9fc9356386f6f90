"""Memory of a long video in core's context windows: that of one window, its context included.

Core's node scales the noise it estimates with down to a window, and leaves the context whole.
"""

from __future__ import annotations

from contextlib import contextmanager

from ..runtime.in_context import CONTEXT_LATENTS


@contextmanager
def cut(conds: dict[str, list[dict]], handler):
    """Within this, contexts as long as the first, which is the video to edit, are no longer than a window of core's `handler` and
    one latent frame, which core adds in front. handler: None for no windows."""
    dim, length = getattr(handler, "dim", 0), getattr(handler, "context_length", 0)
    whole = [(cond, cond[CONTEXT_LATENTS]) for each in conds.values() for cond in each or () if cond.get(CONTEXT_LATENTS)]
    try:
        for cond, latents in whole if length else ():
            frames = latents[0].shape[dim]
            if frames > length + 1:
                cond[CONTEXT_LATENTS] = [
                    each.narrow(dim, 0, length + 1) if each.shape[dim] == frames else each for each in latents
                ]
        yield
    finally:
        for cond, latents in whole:
            cond[CONTEXT_LATENTS] = latents
