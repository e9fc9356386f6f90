"""Layouts of segments in any order: several targets, contexts anywhere, exact segments. The oracle works on the given order."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from liveditor_isa.isa_core import (
    ISAConfig,
    RoutingMasks,
    TokenLayout,
    add_coarse_residual,
    dense_attention,
    estimate_cost,
    in_context_sparse_attention,
)
from liveditor_isa.isa_core.layout import block_table
from liveditor_isa.isa_core.reference import reference_attention

H3 = TokenLayout.of(("exact", 19), ("context", 70), ("context", 33), ("exact", 8), ("target", 90))
AROUND = TokenLayout.of(("context", 40), ("target", 100), ("context", 30))
TWO_TARGETS = TokenLayout.of(("target", 30), ("context", 45), ("exact", 5), ("target", 61), ("exact", 17))
LAYOUTS = pytest.mark.parametrize("layout", [H3, AROUND, TWO_TARGETS], ids=str)

QUERIES = [("target", "context", "exact"), ("target", "exact"), ("target",)]
"""Kinds of tokens that have queries: all, those that run where the context is kept, the target's alone."""

POLICIES = {
    "isa": ISAConfig(0.4, 0.3, 0.2, block_size=16),
    "taylor": ISAConfig(0.4, 0.3, 0.2, block_size=16, context_tail="taylor", tail_order=2),
    "threshold": ISAConfig(0.4, exact_ratio=0.2, block_size=16, sharpness_threshold=1e-3),
    "error-aware": ISAConfig(0.5, exact_ratio=0.2, block_size=16, policy="error_aware"),
    "error-aware, nothing else exact": ISAConfig(0.5, exact_ratio=0, block_size=16, policy="error_aware"),
    "top of segments": ISAConfig(exact_ratio=0.3, block_size=16, policy="segment_top_k"),
}


