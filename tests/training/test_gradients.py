"""ISA's gradients at LIVEditor-14B's head size against autograd of the fp64 oracle, which shares no code with it."""

import pytest
import torch
from liveditor_isa.isa_core import ISAConfig, TokenLayout, coarse_gate, in_context_sparse_attention
from liveditor_isa.isa_core.reference import reference_attention

HEAD = 128


@pytest.mark.parametrize("policy", ["isa", "error_aware", "segment_top_k"])
def test_gradients_at_head_size_128_are_the_oracles(policy):
    generator = torch.Generator().manual_seed(0)
    layout, config = TokenLayout(80, (72,)), ISAConfig(policy=policy, block_size=16, keep_ratio=0.5, exact_ratio=0.25)
    q, k, v = (torch.randn(1, layout.total, 2, HEAD, generator=generator) for _ in range(3))
    projected, upstream = (
        torch.randn(1, layout.total, 1, generator=generator),
        torch.randn(1, layout.total, 2, HEAD, generator=generator),
    )

    fast = [x.clone().requires_grad_() for x in (q, k, v, projected)]
    out = in_context_sparse_attention(
        *fast[:3], layout=layout, config=config, coarse_gate=coarse_gate(fast[3]), backend="torch"
    )
    out.backward(upstream)
    exact = [x.double().requires_grad_() for x in (q, k, v, projected)]
    gate = (0.5 * (torch.sigmoid(exact[3]) - 0.5))[..., None]
    reference_out, _ = reference_attention(*exact[:3], layout, config, gate)
    assert (out - reference_out).abs().max() < 1e-4
    reference_out.backward(upstream.double())
    for name, found, right in zip(("q", "k", "v", "gate"), fast, exact):
        error = (found.grad - right.grad).norm() / right.grad.norm()
        assert right.grad.norm() > 0 and error < 1e-4, (name, error)
