"""On a GPU: a call with a gate and statistics makes nobody wait, and its residual writes no block × block matrix."""

import pytest
import torch
from liveditor_isa.isa_core import ISAConfig, TokenLayout, in_context_sparse_attention
from liveditor_isa.isa_core.config import POLICIES
from liveditor_isa.isa_core.gpu.plan import _segments_on, blocks_on, composites_on
from liveditor_isa.isa_core.layout import _lengths_on, _ragged_first
from liveditor_isa.isa_core.residual import coarse_output

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: on a CPU nothing is queued")

LAYOUTS = {
    "whole blocks": TokenLayout(2048, (2048,)),
    "ragged": TokenLayout(2050, (2050,)),
    "references": TokenLayout(2050, (2050, 301, 77)),
}
CYCLES = 4_000_000_000
"""Of the GPU's sleep: some two seconds."""


def tensors(layout: TokenLayout, requires_grad: bool = False):
    q, k, v = (torch.randn(1, layout.total, 4, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    gate = torch.linspace(-0.25, 0.25, layout.total, device="cuda").bfloat16().view(1, -1, 1, 1)
    return [x.requires_grad_(requires_grad) for x in (q, k, v, gate)]


@pytest.fixture
def no_synchronisation():
    """PyTorch raises where an operation of its own would wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dense", ["auto", "triton", "8bit"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_call_waits_for_nothing(layout, dense, policy, request):
    *qkv, gate = tensors(layout)
    config = ISAConfig(keep_ratio=0.25, policy=policy)

    def call(layout, qkv, gate):
        return in_context_sparse_attention(
            *qkv, layout=layout, config=config, coarse_gate=gate, dense=dense, return_stats=True, backend="triton"
        )

    call(layout, qkv, gate)  # compiles
    # As for a layout whose tables are not on the GPU yet.
    for tables in (blocks_on, composites_on, _segments_on, _lengths_on, _ragged_first):
        tables.cache_clear()
    torch.cuda.synchronize()
    request.getfixturevalue("no_synchronisation")
    torch.cuda._sleep(CYCLES)
    slept = torch.cuda.Event()
    slept.record()
    _, stats = call(layout, qkv, gate)
    assert not slept.query(), "the host waited until the GPU had slept"
    torch.cuda.set_sync_debug_mode("default")
    assert 0 < stats.density < 1


def test_a_call_with_gradients_waits_for_nothing(request):
    layout = LAYOUTS["ragged"]
    leaves = tensors(layout, requires_grad=True)

    def call():
        out = in_context_sparse_attention(*leaves[:3], layout=layout, coarse_gate=leaves[3], backend="triton")
        return torch.autograd.grad(out, leaves, torch.ones_like(out))

    call()
    torch.cuda.synchronize()
    request.getfixturevalue("no_synchronisation")
    torch.cuda._sleep(CYCLES)
    slept = torch.cuda.Event()
    slept.record()
    call()
    assert not slept.query(), "the host waited until the GPU had slept"


@pytest.mark.parametrize("needs_grad", [False, True])
def test_the_residual_takes_no_more_than_its_blocks(needs_grad):
    """40 heads of 1,024 blocks: one matrix of theirs has 168 MB, all blocks' means 21 MB."""
    pooled = [torch.randn(40, 1024, 128, device="cuda", requires_grad=needs_grad) for _ in range(3)]
    coarse_output(*pooled)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    out = coarse_output(*pooled)
    assert out.is_contiguous(), "the kernels read it row by row"
    assert torch.cuda.max_memory_allocated() - held < 4 * out.numel() * out.element_size()
    exact = (pooled[0].double() @ pooled[1].double().mT / 128**0.5).softmax(-1) @ pooled[2].double()
    torch.testing.assert_close(out.double(), exact, rtol=1e-2, atol=2e-3)
