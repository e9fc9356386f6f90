"""Ulysses (arXiv 2309.14509) with gradients: processes that each hold a part of the tokens exchange it for all tokens of some heads.

diffusers' own exchange computes its attention outside of autograd and repeats it in backward, where no StandIn waits for it.
"""

from __future__ import annotations

import torch
import torch.distributed as dist


class _AllToAll(torch.autograd.Function):
    """Part i of the first dimension goes to process i. It is its own transpose."""

    @staticmethod
    def forward(ctx, parts: torch.Tensor, group) -> torch.Tensor:
        ctx.group = group
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=group)
        return received

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return _AllToAll.apply(gradient.contiguous(), ctx.group), None


class _Shared(torch.autograd.Function):
    """What every process uses for its own heads: the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, group) -> torch.Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class Exchange:
    """Between the processes of a group. All of them must make the same calls."""

    def __init__(self, group):
        self.group, self.count = group, dist.get_world_size(group)

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        """[B, S / n, H, D], this process's tokens -> [B, S, H / n, D], this process's heads."""
        parts = x.unflatten(2, (self.count, -1)).permute(2, 0, 1, 3, 4).contiguous()
        return _AllToAll.apply(parts, self.group).transpose(0, 1).flatten(1, 2)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `heads`."""
        parts = x.unflatten(1, (self.count, -1)).transpose(0, 1).contiguous()
        return _AllToAll.apply(parts, self.group).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def shared(self, x: torch.Tensor) -> torch.Tensor:
        """x, which is the same in all processes, for what each computes of its own heads."""
        return _Shared.apply(x, self.group)
