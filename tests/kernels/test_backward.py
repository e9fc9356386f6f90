"""The sparse group's backward kernels against fp64 autograd of the same attention as one masked matrix per head."""

import gc
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_device import DEVICE, DTYPES, GPU
from liveditor_isa import kernels
from liveditor_isa.isa_core import ISAConfig, RoutingMasks, TokenLayout, in_context_sparse_attention
from liveditor_isa.isa_core.attend import dense_attention
from liveditor_isa.isa_core.layout import block_table
from liveditor_isa.kernels.backward import _listed_by, _sparse_rows, sparse_attention_backward, spread_means
from sweeps import pairs, sweep
from torch.utils.checkpoint import checkpoint

WORST = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 1e-2}
GRADIENTS = "dq", "dk", "dv", "d_mean_k", "d_mean_v"


@dataclass
class Case:
    """One sparse group: what the forward would hand to the backward, and the gradients of an independent formulation."""

    inputs: dict
    expected: tuple


def make_case(
    layout, block_size=64, batch=1, heads=2, dim=32, dtype=torch.float32, exact=2, tail="some", dense=0.4, seed=0,
    loudness=1, strided=False,
):  # fmt: skip
    """exact: blocks a row lists; tail: "all" blocks, "some" of them (the lists are drawn from it) or "taken", the lists' own
    blocks; dense: the chance of a query block to be dense."""
    generator = torch.Generator().manual_seed(seed)
    table = block_table(layout, block_size)
    blocks, groups = table.count, batch * heads
    shape = batch, layout.total, heads, dim
    q, k, v, d_out = (torch.randn(shape, generator=generator).to(dtype) for _ in range(4))
    q, k = q * loudness, k * loudness

    width = blocks if tail == "all" else min(blocks, max(exact, 1) if tail == "taken" else max(exact, 1, (2 * blocks) // 3))
    count = min(exact, width)
    shuffled = torch.rand(groups, blocks, generator=generator).argsort(1)
    tails = shuffled[:, :width].sort(1).values
    choice = torch.rand(groups, blocks, width, generator=generator).argsort(2)[..., :count].sort(2).values
    taken = torch.zeros(groups, blocks, width, dtype=torch.uint8).scatter(2, choice, 1)
    lists = tails[:, None].expand(-1, blocks, -1).gather(2, choice)
    is_dense = torch.rand(groups, blocks, generator=generator) < dense

    starts, lengths = torch.tensor(table.starts), table.lengths_on("cpu")
    block_of = torch.arange(blocks).repeat_interleave(lengths)
    member = torch.nn.functional.one_hot(block_of, blocks).double()
    means = [(member.T @ per_head(x.double()) / lengths[:, None]).to(dtype) for x in (k, v)]
    bias = masked_biases(lists, tails, lengths, block_of)
    out, log_sum, expected = dense_formulation(q, k, v, *means, is_dense[:, block_of], bias[:, block_of], d_out)

    # What belongs to dense rows must have no say.
    dense_tokens = is_dense[:, block_of].view(batch, heads, -1)
    out, d_out = (x.masked_fill(dense_tokens.transpose(1, 2)[..., None], math.nan).to(dtype) for x in (out, d_out))
    log_sum = log_sum.view(batch, heads, -1).masked_fill(dense_tokens, math.nan).float()
    lists, taken = lists.masked_fill(is_dense[..., None], 10**6), taken.masked_fill(is_dense[..., None], 77)
    tokens = [q, k, v, out, d_out]
    if strided:
        # There before it is cut: `to` makes slices contiguous.
        fused = torch.stack(tokens, dim=2).transpose(2, 3).contiguous().to(DEVICE)
        tokens = [fused[..., i, :] for i in range(5)]
    q, k, v, out, d_out = (x.to(DEVICE) for x in tokens)
    inputs = {"q": q, "k": k, "v": v, "mean_k": means[0], "mean_v": means[1], "dense": is_dense}
    inputs |= {"lists": lists.int(), "taken": taken, "tail": tails.int(), "starts": starts.int(), "lengths": lengths.int()}
    inputs |= {"out": out, "log_sum": log_sum, "d_out": d_out, "counts": torch.full(lists.shape[:2], lists.shape[2]).int()}
    inputs = {name: x.to(DEVICE) for name, x in inputs.items()}
    return Case(inputs | {"block_size": block_size}, tuple(x.to(DEVICE) for x in expected))


def per_head(x):
    """[B, S, H, D] -> [G, S, D]"""
    return x.transpose(1, 2).flatten(0, 1)


def masked_biases(lists, tails, lengths, block_of):
    """[G, N, S + N]: 0 for listed tokens, log(length) for means of the rest of the tail, -inf for all else."""
    groups, blocks, _ = lists.shape
    listed = torch.zeros(groups, blocks, blocks, dtype=torch.bool).scatter(2, lists, True)
    in_tail = torch.zeros(groups, blocks, dtype=torch.bool).scatter(1, tails, True)[:, None]
    exact = torch.zeros(1, dtype=torch.float64).masked_fill(~listed[:, :, block_of], -math.inf)
    return torch.cat([exact, lengths.double().log().masked_fill(listed | ~in_tail, -math.inf)], dim=2)


def dense_formulation(q, k, v, mean_k, mean_v, dense_tokens, bias, d_out):
    """(out [B, S, H, D], log2 of the denominators [G, S], gradients), all fp64; dense tokens' d_out counts as 0."""
    leaves = [x.double().requires_grad_() for x in (q, k, v, mean_k, mean_v)]
    query, key, value = (per_head(x) for x in leaves[:3])
    key, value = torch.cat([key, leaves[3]], dim=1), torch.cat([value, leaves[4]], dim=1)
    scores = query @ key.transpose(1, 2) / math.sqrt(q.shape[-1]) + bias
    result = scores.softmax(2) @ value
    grad = per_head(d_out.double()).masked_fill(dense_tokens[..., None], 0)
    gradients = torch.autograd.grad(result, leaves, grad)
    out = result.detach().unflatten(0, (q.shape[0], -1)).transpose(1, 2)
    return out, scores.detach().logsumexp(2) / math.log(2), gradients


def check(case, worst=None, least=0):
    """least: a gradient that cancels to less counts as this large."""
    inputs = case.inputs
    ours = sparse_attention_backward(**inputs)
    for name, x, expected in zip(GRADIENTS, ours, case.expected):
        assert x.shape == expected.shape and x.dtype == (torch.float32 if "mean" in name else inputs["q"].dtype)
        assert x.isfinite().all(), name
        error, size = (x.double() - expected).norm(), expected.norm().clamp(min=least)
        assert error <= (worst or WORST[inputs["q"].dtype]) * size, f"{name}: {error:.2e} of {size:.2e}"
    return ours


LAYOUTS = {
    "aligned": TokenLayout(192, (128,)),
    "ragged": TokenLayout(136, (130, 70)),
    "one segment": TokenLayout(150),
    "tiny": TokenLayout(1, (1, 65)),
}
KINDS = {
    "some": {},
    "taylor": {"tail": "all"},
    "only means": {"exact": 0},
    "only lists": {"tail": "taken"},
    "all sparse": {"dense": 0},
    "all dense": {"dense": 1},
    "small blocks": {"block_size": 16, "exact": 4, "batch": 2},
    "odd blocks": {"block_size": 24},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", sweep(KINDS, "some", "taylor"))
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_equals_autograd(layout, kind):
    check(make_case(layout, **kind))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [32, 64, 96, 128])
def test_head_dims_and_types(dim, dtype):
    check(make_case(TokenLayout(200, (130,)), batch=2, heads=1, dim=dim, dtype=dtype, seed=dim))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_small_blocks_in_every_type(dtype):
    check(make_case(TokenLayout(200, (130,)), block_size=16, exact=3, dim=64, dtype=dtype))


@settings(max_examples=100 if GPU else 10, deadline=None)
@given(
    target=st.integers(1, 90), context=st.lists(st.integers(1, 70), max_size=2), exact=st.integers(0, 4),
    tail=st.sampled_from(["all", "some", "taken"]), dense=st.floats(0, 1), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_layout_and_lists(target, context, exact, tail, dense, seed):
    layout = TokenLayout(target, tuple(context))
    case = make_case(layout, 16, heads=1, dim=16, exact=exact, tail=tail, dense=dense, seed=seed)
    # With a single key, say, dq is nothing but rounding.
    check(case, least=1)


def test_dense_rows_and_unlisted_blocks_get_zeros():
    case = make_case(TokenLayout(300), exact=1, dense=0.5, heads=3)
    dq, dk, dv, *d_means = check(case)
    inputs = case.inputs
    for group, is_dense in enumerate(inputs["dense"]):
        listed = set(inputs["lists"][group][~is_dense].flatten().tolist())
        tail = set(inputs["tail"][group].tolist())
        assert len(listed) < len(is_dense)
        for block, (start, length) in enumerate(zip(inputs["starts"], inputs["lengths"])):
            tokens = slice(start, start + length)
            assert (dq[0, tokens, group] == 0).all() == is_dense[block]
            assert all((x[0, tokens, group] == 0).all() == (block not in listed) for x in (dk, dv))
            assert block in tail or all((x[group, block] == 0).all() for x in d_means)


@pytest.mark.slow
def test_strided_inputs_are_taken_as_they_come():
    layout = TokenLayout(200, (130,))
    strided, plain = (make_case(layout, batch=2, strided=strided) for strided in (True, False))
    assert not any(strided.inputs[name].is_contiguous() for name in ("q", "k", "v", "out", "d_out"))
    for x, y in zip(check(strided), check(plain)):
        assert torch.equal(x, y)


def test_an_expanded_gradient():
    """What `out.sum().backward()` hands over: strides of 0."""
    case = make_case(TokenLayout(100, (30,)), dense=0)
    ones = torch.ones(1, device=DEVICE).expand(case.inputs["d_out"].shape)
    expanded, full = (sparse_attention_backward(**case.inputs | {"d_out": x}) for x in (ones, ones.contiguous()))
    assert all(torch.equal(x, y) for x, y in zip(expanded, full))


@pytest.mark.slow
def test_every_element_is_written(monkeypatch):
    monkeypatch.setattr(torch, "empty_like", lambda x, **kwargs: torch.full_like(x, float("nan")))
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: poison(empty(*args, **kwargs)))
    for layout in LAYOUTS.values():
        for kind in (KINDS["some"], KINDS["only means"], KINDS["all dense"]):
            check(make_case(layout, **kind))


def poison(x):
    return x.fill_(float("nan") if x.is_floating_point() else 77)


@pytest.mark.slow
def test_parts_of_the_means_sum_up(monkeypatch):
    case = make_case(TokenLayout(300, (100,)), block_size=16)
    results = []
    for programs in (1, 4, 512):
        monkeypatch.setattr("liveditor_isa.kernels.backward.PROGRAMS", programs)
        results.append(check(case))
    assert not torch.equal(results[0][3], results[2][3])  # the sum was split indeed, so it rounds differently


@pytest.mark.slow
def test_the_same_bits_every_time():
    case = make_case(TokenLayout(300, (100,)), block_size=16)
    assert all(torch.equal(x, y) for x, y in zip(check(case), check(case)))


def test_large_scores():
    # log_sum is in the hundreds here, which leaves it 5 digits behind the point in fp32; the means have next to no weight.
    check(make_case(TokenLayout(200, (130,)), loudness=10), worst=1e-4, least=1)


def test_lists_turned_round():
    lists = torch.tensor([[[0, 2], [9, 9], [1, 2]], [[0, 1], [0, 1], [0, 2]]], device=DEVICE, dtype=torch.int32)
    dense = torch.tensor([[False, True, False], [False, False, False]], device=DEVICE)
    rows, ends = _listed_by(lists, dense)
    by_block = [rows[begin:end].tolist() for begin, end in zip(ends, ends[1:])]
    assert by_block == [[0], [2], [0, 2], [0, 1, 2], [0, 1], [2]]
    order, count = _sparse_rows(dense)
    assert order.tolist() == [[0, 2, 1], [0, 1, 2]] and count.tolist() == [2, 3]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_spread_means_is_the_gradient_of_block_means(dtype):
    table = block_table(TokenLayout(200, (130, 3)), 64)
    starts, lengths = (torch.tensor(x, device=DEVICE, dtype=torch.int32) for x in (table.starts, table.lengths))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 333, 3, 40, generator=generator, dtype=torch.float64).requires_grad_()
    means = torch.stack([x[:, a : a + n].mean(1) for a, n in zip(table.starts, table.lengths)], dim=2)
    d_mean = torch.randn(6, table.count, 40, generator=generator)
    (gradient,) = torch.autograd.grad(means.flatten(0, 1), x, d_mean.double())
    before = torch.randn(x.shape, generator=generator).to(dtype)
    # Its strides are not the usual ones.
    after = before.to(DEVICE).transpose(1, 2).contiguous().transpose(1, 2)
    spread_means(d_mean.to(DEVICE), after, starts, lengths)
    torch.testing.assert_close(after.cpu(), (before.double() + gradient).to(dtype))


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout, config",
    pairs(
        [TokenLayout(136, (130, 70)), TokenLayout(128, (64,)), TokenLayout(65, (63,))],
        {
            "ratios": ISAConfig(0.4, 0.6, 0.3),
            "taylor tail": ISAConfig(0.3, 0.5, 0.2, context_tail="taylor"),
            "threshold": ISAConfig(0.5, sharpness_threshold=1e-3),
            "only means": ISAConfig(0.5, 0, 0),
            "error-aware": ISAConfig(0.6, exact_ratio=0.3, policy="error_aware"),
            "top of segments": ISAConfig(exact_ratio=0.3, policy="segment_top_k"),
            "all dense": ISAConfig(1, 1, 0.2, block_size=16),
        },
    ),
)
def test_the_whole_attention_has_the_pytorch_paths_gradients(monkeypatch, layout, config):
    """q, k, v and the gate, through both groups, the pooling and the residual; fp64 autograd judges."""
    monkeypatch.setattr(kernels, "unavailable_reason", lambda *_: None)
    generator = torch.Generator().manual_seed(0)
    shape = 2, layout.total, 2, 32
    inputs = [torch.randn(shape, generator=generator) for _ in range(3)]
    inputs.append(torch.rand(2, layout.total, 1, 1, generator=generator) - 0.5)
    weight = torch.randn(shape, generator=generator)
    found = []
    for backend, dtype, device in (("triton", torch.float32, DEVICE), ("torch", torch.float64, "cpu")):
        q, k, v, gate = (x.to(device, dtype).detach().clone().requires_grad_() for x in inputs)
        out, stats = in_context_sparse_attention(
            q, k, v, layout=layout, config=config, coarse_gate=gate, backend=backend, return_stats=True
        )
        assert stats.backend == backend
        (out * weight.to(device, dtype)).sum().backward()
        found.append([out.detach().cpu(), *(x.grad.cpu() for x in (q, k, v, gate))])
    for ours, exact in zip(*found):
        assert float((ours - exact).norm() / exact.norm()) < 1e-5


