"""One call of a library's attention whose backward pass runs later, from tensors that its caller keeps.

Autograd keeps what a call needs for its backward pass inside its graph, where neither gradient checkpointing nor offload to main memory sees it
once the call is made within a function of our own. Here the graph keeps numbers in their place. The caller keeps the tensors, by
`save_for_backward`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.autograd.graph import get_gradient_edge, saved_tensors_hooks


class KeptGraph:
    """The way back through one call: its graph, without the tensors that it needs."""

    def __init__(self, function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]):
        """`result` is `function(*inputs)` without gradients, `kept` what `gradients` will need: the caller takes both by `take`."""
        # The hooks hold this list alone: one that held `self` would close a circle through the graph, which Python cannot collect.
        tensors: list[torch.Tensor] = []

        def pack(x: torch.Tensor) -> int:
            tensors.append(x.detach())
            return len(tensors) - 1

        with torch.enable_grad():
            # Edges of leaves would keep the leaves.
            begun = _Begin.apply(torch.zeros((), requires_grad=True), *inputs)
            self._inputs = [get_gradient_edge(x) for x in begun]
            with saved_tensors_hooks(pack, tensors.__getitem__):
                result = function(*begun)
        self._result, self._dtype, self._tensors = get_gradient_edge(result), result.dtype, tensors
        self.result, self.kept = result.detach(), tensors[:]
        tensors.clear()

    def take(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(result, kept), which from now on are the caller's alone."""
        taken = self.result, self.kept
        del self.result, self.kept
        return taken

    def gradients(self, kept: Sequence[torch.Tensor], d_result: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The gradient of each input, given that of the result."""
        self._tensors[:] = kept
        try:
            # A second backward pass needs the graph again. What it holds are numbers.
            return torch.autograd.grad([self._result], self._inputs, [d_result.to(self._dtype)], retain_graph=True)
        finally:
            self._tensors.clear()


class _Begin(torch.autograd.Function):
    """(anchor, inputs) -> the inputs, as results of a function."""

    @staticmethod
    def forward(ctx, anchor, *inputs):
        return tuple(x.view_as(x) for x in inputs)

    @staticmethod
    def backward(ctx, *d_inputs):
        raise RuntimeError("gradients end at the inputs")
