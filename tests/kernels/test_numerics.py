"""ISA is finite wherever full attention is: overflowing logits, constant inputs, rows whose every key but one is out of reach."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_device import DEVICE, DTYPES, GPU
from liveditor_isa import kernels
from liveditor_isa.isa_core import ISAConfig, TokenLayout, dense_attention, in_context_sparse_attention

LARGEST = 5e4
"""Little less than fp16 holds."""
LARGEST_SCORED = 4e3
"""Of the kernels' queries and keys: the compiler makes one operation of scaling a logit and taking the maximum off, whose
rounding from logits of 2^29 on is more than fp16 weights hold (docs/kernels.md); PyTorch's path has no such end."""

INPUTS = {
    "zeros": lambda x, most: torch.zeros_like(x),
    "constant": lambda x, most: torch.full_like(x, 3.0),
    "tiny": lambda x, most: x * 1e-6,
    "huge": lambda x, most: (x * most).clamp(-most, most),
    "one huge token": lambda x, most: x.index_fill(1, torch.tensor([5], device=x.device), most),
    "one huge channel": lambda x, most: x.index_fill(3, torch.tensor([2], device=x.device), -most),
    "noise": lambda x, most: x,
}
CONFIGS = {
    "paper": ISAConfig(),
    "means only": ISAConfig(0.5, 0, 0),
    "threshold": ISAConfig(0.5, sharpness_threshold=1e-3),
    "taylor tail, second order": ISAConfig(0.3, 0.5, 0.2, context_tail="taylor", tail_order=2),
}


@pytest.fixture(autouse=True)
def kernels_may_run_here(monkeypatch):
    monkeypatch.setattr(kernels, "unavailable_reason", lambda *_: None)


def check(backend, dtype, kinds, config, layout):
    generator = torch.Generator().manual_seed(0)
    shape = 1, layout.total, 2, 32
    scored = LARGEST_SCORED if backend == "triton" else LARGEST
    q, k, v = (
        INPUTS[kind](torch.randn(shape, generator=generator).to(DEVICE), most).to(dtype)
        for kind, most in zip(kinds, (scored, scored, LARGEST))
    )
    full = dense_attention(q, k, v)
    gate = torch.full((1, layout.total, 1, 1), 0.25, device=DEVICE, dtype=dtype)
    out = in_context_sparse_attention(q, k, v, layout=layout, config=CONFIGS[config], coarse_gate=gate, backend=backend)
    if torch.isfinite(full).all():
        assert torch.isfinite(out).all()
        # Attention is a mean of values, and so is what the gate adds a quarter of.
        assert out.float().abs().max() <= 1.26 * v.float().abs().max() + 1e-6


kind = st.sampled_from(sorted(INPUTS))
layouts = st.sampled_from([TokenLayout(130, (70,)), TokenLayout(64, (1, 63)), TokenLayout(65)])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    st.tuples(kind, kind, kind),
    st.sampled_from(sorted(CONFIGS)),
    layouts,
)
def test_pytorch(dtype, kinds, config, layout):
    check("torch", dtype, kinds, config, layout)


@pytest.mark.slow
@settings(max_examples=100 if GPU else 12, deadline=None)
@given(st.sampled_from(DTYPES), st.tuples(kind, kind, kind), st.sampled_from(sorted(CONFIGS)), layouts)
def test_kernels(dtype, kinds, config, layout):
    check("triton", dtype, kinds, config, layout)