def test_masks_of_a_caller_have_the_pytorch_paths_gradients(monkeypatch):
    monkeypatch.setattr(kernels, "unavailable_reason", lambda *_: None)
    layout, generator = TokenLayout(136, (70,)), torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, layout.total, 2, 32, generator=generator) for _ in range(3)]
    exact, by_mean = (torch.rand(2, 5, 5, generator=generator) < share for share in (0.4, 0.6))
    by_mean[:, :, 0] = True
    found = []
    for backend, dtype, device in (("triton", torch.float32, DEVICE), ("torch", torch.float64, "cpu")):
        q, k, v = (x.to(device, dtype).detach().clone().requires_grad_() for x in inputs)
        masks = RoutingMasks(exact.to(device), by_mean.to(device))
        out = in_context_sparse_attention(q, k, v, layout=layout, masks=masks, backend=backend)
        out.square().sum().backward()
        found.append([out.detach().cpu(), *(x.grad.cpu() for x in (q, k, v))])
    for ours, expected in zip(*found):
        assert float((ours - expected).norm() / expected.norm()) < 1e-5


def test_gradients_of_what_was_asked_for_alone(monkeypatch):
    monkeypatch.setattr(kernels, "unavailable_reason", lambda *_: None)
    layout = TokenLayout(100, (60,))
    q, k, v = (torch.randn(1, layout.total, 2, 32, device=DEVICE) for _ in range(3))
    out = in_context_sparse_attention(q, k, v.requires_grad_(), layout=layout, backend="triton")
    out.sum().backward()
    assert v.grad.isfinite().all() and q.grad is None
    # Weights of a softmax add up to one, so the sum over all outputs depends on the sum of values, whatever the weights.
    torch.testing.assert_close(v.grad.sum((0, 1)), torch.full_like(v.grad[0, 0], layout.total), rtol=1e-4, atol=1e-3)


