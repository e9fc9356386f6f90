"""The kernels on layouts of segments in any order, against the PyTorch path."""

import itertools

import pytest
import torch
from kernel_device import DEVICE, GPU
from liveditor_isa import kernels
from liveditor_isa.isa_core import BackendUnavailable, ISAConfig, TokenLayout, dense_attention, in_context_sparse_attention

H3 = TokenLayout.of(("exact", 9), ("context", 70), ("exact", 20), ("target", 50))
AROUND = TokenLayout.of(("target", 19), ("context", 40), ("target", 35), ("exact", 3), ("context", 16))
CONFIGS = {
    "isa": ISAConfig(0.4, 0.3, 0.2, block_size=16),
    "taylor": ISAConfig(0.3, 0.5, 0.2, context_tail="taylor", tail_order=2, block_size=16),
    "threshold": ISAConfig(0.5, sharpness_threshold=1e-3, sharpness="top_mass", block_size=16),
    "error-aware": ISAConfig(0.5, exact_ratio=0.2, policy="error_aware", block_size=16),
    "error-aware, nothing else exact": ISAConfig(0.5, exact_ratio=0, policy="error_aware", block_size=16),
    "top of segments": ISAConfig(exact_ratio=0.3, policy="segment_top_k", block_size=16),
    "dense": ISAConfig(1, 1, block_size=16),
}


@pytest.fixture(autouse=True)
def kernels_may_run_here(monkeypatch):
    monkeypatch.setattr(kernels, "unavailable_reason", lambda *_: None)
    monkeypatch.setattr(kernels, "eight_bit_unavailable_reason", lambda *_: None)


def tensors(layout, dim=32, heads=2):
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, layout.total, heads, dim)] * 3 + [(1, layout.total, 1, 1)]
    return [torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes]


def rows_of(layout, *kinds) -> torch.Tensor:
    kind_of = [kind for kind, tokens in layout.in_memory for _ in range(tokens)]
    return torch.tensor([number for number, found in enumerate(kind_of) if found in kinds], device=DEVICE)


def error(out, expected) -> float:
    return float((out.double() - expected.double()).norm() / expected.double().norm())


QUERIES = {
    "all": ("target", "context", "exact"),
    "without the context": ("target", "exact"),
    "the target alone": ("target",),
}
# Not all of them in the interpreter, which is slow.
CASES = [
    case
    for number, case in enumerate(itertools.product(CONFIGS, (H3, AROUND), QUERIES))
    if GPU or number % 6 in (number // 6 % 3, 3 + (number // 6 + 1) % 3)
]


@pytest.mark.parametrize("name, layout, queries", CASES, ids=str)
def test_equals_the_pytorch_path(name, layout, queries):
    q, k, v, gate = tensors(layout)
    if queries != "all":
        q, gate = (x[:, rows_of(layout, *QUERIES[queries])] for x in (q, gate))
    options = {"layout": layout, "config": CONFIGS[name], "coarse_gate": gate, "return_stats": True, "count_attended": True}
    out, stats = in_context_sparse_attention(q, k, v, backend="triton", **options)
    reference, expected = in_context_sparse_attention(q, k, v, backend="torch", **options)
    assert error(out, reference) < 1e-5
    assert torch.equal(stats.kept_context.long(), expected.kept_context)
    torch.testing.assert_close(stats.attended, expected.attended)
    assert torch.equal(stats.dense_queries, expected.dense_queries)
    assert stats.density == pytest.approx(expected.density) and stats.flop_ratio == pytest.approx(expected.flop_ratio)


@pytest.mark.parametrize("dense", ["auto", "8bit"])
def test_exact_rows_are_exact_whatever_attends_for_the_others(dense):
    layout = TokenLayout.of(("exact", 9), ("context", 70), ("exact", 20), ("target", 64))
    q, k, v, _ = (x.half() for x in tensors(layout))
    config = ISAConfig(exact_ratio=0.3, policy="segment_top_k")
    out = in_context_sparse_attention(q, k, v, layout=layout, config=config, backend="triton", dense=dense)
    rows, full = rows_of(layout, "exact"), dense_attention(q, k, v)
    assert torch.equal(out[:, rows], dense_attention(q[:, rows], k, v)) and error(out[:, rows], full[:, rows]) < 2e-3
    others = rows_of(layout, "target")
    assert 1e-3 < error(out[:, others], full[:, others]) < 0.9, "approximated"


def test_gradients_in_another_order():
    layout = TokenLayout.of(("context", 40), ("target", 50), ("context", 16))
    inputs = [x[:, :, :1].requires_grad_() for x in tensors(layout)[:3]]
    config = ISAConfig(0.4, 0.3, 0.2, block_size=16)
    grads = [
        torch.autograd.grad(
            in_context_sparse_attention(*inputs, layout=layout, config=config, backend=backend).square().sum(), inputs
        )
        for backend in ("triton", "torch")
    ]
    assert all(error(found, expected) < 1e-5 for found, expected in zip(*grads))


def test_exact_segments_have_no_gradient_on_the_kernels():
    q, k, v, _ = tensors(H3)
    with pytest.raises(BackendUnavailable, match="no gradient where a layout has exact segments"):
        in_context_sparse_attention(q.requires_grad_(), k, v, layout=H3, backend="triton")
    _, stats = in_context_sparse_attention(q, k, v, layout=H3, return_stats=True)
    assert stats.backend == "torch" and "exact segments" in stats.backend_reason