def tensors(layout, seed=0, heads=2, dim=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, layout.total, heads, dim)] * 3 + [(1, layout.total, 1, 1)]
    return [1.5 * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def rows_of(layout, *kinds) -> torch.Tensor:
    """Numbers of the tokens of these kinds, in memory order."""
    kind_of = [kind for kind, tokens in layout.in_memory for _ in range(tokens)]
    return torch.tensor([number for number, kind in enumerate(kind_of) if kind in kinds])


def error(out, expected) -> float:
    return float((out.double() - expected.double()).norm() / expected.double().norm())


segments = st.lists(st.tuples(st.sampled_from(["target", "context", "exact"]), st.integers(1, 60)), min_size=1, max_size=6)


@given(
    segments=segments.filter(lambda found: any(kind == "target" for kind, _ in found)),
    config=st.builds(
        ISAConfig,
        st.floats(0, 1),
        st.floats(0, 1),
        st.floats(0, 1),
        policy=st.sampled_from(["isa", "error_aware", "segment_top_k"]),
        context_tail=st.sampled_from(["drop", "taylor"]),
        tail_order=st.sampled_from([0, 2]),
        block_size=st.sampled_from([7, 16]),
    ),
    kinds=st.sampled_from(QUERIES),
    gated=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_order_equals_the_oracle(segments, config, kinds, gated, seed):
    """In fp64 on both sides, where rounding cannot flip a decision."""
    layout = TokenLayout.of(*segments)
    q, k, v, gate = tensors(layout, seed, heads=1)
    q, gate = (x[:, rows_of(layout, *kinds)] for x in (q, gate))
    gate = gate if gated else None
    out, stats = in_context_sparse_attention(
        q, k, v, layout=layout, config=config, coarse_gate=gate, backend="torch", return_stats=True, count_attended=True
    )
    expected, lists = reference_attention(q, k, v, layout, config, gate)
    assert error(out, expected) <= 1e-10
    assert set(stats.dense_queries[0, 0].nonzero().flatten().tolist()) == lists[0, 0]["dense"]
    table = block_table(layout, config.block_size)
    contexts = range(table.target_blocks, table.count - table.exact_blocks)
    assert stats.kept_context[0, 0].tolist() == [j for j in lists[0, 0]["kv"] if j in contexts]
    assert 0 <= stats.density <= 1 + 1e-6
    used = lists[0, 0]
    exact = [used["kv"] if row in used["dense"] else used["exact"][row] for row in range(stats.sharpness.shape[2])]
    counted = [sum(block in row for row in exact) / len(exact) for block in range(table.count)]
    attended = stats.attended[0, 0].tolist()
    # Error-aware lists: a block of one token is its own mean, so all its pairs tie at an expected error of zero, and the oracle
    # cuts through the tie.
    tied = [config.policy == "error_aware" and length == 1 for length in table.lengths]
    assert [share for share, ties in zip(attended, tied) if not ties] == pytest.approx(
        [share for share, ties in zip(counted, tied) if not ties]
    )
    assert all(share >= least - 1e-6 for share, least in zip(attended, counted))


@LAYOUTS
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("kinds", QUERIES, ids="+".join)
def test_ratios_of_one_are_full_attention(layout, kinds, gated):
    q, k, v, gate = tensors(layout)
    full = dense_attention(q, k, v)
    if gated:
        full = add_coarse_residual(full, q, k, v, gate, layout, 16)
    rows = rows_of(layout, *kinds)
    for config in (ISAConfig(1, 1, 1, block_size=16), ISAConfig(1, 0, 1, block_size=16)):
        out = in_context_sparse_attention(
            q[:, rows], k, v, layout=layout, config=config, coarse_gate=gate[:, rows] if gated else None, backend="torch"
        )
        assert error(out, full[:, rows]) <= 1e-12


@pytest.mark.parametrize("layout", [H3, TWO_TARGETS], ids=str)
@pytest.mark.parametrize("config", POLICIES.values(), ids=POLICIES)
def test_exact_segments_attend_and_are_attended_in_full(layout, config):
    q, k, v, _ = tensors(layout)
    exact, others = rows_of(layout, "exact"), rows_of(layout, "target", "context")
    run = lambda q, k, v: in_context_sparse_attention(q, k, v, layout=layout, config=config, backend="torch")  # noqa: E731
    out, full = run(q, k, v), dense_attention(q, k, v)
    assert error(out[:, exact], full[:, exact]) <= 1e-12
    assert error(out[:, others], full[:, others]) > 1e-3, "the others are approximated"
    # Exact tokens far apart have no good mean. Where they get all of the attention, only what is exact is right.
    k[:, exact] = 0
    k[:, exact, :, 0] = torch.linspace(200, 210, len(exact), dtype=k.dtype)[:, None]
    q[..., 0] = q[..., 0].abs() + 1
    out, full = run(q, k, v), dense_attention(q, k, v)
    assert error(out, full) <= 1e-9


@LAYOUTS
def test_the_order_decides_nothing_but_places(layout):
    """The same tokens in the order targets, contexts, exact ones give the same, bit by bit; exact rows but for the order of a sum."""
    q, k, v, gate = tensors(layout)
    order = torch.cat([torch.arange(start, start + tokens) for start, tokens in layout.spans("target", "context", "exact")])
    kinds = [(kind, tokens) for wanted in ("target", "context", "exact") for kind, tokens in layout.in_memory if kind == wanted]
    options = {"config": POLICIES["isa"], "backend": "torch"}
    out = in_context_sparse_attention(q, k, v, layout=layout, coarse_gate=gate, **options)
    moved = in_context_sparse_attention(
        *(x[:, order] for x in (q, k, v)), layout=TokenLayout.of(*kinds), coarse_gate=gate[:, order], **options
    )
    others = layout.total - layout.exact
    assert torch.equal(out[:, order[:others]], moved[:, :others])
    torch.testing.assert_close(out[:, order], moved, rtol=0, atol=1e-13)


def test_the_shorthand_is_the_same_layout():
    assert TokenLayout.of(("target", 5), ("context", 3), ("context", 2)) == TokenLayout(5, (3, 2))
    assert TokenLayout.of(("context", 3), ("target", 5)) != TokenLayout(5, (3,))
    assert TokenLayout.of(("target", 2), ("context", 3), ("target", 5), ("exact", 1)).segments == (2, 5, 3, 1)
    assert (H3.target, H3.context, H3.exact, H3.total) == (90, (70, 33), 27, 220)
    assert str(TokenLayout(64, (32,))) == "64 + 32" and str(AROUND) == "context 40 + target 100 + context 30"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: TokenLayout.of(("context", 5)), "a layout needs a target; got context"),
        (lambda: TokenLayout.of(), "a layout needs a target; got nothing"),
        (lambda: TokenLayout.of(("target", 5), ("text", 5)), "must be one of target, context, exact; got 'text'"),
        (lambda: TokenLayout.of(("target", 5), ("exact", 0)), "at least 1; got 0 in exact"),
        (lambda: TokenLayout(4, (3,), H3.order), "are not the groups of exact 19"),
    ],
)
def test_a_layout_that_is_none_is_refused_in_a_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_tensors_of_another_layout_are_refused_with_the_segments():
    q, k, v, _ = tensors(AROUND)
    with pytest.raises(ValueError, match=r"220 tokens \(exact 19 \+ context 70 .* target 90\), but q, k and v hold 170"):
        in_context_sparse_attention(q, k, v, layout=H3)


