"""The PyTorch backend against the fp64 oracle, full attention, and autograd."""

import itertools
import json
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from liveditor_isa.isa_core import (
    BackendUnavailable,
    ISAConfig,
    TokenLayout,
    add_coarse_residual,
    dense_attention,
    estimate_cost,
    in_context_sparse_attention,
)
from liveditor_isa.isa_core.config import blocks_for
from liveditor_isa.isa_core.layout import block_table
from liveditor_isa.isa_core.reference import reference_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CONFIGS = {
    "paper": ISAConfig(),
    "top mass": ISAConfig(sharpness="top_mass", keep_ratio=0.4, exact_ratio=0.3),
    "threshold": ISAConfig(sharpness_threshold=1e-3, keep_ratio=0.5),
    "taylor tail": ISAConfig(context_tail="taylor", keep_ratio=0.3),
    "nothing exact": ISAConfig(keep_ratio=0, dense_query_ratio=0, exact_ratio=0),
    "second order": ISAConfig(keep_ratio=0.5, dense_query_ratio=0.3, exact_ratio=0.2, tail_order=2),
    "error-aware": ISAConfig(1, exact_ratio=0.3, policy="error_aware"),
    "error-aware, part of the context": ISAConfig(
        0.3, exact_ratio=0.3, policy="error_aware", context_tail="taylor", tail_order=2
    ),
    "error-aware, threshold": ISAConfig(1, policy="error_aware", error_threshold=0.1),
    "top of segments": ISAConfig(exact_ratio=0.3, policy="segment_top_k"),
}


def tensors(layout, batch=1, heads=2, dim=64, dtype=torch.float32, seed=0, scale=1.5):
    """q, k, v, gate; scaled so that attention is peaked enough for routing to matter."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, layout.total, heads, dim)
    qkv = [(torch.randn(shape, generator=generator) * scale).to(dtype) for _ in range(3)]
    return *qkv, torch.randn(batch, layout.total, 1, 1, generator=generator).to(dtype) / 4


def error(out, expected):
    return ((out.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("context", [(), (130,), (77, 64)], ids=str)
@pytest.mark.parametrize("target", [64, 65, 120, 127, 256 + 63])
def test_equals_the_oracle_on_aligned_and_ragged_layouts(target, context, config):
    layout = TokenLayout(target, context)
    q, k, v, gate = tensors(layout, seed=target)
    out = in_context_sparse_attention(q, k, v, layout=layout, config=config, coarse_gate=gate, backend="torch")
    expected, _ = reference_attention(q, k, v, layout, config, gate)
    assert error(out, expected) <= 1e-5


@pytest.mark.parametrize("batch, heads, dim", [(1, 1, 64), (2, 5, 96), (3, 3, 128)])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_equals_the_oracle_over_batches_heads_and_head_dims(batch, heads, dim, config):
    layout = TokenLayout(191, (140,))
    q, k, v, gate = tensors(layout, batch, heads, dim)
    out = in_context_sparse_attention(q, k, v, layout=layout, config=config, coarse_gate=gate, backend="torch")
    expected, _ = reference_attention(q, k, v, layout, config, gate)
    assert error(out, expected) <= 1e-5


@pytest.mark.slow
@given(
    target=st.integers(1, 150),
    context=st.lists(st.integers(1, 150), max_size=2).map(tuple),
    ratios=st.tuples(*[st.floats(0, 1)] * 3),
    sharpness=st.sampled_from(["variance", "top_mass"]),
    tail=st.sampled_from(["drop", "taylor"]),
    order=st.sampled_from([0, 2]),
    block_size=st.sampled_from([1, 7, 32, 64]),
    seed=st.integers(0, 1000),
    target_alone=st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_shape_and_ratio_equals_the_oracle(target, context, ratios, sharpness, tail, order, block_size, seed, target_alone):
    """In fp64 on both sides, where rounding cannot flip a routing decision: arithmetic and decisions are compared."""
    layout = TokenLayout(target, context)
    config = ISAConfig(*ratios, sharpness=sharpness, context_tail=tail, block_size=block_size, tail_order=order)
    # The whole mass of every row is 1, and only rounding would tell one from another.
    target_blocks = block_table(layout, block_size).target_blocks
    assume(context or sharpness == "variance" or blocks_for(ratios[2], target_blocks) < target_blocks)
    q, k, v, _ = tensors(layout, heads=1, dim=8, dtype=torch.float64, seed=seed)
    q = q[:, :target] if target_alone else q
    out, stats = in_context_sparse_attention(q, k, v, layout=layout, config=config, backend="torch", return_stats=True)
    expected, lists = reference_attention(q, k, v, layout, config)
    assert error(out, expected) <= 1e-10
    assert set(stats.dense_queries[0, 0].nonzero().flatten().tolist()) == lists[0, 0]["dense"]
    assert 0 <= stats.density <= 1 + 1e-9


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_queries_of_the_target_alone(config):
    """As where the context's keys and values are kept from an earlier call."""
    layout = TokenLayout(191, (140, 64))
    q, k, v, gate = (
        x[:, : layout.target] if index in (0, 3) else x for index, x in enumerate(tensors(layout, batch=2, heads=3))
    )
    out, stats = in_context_sparse_attention(
        q, k, v, layout=layout, config=config, coarse_gate=gate, backend="torch", return_stats=True
    )
    expected, lists = reference_attention(q, k, v, layout, config, gate)
    assert out.shape == q.shape and error(out, expected) <= 1e-5
    assert stats.dense_queries.shape == (2, 3, 3) and 0 <= stats.density <= stats.flop_ratio
    assert set(stats.dense_queries[1, 2].nonzero().flatten().tolist()) == lists[1, 2]["dense"]