def test_checkpointing_keeps_nothing_and_computes_once_more(monkeypatch):
    """Whatever is kept past `save_for_backward` stays for all blocks of a network; with LIVEditor-14B that filled a whole H200."""
    monkeypatch.setattr(kernels, "unavailable_reason", lambda *_: None)
    layout, runs = TokenLayout(136, (130,)), []
    tokens = torch.randn(1, layout.total, 2, 32, device=DEVICE, requires_grad=True)

    def block(x):
        runs.append(1)
        return in_context_sparse_attention(
            2 * x, 3 * x, x + 1, layout=layout, config=ISAConfig(0.4, 0.6, 0.3), backend="triton"
        )

    def alive():
        gc.collect()
        found = [each for each in gc.get_objects() if isinstance(each, torch.Tensor) and each.is_floating_point()]
        return {id(each) for each in found if each.numel() >= 64 * 32}

    before = alive()
    out = checkpoint(block, tokens, use_reentrant=False)
    assert alive() - before == {id(out)}
    out.sum().backward()
    assert len(runs) == 2 and tokens.grad.isfinite().all()


def test_dense_blocks_are_attended_once(monkeypatch):
    """Their backward pass goes on from what the library kept, any number of times."""
    monkeypatch.setattr(kernels, "unavailable_reason", lambda *_: None)
    layout, calls = TokenLayout(136, (130,)), []
    tokens = torch.randn(1, layout.total, 2, 32, device=DEVICE, requires_grad=True)

    def dense(q, k, v):
        calls.append(q.shape)
        return dense_attention(q, k, v)

    out = in_context_sparse_attention(
        2 * tokens, 3 * tokens, tokens + 1, layout=layout, config=ISAConfig(0.4, 0.6, 0.3), dense=dense, backend="triton"
    )
    assert calls
    before = len(calls)
    (first,), (second,) = (torch.autograd.grad(out.square().sum(), tokens, retain_graph=True) for _ in range(2))
    assert len(calls) == before and first.isfinite().all() and torch.equal(first, second)
