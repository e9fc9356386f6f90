"""A call of attention whose backward pass runs later, from tensors that its caller keeps."""

import gc
import weakref

import pytest
import torch
from kernel_device import DEVICE
from liveditor_isa.isa_core.attend import dense_attention
from liveditor_isa.isa_core.gpu.kept_graph import KeptGraph


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, tokens, 2, 32, generator=generator).to(DEVICE) for tokens in (40, 70, 70)]


def test_its_gradients_are_autograds_own():
    qkv = inputs()
    d_result = torch.randn(qkv[0].shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    graph = KeptGraph(dense_attention, qkv)
    result, kept = graph.take()
    leaves = [x.clone().requires_grad_() for x in qkv]
    plain = dense_attention(*leaves)
    assert torch.equal(result, plain.detach()) and not result.requires_grad
    expected = torch.autograd.grad(plain, leaves, d_result)
    for _ in range(2):
        for found, exact in zip(graph.gradients(kept, d_result), expected, strict=True):
            torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_it_goes_when_nobody_holds_it(turns):
    """Its hooks hold nothing of it: such a circle leads through the graph, where Python's collector does not look."""
    qkv = inputs()
    graph = KeptGraph(dense_attention, qkv)
    result, kept = graph.take()
    tensors = [weakref.ref(x) for x in kept]
    for _ in range(turns):
        graph.gradients(kept, torch.ones_like(result))
    gone = weakref.ref(graph)
    del graph, kept, result, qkv
    gc.collect()
    assert gone() is None and not any(x() is not None for x in tensors)