@pytest.mark.parametrize("context", [(), (130,), (77, 64)], ids=str)
def test_the_target_alone_is_the_first_rows_of_the_whole(context):
    """With everything exact, where no decision depends on the other queries; the residual included."""
    layout, config = TokenLayout(127, context), ISAConfig(1, 1, 1)
    q, k, v, gate = tensors(layout)
    alone = slice(0, layout.target)
    whole = in_context_sparse_attention(q, k, v, layout=layout, config=config, coarse_gate=gate, backend="torch")
    out = in_context_sparse_attention(
        q[:, alone], k, v, layout=layout, config=config, coarse_gate=gate[:, alone], backend="torch"
    )
    assert error(out, whole[:, alone]) <= 2e-6
    full = dense_attention(q, k, v)
    residual = add_coarse_residual(full[:, alone], q[:, alone], k, v, gate[:, alone], layout)
    assert error(residual, add_coarse_residual(full, q, k, v, gate, layout)[:, alone]) <= 2e-6


@pytest.mark.parametrize("context", [(), (130,), (77, 64)], ids=str)
@pytest.mark.parametrize(
    "config", [ISAConfig(1, 1, 0.1), ISAConfig(1, 0, 1), ISAConfig(1, 0.5, 1), ISAConfig(1, 1, 1)], ids=str
)
def test_all_ratios_one_is_full_attention(context, config):
    layout = TokenLayout(127, context)
    q, k, v, gate = tensors(layout, batch=2)
    full = dense_attention(q, k, v)
    assert error(in_context_sparse_attention(q, k, v, layout=layout, config=config, backend="torch"), full) <= 2e-6
    with_residual = in_context_sparse_attention(q, k, v, layout=layout, config=config, coarse_gate=gate, backend="torch")
    assert error(with_residual, add_coarse_residual(full, q, k, v, gate, layout)) <= 2e-6
    assert error(with_residual, full) > 1e-3


