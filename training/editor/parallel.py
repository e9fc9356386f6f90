"""Several GPUs: weights sharded by FSDP2, tokens of an example shared by Ulysses, one process for each GPU, started by torchrun."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ...checkpoint.dtypes import DTYPES
from ...pipelines.parallel import share_tokens
from .. import processes
from .settings import Memory, Parallel


@dataclass(frozen=True)
class Spread:
    """Where this process works, and which part of the work it has.

    device, dtype: of computation. weights: the mesh that weights are sharded over, and replicated over its first dimension where it has two; None for a
    process alone. tokens: the mesh that shares the tokens of an example. group, groups: of processes, each with examples of its own. context: how
    many processes a group has.
    """

    device: torch.device
    dtype: torch.dtype
    weights: DeviceMesh | None = None
    tokens: DeviceMesh | None = None
    group: int = 0
    groups: int = 1
    context: int = 1


def join(device: str, dtype: str, parallel: Parallel) -> Spread:
    """Joins the other processes, where torchrun started this one. device: "cpu" or "cuda".

    A process alone is a group of one on a GPU, and where it computes in other types than fp32: what it computes is the same as among
    others.
    Raises ValueError where the processes cannot be shared out as the recipe says.
    """
    own = torch.device(processes.join(device))
    computed = DTYPES[dtype] if dtype != "auto" else torch.bfloat16 if own.type == "cuda" else torch.float32
    if own.type == "cuda" and not dist.is_initialized():
        torch.cuda.set_device(own.index or 0)
        dist.init_process_group("cpu:gloo,cuda:nccl", store=dist.HashStore(), rank=0, world_size=1)
    elif computed != torch.float32 and not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    count, unit = processes.count(), parallel.context * parallel.replicas
    if count % unit:
        raise ValueError(
            f"{count} processes cannot be {parallel.replicas} replicas with {parallel.context} processes for each example: start a "
            f"multiple of {unit} with torchrun, or change [parallel]."
        )
    if not dist.is_initialized():
        return Spread(own, computed)
    shape, names = (count,), ("weights",)
    if parallel.replicas > 1:
        shape, names = (parallel.replicas, count // parallel.replicas), ("replicas", "weights")
    weights, tokens = init_device_mesh(own.type, shape, mesh_dim_names=names), None
    if parallel.context > 1:
        every = init_device_mesh(
            own.type, (count // parallel.context, 1, parallel.context), mesh_dim_names=("groups", "ring", "ulysses")
        )
        tokens = every["ring", "ulysses"]
    groups = count // parallel.context
    return Spread(own, computed, weights, tokens, processes.rank() // parallel.context, groups, parallel.context)


def place(network, spread: Spread, memory: Memory) -> None:
    """Puts the network on its device, block by block, its weights in their types: fp32 of those that are trained."""
    if spread.tokens is not None:
        share_tokens(network, spread.tokens)
    if spread.weights is None:
        _master(network)
        network.to(spread.device)
        return
    # Inputs stay as they are: timesteps and positions are fp32 for a reason.
    computed = MixedPrecisionPolicy(spread.dtype, torch.float32, cast_forward_inputs=False)
    exact = MixedPrecisionPolicy(cast_forward_inputs=False)
    offload = CPUOffloadPolicy(pin_memory=spread.device.type == "cuda") if memory.offload_weights else OffloadPolicy()
    for block in network.blocks:
        _master(block)
        fully_shard(block, mesh=spread.weights, mp_policy=computed, offload_policy=offload)
    _master(network)
    fully_shard(network.condition_embedder.time_embedder, mesh=spread.weights, mp_policy=exact, offload_policy=offload)
    fully_shard(network, mesh=spread.weights, mp_policy=computed, offload_policy=offload)


def _master(module: torch.nn.Module) -> None:
    for weight in module.parameters():
        if weight.requires_grad and not isinstance(weight, DTensor):
            # Copied: weights may be a file's, mapped read-only.
            weight.data = weight.data.to(torch.float32, copy=True)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a sharded tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a sharded tensor. All processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """Of a number that each process has."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def leave() -> None:
    with suppress(RuntimeError):  # of a process that lost the others
        processes.leave()
