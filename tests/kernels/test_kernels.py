"""The Triton kernels against the PyTorch path and the fp64 oracle: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
import triton
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_device import DEVICE, DTYPES, GPU
from liveditor_isa import kernels
from liveditor_isa.isa_core import (
    BackendUnavailable,
    ISAConfig,
    RoutingMasks,
    TokenLayout,
    in_context_sparse_attention,
    resolve_backend,
)
from liveditor_isa.isa_core.layout import block_table
from liveditor_isa.isa_core.plan import Coarse, coarse_scores
from liveditor_isa.isa_core.policies.paper import query_sharpness, route
from liveditor_isa.isa_core.reference import reference_attention
from sweeps import pairs

WORST = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 5e-3}

LAYOUTS = [
    TokenLayout(136, (130, 70)),
    TokenLayout(192, (128,)),
    TokenLayout(65, (63,)),
    TokenLayout(1, (1,)),
    TokenLayout(120),
]
CONFIGS = {
    "paper": ISAConfig(),
    "sparse": ISAConfig(0.4, 0.3, 0.3),
    "all sparse": ISAConfig(0.5, 0, 0.2),
    "only means": ISAConfig(0.5, 0.5, 0),
    "dense": ISAConfig(1, 1),
    "taylor tail": ISAConfig(0.3, 0.5, 0.2, context_tail="taylor"),
    "top mass": ISAConfig(0.3, 0.5, 0.2, sharpness="top_mass"),
    "threshold": ISAConfig(0.5, sharpness_threshold=1e-3),
    "second order": ISAConfig(0.3, 0.5, 0.2, tail_order=2),
    "second order, taylor tail": ISAConfig(0.3, 0.5, 0.2, tail_order=2, context_tail="taylor"),
    "small blocks": ISAConfig(0.3, 0.5, 0.2, block_size=16),
    "blocks that fill no tile": ISAConfig(0.3, 0.5, 0.2, block_size=24),
    "error-aware": ISAConfig(1, exact_ratio=0.3, policy="error_aware", block_size=16),
    "error-aware, part of the context": ISAConfig(0.4, exact_ratio=0.3, policy="error_aware"),
    "error-aware, taylor tail": ISAConfig(0.4, exact_ratio=0.3, policy="error_aware", context_tail="taylor", tail_order=2),
    "error-aware, threshold": ISAConfig(1, policy="error_aware", error_threshold=0.06, block_size=24),
    "top of segments": ISAConfig(exact_ratio=0.3, policy="segment_top_k", block_size=16),
    "top of segments, only means": ISAConfig(exact_ratio=0, policy="segment_top_k"),
    "top of segments, second order": ISAConfig(exact_ratio=0.2, policy="segment_top_k", tail_order=2, block_size=24),
}


@pytest.fixture(autouse=True)
def kernels_may_run_here(monkeypatch):
    monkeypatch.setattr(kernels, "unavailable_reason", lambda *_: None)
    monkeypatch.setattr(kernels, "eight_bit_unavailable_reason", lambda *_: None)


def tensors(layout, batch=1, heads=2, dim=32, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = batch, layout.total, heads, dim
    q, k, v = (torch.randn(shape, generator=generator).to(DEVICE, dtype) for _ in range(3))
    return q, k, v, (torch.rand(batch, layout.total, 1, 1, generator=generator) - 0.5).to(DEVICE, dtype)


def batch_for(layout) -> int:
    """Several where they are short: the interpreter is slow."""
    return 2 if GPU or layout.total < 200 else 1


def both(layout, config, target_alone=False, **kwargs):
    """(kernels' output and statistics, PyTorch's in fp32)."""
    q, k, v, gate = tensors(layout, **kwargs)
    if target_alone:
        q, gate = q[:, : layout.target], gate[:, : layout.target]
    common = {"layout": layout, "config": config, "return_stats": True}
    ours = in_context_sparse_attention(q, k, v, coarse_gate=gate, backend="triton", **common)
    q, k, v, gate = (x.float() for x in (q, k, v, gate))
    return ours, in_context_sparse_attention(q, k, v, coarse_gate=gate, backend="torch", **common)


def relative_error(out, reference):
    return float((out.double() - reference.double()).norm() / reference.double().norm())


@pytest.mark.slow
@pytest.mark.parametrize("layout, config", pairs(LAYOUTS, CONFIGS))
def test_equals_the_pytorch_path(layout, config):
    (out, stats), (reference, expected) = both(layout, config, batch=batch_for(layout))
    assert stats.backend == "triton" and expected.backend == "torch"
    assert relative_error(out, reference) < WORST[torch.float32]
    assert torch.equal(stats.kept_context.long(), expected.kept_context)
    assert torch.equal(stats.dense_queries, expected.dense_queries)
    assert stats.density == pytest.approx(expected.density) and stats.flop_ratio == pytest.approx(expected.flop_ratio)


@pytest.mark.slow
@pytest.mark.parametrize("layout, config", pairs([layout for layout in LAYOUTS if layout.context], CONFIGS))
def test_queries_of_the_target_alone(layout, config):
    (out, stats), (reference, expected) = both(layout, config, target_alone=True, batch=batch_for(layout))
    assert stats.backend == "triton" and expected.backend == "torch" and out.shape[1] == layout.target
    assert relative_error(out, reference) < WORST[torch.float32]
    assert torch.equal(stats.kept_context.long(), expected.kept_context)
    assert torch.equal(stats.dense_queries, expected.dense_queries)
    assert stats.density == pytest.approx(expected.density) and stats.flop_ratio == pytest.approx(expected.flop_ratio)


def test_queries_of_the_target_alone_have_no_gradient_on_the_kernels():
    layout = TokenLayout(70, (30,))
    q, k, v, _ = tensors(layout)
    with pytest.raises(ValueError, match="use backend 'torch'"):
        in_context_sparse_attention(q[:, :70].requires_grad_(), k, v, layout=layout, backend="triton")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [64, 96, 128])
def test_head_dims_and_types(dim, dtype):
    (out, _), (reference, _) = both(TokenLayout(200, (130,)), CONFIGS["sparse"], dim=dim, dtype=dtype)
    assert out.dtype == dtype and relative_error(out, reference) < WORST[dtype]


@pytest.mark.slow
@settings(max_examples=100 if GPU else 8, deadline=None)
@given(
    target=st.integers(1, 300), context=st.lists(st.integers(1, 200), max_size=2),
    ratios=st.tuples(*[st.floats(0, 1)] * 3), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_layout_and_ratios(target, context, ratios, seed):
    layout = TokenLayout(target, tuple(context))
    (out, _), (reference, _) = both(layout, ISAConfig(*ratios), dim=16, seed=seed)
    assert relative_error(out, reference) < WORST[torch.float32]


def test_equals_the_oracle():
    layout, config = TokenLayout(200, (130, 70)), CONFIGS["sparse"]
    q, k, v, gate = tensors(layout)
    oracle, _ = reference_attention(*(x.cpu() for x in (q, k, v)), layout=layout, config=config, coarse_gate=gate.cpu())
    out = in_context_sparse_attention(q, k, v, layout=layout, config=config, coarse_gate=gate, backend="triton")
    assert relative_error(out.cpu(), oracle) < WORST[torch.float32]


def test_auto_takes_pytorch_where_the_kernels_cannot_run(monkeypatch):
    monkeypatch.undo()
    layout = TokenLayout(70, (30,))
    q, k, v, _ = tensors(layout)
    common = {"layout": layout, "return_stats": True}
    _, stats = in_context_sparse_attention(q.double(), k.double(), v.double(), **common)
    assert stats.backend == "torch"
    assert stats.backend_reason == (
        "the kernels take fp16, bf16 and fp32, not torch.float64" if GPU else "Triton needs a GPU, not 'cpu'"
    )
    with pytest.raises(BackendUnavailable):
        in_context_sparse_attention(q.double(), k.double(), v.double(), backend="triton", **common)


@pytest.mark.parametrize("name, ending", [("2.9.1", "older than 3.4"), ("3.6.0", "(triton-lang/triton#9871)"), ("3.7.0", None)])
def test_a_triton_that_miscompiles_is_refused_by_name(monkeypatch, name, ending):
    monkeypatch.setattr(triton, "__version__", name)
    kernels._unfit_triton.cache_clear()
    reason = kernels._unfit_triton((10, 0))
    kernels._unfit_triton.cache_clear()
    assert reason is None if ending is None else reason.startswith(f"Triton {name} is") and reason.endswith(ending)


@pytest.mark.parametrize(
    "dim, block_size, words",
    [(256, 64, "heads of up to 128 channels, not 256"), (64, 256, "blocks of up to 128 tokens, not 256")],
)
def test_tiles_that_fit_no_shared_memory_go_to_pytorch(monkeypatch, dim, block_size, words):
    monkeypatch.undo()
    device, config = torch.device("cuda"), ISAConfig(block_size=block_size)
    assert resolve_backend("auto", device, torch.bfloat16, dim, config) == ("torch", f"the kernels take {words}")
    with pytest.raises(BackendUnavailable, match=words):
        resolve_backend("triton", device, torch.bfloat16, dim, config)


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout, config",
    pairs(
        [LAYOUTS[0], *LAYOUTS[2:4]],
        {name: CONFIGS[name] for name in ("sparse", "dense", "taylor tail", "threshold", "blocks that fill no tile")},
    ),
)
def test_the_dense_kernel(layout, config):
    q, k, v, gate = tensors(layout, batch=batch_for(layout))
    common = {"layout": layout, "config": config, "coarse_gate": gate}
    out, stats = in_context_sparse_attention(q, k, v, backend="triton", dense="triton", return_stats=True, **common)
    assert stats.dense_backend == "triton"
    assert relative_error(out, in_context_sparse_attention(q, k, v, backend="torch", **common)) < WORST[torch.float32]


def errors_in_8_bits(layout, config):
    """Against exact arithmetic, of keys and values with a common part: (without that part, with it)."""
    q, k, v, gate = tensors(layout, dim=64, dtype=torch.float16)
    k, v = k + 4, v + 4
    common = {"layout": layout, "config": config, "coarse_gate": gate}
    out = in_context_sparse_attention(q, k, v, backend="triton", dense="8bit", **common)
    exact = in_context_sparse_attention(
        *(x.float() for x in (q, k, v)), backend="torch", **common | {"coarse_gate": gate.float()}
    )
    return (out.float() - exact).norm() / (exact - exact.mean((0, 1))).norm(), relative_error(out, exact)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [TokenLayout(136, (130, 70)), TokenLayout(320)], ids=lambda layout: str(layout.segments))
@pytest.mark.parametrize("block_size", [16, 64])
def test_the_8_bit_kernel(layout, block_size):
    """Common parts of keys and values must cost nothing: they are taken away before rounding."""
    config = ISAConfig(0.4, 0.6, 0.3, block_size=block_size)
    error, relative = errors_in_8_bits(layout, config)
    assert 1e-4 < error < 0.05
    assert relative < 0.01


@pytest.mark.parametrize(
    "config",
    [
        ISAConfig(1, exact_ratio=0.4, policy="error_aware"),
        ISAConfig(0.5, exact_ratio=0.4, policy="error_aware", context_tail="taylor", tail_order=2),
        ISAConfig(0.6, 0, 0.4),
        ISAConfig(exact_ratio=0.4, policy="segment_top_k"),
    ],
    ids=["error-aware", "taylor tail", "equal lists", "top of segments"],
)
def test_the_8_bit_lists(config):
    """As above; ragged blocks, and the means beside them, lie off the same centres."""
    layout = TokenLayout(136, (130, 70))
    error, relative = errors_in_8_bits(layout, config)
    assert 1e-4 < error < 0.1
    assert relative < 0.01


@pytest.mark.parametrize("layout", [TokenLayout(136, (130, 70)), TokenLayout(64, (64,))], ids=str)
@pytest.mark.parametrize("of_target", [False, True])
def test_masks_of_a_caller(layout, of_target):
    """Any pairs exactly, any by their means, the rest not at all; the 8-bit kernel of lists too."""
    q, k, v, gate = tensors(layout, dim=64, dtype=torch.float16)
    if of_target:
        q, gate = q[:, : layout.target], gate[:, : layout.target]
    table = block_table(layout, 64)
    shape = q.shape[0] * q.shape[2], table.of_queries(q.shape[1]).count, table.count
    generator = torch.Generator().manual_seed(0)
    exact, by_mean = ((torch.rand(shape, generator=generator) < share).to(q.device) for share in (0.4, 0.6))
    by_mean[:, :, -1] = True
    common = {"layout": layout, "coarse_gate": gate, "masks": RoutingMasks(exact, by_mean), "return_stats": True}
    expected, stats = in_context_sparse_attention(
        *(x.float() for x in (q, k, v)), backend="torch", **common | {"coarse_gate": gate.float()}
    )
    for dense, worst in (("sdpa", WORST[torch.float16]), ("8bit", 0.1)):  # of noise, which 8 bits hold to a few per cent
        out, found = in_context_sparse_attention(q, k, v, backend="triton", dense=dense, **common)
        assert relative_error(out, expected) < worst
        assert found.density == pytest.approx(stats.density) and found.flop_ratio == pytest.approx(stats.flop_ratio)


def test_second_order_survives_variances_beyond_fp16():
    layout, config = TokenLayout(192, (128,)), CONFIGS["second order"]
    q, k, v, _ = tensors(layout, dtype=torch.float16)
    k[..., 3] *= 1000
    q[..., 3] = 0
    out = in_context_sparse_attention(q, k, v, layout=layout, config=config, backend="triton")
    exact = in_context_sparse_attention(*(x.float() for x in (q, k, v)), layout=layout, config=config, backend="torch")
    assert relative_error(out, exact) < WORST[torch.float16]


def test_second_order_with_gradients_runs_on_pytorch():
    layout, config = TokenLayout(70, (64,)), CONFIGS["second order"]
    q, k, v, _ = (x.requires_grad_() for x in tensors(layout))
    _, stats = in_context_sparse_attention(q, k, v, layout=layout, config=config, return_stats=True)
    assert (stats.backend, stats.backend_reason) == ("torch", "the kernels have no gradient of tail_order 2")
    with pytest.raises(BackendUnavailable, match="no gradient of tail_order 2"):
        in_context_sparse_attention(q, k, v, layout=layout, config=config, backend="triton")


def test_8_bit_is_refused_where_it_cannot_run():
    layout = TokenLayout(70, (30,))
    q, k, v, _ = tensors(layout)
    for options, words in (
        ({"backend": "torch"}, "the backend is torch"),
        ({"backend": "triton", "config": ISAConfig(context_tail="taylor")}, "no block means"),
    ):
        with pytest.raises(BackendUnavailable, match=words):
            in_context_sparse_attention(q, k, v, layout=layout, dense="8bit", **options)
    with pytest.raises(ValueError, match="dense must be a function or one of auto, sdpa, triton, 8bit; got 'fp4'"):
        in_context_sparse_attention(q, k, v, layout=layout, dense="fp4")


@pytest.mark.slow
def test_strided_inputs_are_taken_as_they_come():
    layout = TokenLayout(200, (130,))
    q, k, v, _ = tensors(layout)
    fused = torch.stack([q, k, v], dim=2).transpose(2, 3).contiguous()
    strided = [fused[..., i, :] for i in range(3)]
    assert not any(x.is_contiguous() for x in strided)
    run = lambda *x: in_context_sparse_attention(*x, layout=layout, config=CONFIGS["sparse"], backend="triton")  # noqa: E731
    assert torch.equal(run(*strided), run(q, k, v))


def test_a_mean_above_every_exact_logit():
    """Fault of the public release: its running maximum moved without the sums moving along."""
    layout, config = TokenLayout(256, (128,)), ISAConfig(1, 0, 0.2)
    q, k, v, _ = tensors(layout)
    # Blocks of equal keys have a mean as long as the keys; the exact list holds one such block, the others are means.
    direction = q[:, :64].mean(1, keepdim=True)
    k[:, 64:192] = 12 * direction / direction.norm(dim=-1, keepdim=True)
    q += 6 * direction
    oracle, _ = reference_attention(*(x.cpu() for x in (q, k, v)), layout=layout, config=config)
    out = in_context_sparse_attention(q, k, v, layout=layout, config=config, backend="triton")
    assert out.isfinite().all() and relative_error(out.cpu(), oracle) < 2 * WORST[torch.float32]


@pytest.mark.slow
def test_every_element_is_written(monkeypatch):
    monkeypatch.setattr(torch, "empty_like", lambda x, **kwargs: torch.full_like(x, float("nan")))
    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    for layout in LAYOUTS:
        (out, _), _ = both(layout, CONFIGS["sparse"])
        assert out.isfinite().all()


def poisoned(empty):
    def make(*args, **kwargs):
        x = empty(*args, **kwargs)
        return x.fill_(float("nan") if x.is_floating_point() else 77)

    return make


@pytest.mark.slow
def test_few_heads_at_a_time_equal_all_at_once(monkeypatch):
    layout = TokenLayout(200, (130,))
    (at_once, _), _ = both(layout, CONFIGS["sparse"], heads=3)
    monkeypatch.setattr("liveditor_isa.isa_core.memory.WORKSPACE_BYTES", 1)
    monkeypatch.setattr("liveditor_isa.isa_core.gpu.dense_group.COPIES_BYTES", 1)
    (out, _), _ = both(layout, CONFIGS["sparse"], heads=3)
    assert torch.equal(out, at_once)


def test_the_callers_attention_runs_the_dense_group():
    seen = []

    def dense(q, k, v):
        seen.append((q.shape[2], k.shape[1]))
        return torch.zeros_like(q)

    layout, config = TokenLayout(192, (128,)), ISAConfig(0.5, 0.5, 0.2)
    q, k, v, _ = tensors(layout)
    out = in_context_sparse_attention(q, k, v, layout=layout, config=config, backend="triton", dense=dense)
    assert seen == [(2, 256)]
    assert (out == 0).flatten(2).all(2).float().mean() > 0


@pytest.mark.slow
def test_coarse_statistics_and_lists():
    from liveditor_isa.kernels.coarse import coarse_statistics
    from liveditor_isa.kernels.select import exact_lists

    table = block_table(TokenLayout(350, (250,)), 16)
    generator = torch.Generator().manual_seed(1)
    pooled = [torch.randn(3, table.count, 24, generator=generator).to(DEVICE) for _ in range(2)]
    logits = coarse_scores(*pooled)
    probabilities = logits.softmax(-1)
    for sharpness in ("variance", "top_mass"):
        config = ISAConfig(0.3, 0.5, 0.2, sharpness=sharpness)
        plan = route(Coarse(logits, probabilities), table, config)
        top = None if sharpness == "variance" else -(-table.target_blocks // 5)
        saliency, sharp, norm = coarse_statistics(logits, table.target_blocks, top)
        torch.testing.assert_close(norm, logits.logsumexp(2))
        torch.testing.assert_close(saliency, probabilities[:, : table.target_blocks, table.target_blocks :].sum(1))
        torch.testing.assert_close(sharp, query_sharpness(probabilities, table, config), rtol=1e-4, atol=1e-7)
    sparse = ~plan.dense_queries
    count, listed = plan.exact_blocks.shape[2], plan.kv_blocks.int()
    lengths = table.lengths_on(DEVICE).int()
    lists, full, taken = exact_lists(logits, listed, plan.dense_queries, lengths, 16, count, listed.shape[1])
    assert torch.equal(lists[sparse].long().sort(1).values, plan.exact_blocks[sparse])
    assert (taken[sparse].sum(1) == count).all()
    is_full = lengths[lists[sparse].long()] == 16
    assert torch.equal(is_full, torch.arange(count, device=DEVICE) < full[sparse][:, None])
    assert not is_full.all()


def test_equal_logits_go_to_the_earlier_block():
    from liveditor_isa.kernels.select import exact_lists

    logits = torch.zeros(1, 10, 10, device=DEVICE)
    logits[0, 3, 7] = 1
    listed = torch.arange(1, 9, device=DEVICE, dtype=torch.int32)[None]
    dense, lengths = torch.zeros(1, 10, dtype=torch.bool, device=DEVICE), torch.full([10], 4, dtype=torch.int32, device=DEVICE)
    lists, _, _ = exact_lists(logits, listed, dense, lengths, 4, 3, 8)
    assert lists[0, 0].tolist() == [1, 2, 3] and lists[0, 3].tolist() == [1, 2, 7]