@pytest.mark.parametrize("dtype, limit", [(torch.float16, 2e-3), (torch.bfloat16, 1e-2), (torch.float64, 1e-12)])
def test_other_dtypes_stay_within_their_rounding(dtype, limit):
    layout = TokenLayout(320, (320,))
    config = ISAConfig(keep_ratio=0.4, exact_ratio=0.2)
    q, k, v, gate = tensors(layout, dtype=dtype)
    out, stats = in_context_sparse_attention(
        q, k, v, layout=layout, config=config, coarse_gate=gate, backend="torch", return_stats=True
    )
    expected, lists = reference_attention(q, k, v, layout, config, gate)
    assert out.dtype == dtype
    assert set(stats.dense_queries[0, 0].nonzero().flatten().tolist()) == lists[0, 0]["dense"]
    assert error(out, expected) <= limit


def test_block_means_are_weighted_exactly_in_low_precision():
    """log 64 rounded to bf16 would shift every pooled weight by 0.3 %; constant inputs make that visible."""
    layout = TokenLayout(64 * 20)
    q = torch.zeros(1, layout.total, 1, 64, dtype=torch.bfloat16)
    v = torch.zeros_like(q)
    v[:, 64:] = 1
    out = in_context_sparse_attention(q, q, v, layout=layout, config=ISAConfig(0, 0, 0.05), backend="torch")
    # One block of 64 is exact, nineteen are means: 19/20 of the weight is on ones, whichever block is the exact one.
    expected = torch.full_like(out, 19 / 20)
    assert (out - expected).abs().max() <= 2**-9


def test_strided_inputs_give_the_same_and_are_left_alone():
    layout = TokenLayout(130, (90,))
    q, k, v, _ = tensors(layout, batch=2, heads=3)
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    before = [x.clone() for x in strided]
    torch.testing.assert_close(
        in_context_sparse_attention(*strided, layout=layout, backend="torch"),
        in_context_sparse_attention(q, k, v, layout=layout, backend="torch"),
    )
    assert all(torch.equal(x, y) for x, y in zip(strided, before))


def test_heads_in_chunks_equal_heads_at_once(monkeypatch):
    layout = TokenLayout(130, (90,))
    q, k, v, gate = tensors(layout, batch=2, heads=5)
    run = lambda: in_context_sparse_attention(q, k, v, layout=layout, coarse_gate=gate, backend="torch")  # noqa: E731
    at_once = run()
    monkeypatch.setattr("liveditor_isa.isa_core.memory.WORKSPACE_BYTES", 1)
    monkeypatch.setattr("liveditor_isa.isa_core.attend.GATHER_BYTES", 1)
    torch.testing.assert_close(run(), at_once)


@pytest.mark.parametrize("name", ["paper", "taylor tail", "threshold"])
def test_gradients_reach_q_k_v_and_gate(name):
    layout = TokenLayout(90, (70, 33))
    inputs = [x.requires_grad_() for x in tensors(layout, dim=8, dtype=torch.float64)]

    def run(q, k, v, gate):
        config = ISAConfig(**{**vars(CONFIGS[name]), "block_size": 16})
        return in_context_sparse_attention(q, k, v, layout=layout, config=config, coarse_gate=gate, backend="torch")

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def test_the_callers_attention_runs_the_dense_group_only():
    layout = TokenLayout(256, (256,))
    q, k, v, _ = tensors(layout, heads=3)
    calls = []

    def chosen(q, k, v):
        calls.append((tuple(q.shape), tuple(k.shape)))
        return dense_attention(q, k, v)

    config = ISAConfig(keep_ratio=0.5)
    out = in_context_sparse_attention(q, k, v, layout=layout, config=config, backend="torch", dense=chosen)
    assert calls == [((1, 256, 3, 64), (1, 384, 3, 64))]  # half the queries; the target and half the context as keys
    assert torch.equal(out, in_context_sparse_attention(q, k, v, layout=layout, config=config, backend="torch"))


def test_density_and_cost_at_the_papers_size():
    """3.30x is the arithmetic ceiling at 65,520 tokens (26.6 of 87.9 TFLOP)."""
    _, flops = estimate_cost(TokenLayout(32760, (32760,)), ISAConfig())
    assert 1 / flops == pytest.approx(3.30, abs=0.01)


