"""The steps of an edit: noise levels, and the schedulers that take them."""

from __future__ import annotations

import inspect

import numpy as np
import torch

from .transformer import TRAIN_TIMESTEPS


def set_timesteps(scheduler, steps: int, sigmas: list[float] | None, device) -> torch.Tensor:
    """The scheduler's timesteps, 1000 to 0, for `steps`, or for `sigmas` before its shift; it is set to them.

    Raises ValueError for sigmas to a scheduler that takes none.
    """
    if "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
        scheduler.set_timesteps(sigmas=np.array(simple_sigmas(steps) if sigmas is None else sigmas), device=device)
    elif sigmas is not None:
        raise ValueError(f"{type(scheduler).__name__} takes no sigmas of its caller's.")
    else:
        scheduler.set_timesteps(steps, device=device)
    scheduler.set_begin_index(0)
    return scheduler.timesteps


def solves_flows(scheduler) -> bool:
    """Raise if a scheduler is set for models that predict something else than a flow's velocity."""
    settings = scheduler.config
    return settings.get("prediction_type", "flow_prediction") == "flow_prediction" and settings.get("use_flow_sigmas", True)


def simple_sigmas(steps: int) -> list[float]:
    """ComfyUI's `simple` schedule before the shift: evenly spaced over 1,000 training timesteps, cut to whole ones."""
    return [1 - int(step * TRAIN_TIMESTEPS / steps) / TRAIN_TIMESTEPS for step in range(steps)]
