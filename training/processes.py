"""Several GPUs: one process each, started by torchrun. Each sees other edits; all apply the mean of their gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist

from ..runtime.torchrun import this_process


def join(device: str) -> str:
    """Join the other processes if torchrun started this one. Returns the device of this process."""
    process = this_process()
    if process is None:
        return device
    if device == "cuda":
        device = f"cuda:{process.local_rank}"
        torch.cuda.set_device(device)
    # gloo besides, so that `largest` waits for no GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
    return device


def leave():
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """0 for the process that writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def own_seed(seed: int) -> int:
    """A seed of each process's own. The first process's does not depend on the number of processes."""
    return seed + 10**12 * rank()


def average(gradient: torch.Tensor):
    """Average over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(gradient)
        gradient /= count()


@torch.no_grad()
def share(weights: Iterable[torch.Tensor]):
    """Give all processes the first one's, in place."""
    if dist.is_initialized():
        for weight in weights:
            dist.broadcast(weight, 0)


def largest(number: int) -> int:
    """Of all processes' numbers. All must call this."""
    if not dist.is_initialized():
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def wait():
    """Wait until all processes have called this."""
    if dist.is_initialized():
        dist.barrier()