def rounding(config) -> float:
    """A budget is rounded up over all heads together, of which an estimate knows nothing."""
    return 1e-6 if config.policy == "isa" else 0.01


@pytest.mark.parametrize(
    "config", [c for n, c in CONFIGS.items() if "threshold" not in n], ids=[n for n in CONFIGS if "threshold" not in n]
)
def test_estimated_cost_is_the_measured_cost_on_aligned_layouts(config):
    layout = TokenLayout(640, (640, 128))
    _, stats = in_context_sparse_attention(
        *tensors(layout)[:3], layout=layout, config=config, backend="torch", return_stats=True
    )
    assert estimate_cost(layout, config) == pytest.approx((stats.density, stats.flop_ratio), rel=rounding(config))


@pytest.mark.parametrize(
    "config", [c for n, c in CONFIGS.items() if "threshold" not in n], ids=[n for n in CONFIGS if "threshold" not in n]
)
def test_estimated_cost_is_the_measured_cost_of_the_targets_queries_alone(config):
    layout = TokenLayout(640, (640, 128))
    q, k, v, _ = tensors(layout)
    options = {"layout": layout, "config": config, "backend": "torch", "return_stats": True}
    _, stats = in_context_sparse_attention(q[:, :640], k, v, **options)
    assert estimate_cost(layout, config, without_context=True) == pytest.approx(
        (stats.density, stats.flop_ratio), rel=rounding(config)
    )


def test_stats_tell_what_was_kept():
    layout = TokenLayout(640, (1280,))
    q, k, v, _ = tensors(layout, batch=2, heads=3)
    k[:, 640 + 64 * 7 : 640 + 64 * 8] = (
        q[:, :640].mean(1, keepdim=True) * 30
    )  # context block 7 is what every target query seeks
    _, stats = in_context_sparse_attention(q, k, v, layout=layout, backend="torch", return_stats=True)
    assert stats.kept_context.shape == (2, 3, 3) and stats.sharpness.shape == (2, 3, 30)
    assert (stats.kept_context == 10 + 7).any(-1).all()
    assert stats.dense_queries.float().mean() == 0.5
    assert stats.backend == "torch" and stats.backend_reason == "chosen"


def test_threshold_may_route_nothing_or_everything():
    layout = TokenLayout(200, (100,))
    q, k, v, _ = tensors(layout)
    for threshold, share in ((1.0, 0.0), (0.0, 1.0)):
        config = ISAConfig(keep_ratio=1, sharpness_threshold=threshold)
        out, stats = in_context_sparse_attention(q, k, v, layout=layout, config=config, backend="torch", return_stats=True)
        assert stats.dense_queries.float().mean() == share and out.isfinite().all()
    assert error(out, dense_attention(q, k, v)) <= 2e-6


def test_constant_inputs_and_single_token_stay_finite():
    for layout in (TokenLayout(1), TokenLayout(1, (1,)), TokenLayout(300, (300,))):
        x = torch.ones(1, layout.total, 2, 64)
        out = in_context_sparse_attention(x, x, x, layout=layout, backend="torch")
        torch.testing.assert_close(out, x)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda q, k, v, g: (q[0], k, v, g), "q, k and v must be"),
        (lambda q, k, v, g: (q, k[:, :-1], v, g), "q, k and v must be"),
        (lambda q, k, v, g: (q.half(), k, v, g), "share one floating-point dtype"),
        (lambda q, k, v, g: (q.long(), k.long(), v.long(), g), "share one floating-point dtype"),
        (
            lambda q, k, v, g: (q[:, 1:], k[:, 1:], v[:, 1:], g),
            r"layout describes 96 tokens \(64 \+ 32\), but q, k and v hold 95",
        ),
        (lambda q, k, v, g: (q, k, v, g[:, :, 0]), "coarse_gate must be"),
    ],
)
def test_mismatched_tensors_are_refused_in_one_sentence(change, message):
    layout = TokenLayout(64, (32,))
    q, k, v, gate = change(*tensors(layout))
    with pytest.raises(ValueError, match=message):
        in_context_sparse_attention(q, k, v, layout=layout, coarse_gate=gate)


