"""Model calls with ISA beside torch.compile."""

from __future__ import annotations

import functools

import torch


def apart_when_compiled(wrapper):
    """A wrapper around a model call that torch.compile does not trace; the function that it calls is compiled separately.

    Core's TorchCompileModel drops all guards on `transformer_options`, where overrides and wrappers are. So code compiled
    with ISA would serve the same network without it, and the other way round: silently full attention, or a KeyError. Guards
    on global state stay. Of that state autocast's cache of weights changes no result, for ComfyUI samples without autocast;
    and it is each thread's own, as several GPUs need it.
    """
    wrapper = torch.compiler.disable(wrapper, recursive=False)

    @functools.wraps(wrapper)
    def apart(*args, **kwargs):
        before = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(not before)
        try:
            return wrapper(*args, **kwargs)
        finally:
            torch.set_autocast_cache_enabled(before)

    return torch.compiler.disable(apart, recursive=False)
