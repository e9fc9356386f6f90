"""Forward and backward passes as CUDA graphs: a CPU launches a small network's thousands of kernels more slowly than they run."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch

WARM_UPS = 3
"""Calls before a graph is recorded, in which everything is compiled, tuned and cached."""


class Pass:
    """Gradients of `function` in `weights`, computed by replaying one recording per key; on a CPU just computed.

    function: tensors of fixed shapes for each key -> (loss, other numbers ...). It may not read anything back, nor draw random
    numbers. Results are overwritten by the next call of the same key.
    """

    def __init__(self, function: Callable[..., tuple[torch.Tensor, ...]], weights: list[torch.nn.Parameter]):
        self.function = function
        self.gradient = torch.zeros(sum(map(torch.numel, weights)), device=weights[0].device)
        """All gradients in one tensor; each weight's gradient is a view of a part."""
        parts = self.gradient.split([weight.numel() for weight in weights])
        for weight, part in zip(weights, parts):
            weight.grad = part.as_strided(weight.shape, weight.stride(), part.storage_offset())
        self.recorded: dict[Hashable, tuple] = {}
        self.memory = None
        """The memory pool of all recordings, of which only one runs at a time."""

    def __call__(self, key: Hashable, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not inputs[0].is_cuda:
            return self._once(inputs)
        if key not in self.recorded:
            self.recorded[key] = self._record(inputs)
        graph, held, results = self.recorded[key]
        for static, value in zip(held, inputs):
            static.copy_(value)
        graph.replay()
        return results

    def _once(self, inputs) -> tuple[torch.Tensor, ...]:
        self.gradient.zero_()
        results = self.function(*inputs)
        results[0].backward()
        return tuple(result.detach() for result in results)

    def _record(self, inputs):
        held = [value.clone() for value in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._once(held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.memory):
            results = self._once(held)
        self.memory = graph.pool()
        return graph, held, results