def test_backend_is_never_changed_behind_an_explicit_choice():
    layout = TokenLayout(64)
    q, k, v, _ = tensors(layout)
    with pytest.raises(ValueError, match="backend must be one of auto, triton, torch"):
        in_context_sparse_attention(q, k, v, layout=layout, backend="cuda")
    with pytest.raises(BackendUnavailable, match="Triton backend cannot run: .* Choose backend 'auto' or 'torch'"):
        in_context_sparse_attention(q, k, v, layout=layout, backend="triton")
    _, stats = in_context_sparse_attention(q, k, v, layout=layout, backend="auto", return_stats=True)
    assert stats.backend == "torch" and stats.backend_reason


def test_every_pair_of_heads_and_batch_is_independent():
    layout = TokenLayout(130, (90,))
    q, k, v, gate = tensors(layout, batch=2, heads=3)
    whole = in_context_sparse_attention(q, k, v, layout=layout, coarse_gate=gate, backend="torch")
    for b, h in itertools.product(range(2), range(3)):
        one = (x[b : b + 1, :, h : h + 1] for x in (q, k, v))
        alone = in_context_sparse_attention(*one, layout=layout, coarse_gate=gate[b : b + 1], backend="torch")
        torch.testing.assert_close(alone, whole[b : b + 1, :, h : h + 1])


@pytest.mark.slow
def test_memory_of_a_long_sequence_stays_bounded():
    """S = 16,384, H = 4, D = 64 in a process of its own, torch and inputs included. S × S scores would take 4.3 GB more."""
    command = [sys.executable, "-m", "liveditor_isa.benchmarks.attention.cpu", "--one", "isa", "float32"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout)["peak_gb"] < 1.5


def test_no_fp64_on_the_device():
    """Apple's GPUs have none. Constants may be made in fp64 on the CPU; here the only other fp64 would be a result."""
    layout = TokenLayout(130, (90,))
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            seen.extend((func, x) for x in tree_leaves(out) if isinstance(x, torch.Tensor) and x.dtype == torch.float64)
            return out

    q, k, v, gate = tensors(layout)
    with Watch():
        in_context_sparse_attention(q, k, v, layout=layout, coarse_gate=gate, backend="torch", return_stats=True)
    constants = len(block_table(layout, 64).lengths)
    assert all(x.numel() <= constants for _, x in seen)
    assert {str(func) for func, _ in seen} <= {
        "aten.log.default",
        "aten.add.Tensor",
        "aten.sub.Tensor",
        "aten._to_copy.default",
        "aten.lift_fresh.default",
    }


def test_one_operator_in_a_compiled_graph():
    layout, config = TokenLayout(130, (70,)), ISAConfig(0.4)
    q, k, v, gate = tensors(layout)

    def block(q, k, v, gate):
        return in_context_sparse_attention(q * 2, k, v, layout=layout, config=config, coarse_gate=gate) + 1

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, k, v, gate), block(q, k, v, gate))
    arguments = [
        q,
        k,
        v,
        gate,
        list(layout.segments),
        "target context",
        0.4,
        0.5,
        0.1,
        "variance",
        None,
        "drop",
        64,
        0,
        "isa",
        None,
        "auto",
        "auto",
    ]
    torch.library.opcheck(torch.ops.liveditor_isa.attention.default, arguments)


def test_compiled_training_breaks_the_graph_and_keeps_gradients():
    layout = TokenLayout(130, (70,))
    q, k, v, _ = tensors(layout)

    def loss(q):
        return in_context_sparse_attention(q, k, v, layout=layout).square().sum()

    grads = []
    for run in (loss, torch.compile(loss, backend="aot_eager")):
        leaf = q.clone().requires_grad_()
        run(leaf).backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)