@LAYOUTS
@pytest.mark.parametrize("name", [name for name in POLICIES if name != "threshold"])
def test_estimated_cost_is_the_measured_cost(layout, name):
    """On blocks that all are full."""
    layout = TokenLayout.of(
        *((kind, 160 * tokens) for kind, tokens in zip((kind for kind, _ in layout.in_memory), (2, 1, 3, 1, 2)))
    )
    q, k, v, _ = tensors(layout, dtype=torch.float32)
    for kinds in QUERIES[:2]:
        query = q[:, rows_of(layout, *kinds)]
        _, stats = in_context_sparse_attention(
            query, k, v, layout=layout, config=POLICIES[name], backend="torch", return_stats=True
        )
        assert estimate_cost(layout, POLICIES[name], "context" not in kinds) == pytest.approx(
            (stats.density, stats.flop_ratio), rel=0.01
        )


def test_the_density_counts_exact_pairs():
    """By hand: 2 target, 2 context and 1 exact block of 16; one context block kept, all query blocks dense."""
    layout = TokenLayout.of(("exact", 16), ("context", 32), ("target", 32))
    q, k, v, _ = tensors(layout)
    _, stats = in_context_sparse_attention(
        q, k, v, layout=layout, config=ISAConfig(0.5, 1, block_size=16), backend="torch", return_stats=True
    )
    assert stats.density == pytest.approx((4 * 4 + 1 * 5) / 25)


@pytest.mark.parametrize("name", ["isa", "taylor", "top of segments"])
def test_gradients_in_any_order(name):
    layout = TokenLayout.of(("exact", 5), ("context", 20), ("target", 23), ("exact", 3))
    inputs = [x.requires_grad_() for x in tensors(layout, heads=1, dim=4)]

    def run(q, k, v, gate):
        return in_context_sparse_attention(q, k, v, layout=layout, config=POLICIES[name], coarse_gate=gate, backend="torch")

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def test_a_callers_masks_leave_exact_segments_exact():
    q, k, v, _ = tensors(H3)
    table = block_table(H3, 16)
    shape = 2, table.of_queries(H3.total).count, table.count
    config = ISAConfig(block_size=16)
    nothing, everything = torch.zeros(shape, dtype=torch.bool), torch.ones(shape, dtype=torch.bool)
    out, stats = in_context_sparse_attention(
        q, k, v, layout=H3, config=config, masks=RoutingMasks(nothing, everything), backend="torch", return_stats=True
    )
    lists = {"kv": [], "dense": set(), "exact": {i: [*range(table.count)][table.exact_columns] for i in range(shape[1])}}
    expected, _ = reference_attention(
        q, k, v, H3, ISAConfig(block_size=16, context_tail="taylor"), lists={(0, 0): lists, (0, 1): lists}
    )
    assert error(out, expected) <= 1e-10
    assert stats.density == pytest.approx((H3.exact * H3.total + (H3.total - H3.exact) * H3.exact) / H3.total**2)


def test_any_order_in_a_compiled_graph():
    q, k, v, gate = tensors(H3, dtype=torch.float32)

    def block(q):
        return in_context_sparse_attention(q * 2, k, v, layout=H3, config=POLICIES["isa"], coarse_gate=gate)

    assert torch.equal(torch.compile(block, fullgraph=True, backend="aot_eager")(q), block(q))


def test_the_target_alone_decides_which_context_is_kept():
    """Tokens of one context block are what every target query seeks, those of another what all other queries seek."""
    layout = TokenLayout.of(("context", 64), ("exact", 16), ("context", 64), ("target", 48))
    q, k, v, _ = tensors(layout, heads=3)
    targets, others = rows_of(layout, "target"), rows_of(layout, "context", "exact")
    q[..., 0], q[:, targets, :, 1], q[:, others, :, 1] = 3, 3, -3
    k[:, 96:112, :, 1], k[:, 16:32, :, 1] = 20, -20
    config = ISAConfig(keep_ratio=0.125, block_size=16)
    _, stats = in_context_sparse_attention(q, k, v, layout=layout, config=config, backend="torch", return_stats=True)
    table = block_table(layout, 16)
    assert {table.starts[number] for number in stats.kept_context.flatten().tolist()} == {96}
    assert set(range(table.count)[table.context_columns]) >= set(stats.kept_context.flatten().tolist())
