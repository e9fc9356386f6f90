"""Memory of a long video in core's context windows: that of one window, its context included.

Core's node scales the noise it estimates with down to a window, and leaves the context whole.
"""

from __future__ import annotations

from contextlib import contextmanager

from ..runtime.in_context import CONTEXT_LATENTS

KEY = "liveditor_isa_windows"


def around_prepare(executor, model, noise_shape, conds, *args, model_options=None, **kwargs):
    """PREPARE_SAMPLING: estimates count of every context only the part in one window."""
    handler = (model_options or {}).get("context_handler")
    with _cut(conds, getattr(handler, "dim", 0), getattr(handler, "context_length", 0)):
        return executor(model, noise_shape, conds, *args, model_options=model_options, **kwargs)


@contextmanager
def _cut(conds: dict[str, list[dict]], dim: int, length: int):
    """Contexts as long as the first, which is the video to edit, one latent frame longer than a window: core adds one in front."""
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
