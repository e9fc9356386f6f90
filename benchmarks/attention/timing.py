"""GPU time of calls. Two figures, medians over turns in which all variants alternate in one process:

- `ms`: the GPU first sleeps a few milliseconds, in which the host queues the call, as in a model, where the host runs
  ahead of the GPU. Launches are hidden unless the call itself makes the host wait.
- `ms_alone`: the device idle before the call, so launches count where the GPU waits for them.

One call at a time and a wait after each: a variant that works longer in one go would meet a hotter, slower GPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

SLEEP_CYCLES = 20_000_000
"""About 10 ms at 2 GHz, longer than any variant needs to queue its calls."""


def alternate(calls: dict[str, Callable], turns: int, alone: bool = True) -> dict[str, dict]:
    """{name: {"ms", "ms_range", "ms_alone"}}; `ms_range` holds the lowest and highest of the turns."""
    for call in calls.values():
        call()
    queued, single = ({name: [] for name in calls} for _ in range(2))
    for _ in range(turns):
        for name, call in calls.items():
            queued[name].append(once(call, SLEEP_CYCLES))
            if alone:
                single[name].append(once(call))
    found = {}
    for name, times in queued.items():
        found[name] = {"ms": median(times), "ms_range": [round(min(times), 2), round(max(times), 2)]}
        if alone:
            found[name]["ms_alone"] = median(single[name])
    return found


def median(values: list[float]) -> float:
    return round(statistics.median(values), 2)


def once(call: Callable, sleep: int = 0) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    if sleep:
        torch.cuda._sleep(sleep)
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def first_output(call: Callable) -> tuple[torch.Tensor, float]:
    """(output, GB allocated at the highest point beyond what was there and the output itself)."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    out = call()
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - held - out.numel() * out.element_size()
    return out, round(extra / 1e9, 3)


def split(call: Callable) -> dict[str, float]:
    """Milliseconds of GPU kernels by part: the dense group's attention, our sparse kernel, all the rest."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        call()
        torch.cuda.synchronize()
    parts = {"prep_ms": 0.0, "dense_ms": 0.0, "sparse_ms": 0.0}
    for event in profiled.key_averages():
        parts[part_of(event.key)] += event.self_device_time_total / 1000
    return {name: round(ms, 2) for name, ms in parts.items()}


def part_of(kernel: str) -> str:
    """Our Triton kernels by their names, the libraries' attention by a part that is common to their names."""
    if kernel.startswith("_sparse"):
        return "sparse_ms"
    if kernel.startswith("_dense") or any(word in kernel.lower() for word in ("sdpa", "flash", "fmha")):
        return "dense_ms"
    return "prep_ms"
