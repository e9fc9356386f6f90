"""Several GPUs of one host, one process each, started by torchrun: diffusers' context parallelism over attention heads.

    torchrun --nproc-per-node 2 -m liveditor_isa edit ...

ISA routes each head by itself, so that Ulysses (arXiv 2309.14509), which gives every GPU all tokens of some heads, leaves it as
it is.
"""

from __future__ import annotations

from unittest.mock import patch

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from torch.distributed.device_mesh import DeviceMesh

from ..runtime.torchrun import Process, this_process


def local_device() -> torch.device:
    """This process's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    process = this_process()
    return torch.device("cuda", process.local_rank if process else torch.cuda.current_device())


def check_processes() -> int:
    """How many processes torchrun started, on all machines; 1 without it. Raises ValueError for more here than there are GPUs."""
    process, gpus = this_process() or Process(), torch.cuda.device_count()
    if process.count > 1 and gpus < process.local_count:
        raise ValueError(
            f"torchrun started {process.local_count} processes here, but there are {gpus} GPUs: start as many as GPUs."
        )
    return process.count


def share_gpus(transformer):
    """Share `transformer`'s work with all processes that torchrun started. Does nothing for one process.

    Every process has all the weights on its GPU already, and calls with the same inputs.
    Raises ValueError where they cannot share: more processes than GPUs, or heads that they do not divide.
    """
    if (count := check_processes()) == 1:
        return
    if transformer.config.num_attention_heads % count:
        raise ValueError(f"{transformer.config.num_attention_heads} attention heads cannot be shared by {count} GPUs equally.")
    if not dist.is_initialized():
        torch.cuda.set_device(local_device())
        dist.init_process_group("nccl", device_id=local_device())
    transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=count))


def share_tokens(transformer, mesh: DeviceMesh):
    """Share the tokens of each example with the processes of `mesh`, which has the dimensions "ring", of one, and "ulysses".

    Raises ValueError for heads that they do not divide.
    """
    count = mesh["ulysses"].size()
    if transformer.config.num_attention_heads % count:
        raise ValueError(f"{transformer.config.num_attention_heads} attention heads cannot be shared by {count} GPUs equally.")
    # diffusers divides by the number of GPUs, also where there is none and the mesh is of CPUs.
    with patch.object(torch.accelerator, "device_count", lambda: max(1, torch.cuda.device_count())):
        transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=count, mesh=mesh))
