"""Several GPUs of one host, one process each, started by torchrun: diffusers' context parallelism over attention heads.

    torchrun --nproc-per-node 2 -m liveditor_isa edit ...

ISA routes each head by itself, so that Ulysses (arXiv 2309.14509), which gives every GPU all tokens of some heads, leaves it as
it is.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig


def local_device() -> torch.device:
    """This process's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))


def is_first() -> bool:
    """Whether this process is the one that writes and tells."""
    return int(os.environ.get("RANK", 0)) == 0


def check_processes() -> int:
    """How many processes torchrun started; 1 without it. Raises ValueError for more than there are GPUs."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count > 1 and torch.cuda.device_count() < count:
        raise ValueError(
            f"torchrun started {count} processes, but there are {torch.cuda.device_count()} GPUs here: start as many as GPUs."
        )
    return count


def share_gpus(transformer):
    """Share `transformer`'s work with all processes that torchrun started; nothing where it started one or none.

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
