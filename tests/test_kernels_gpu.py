"""The kernels at true precision and size, each block against fp32 attention over the lists that the call itself chose."""

import pytest
import torch
from liveditor_isa.isa_core import ISAConfig, TokenLayout, dense_attention, in_context_sparse_attention
from liveditor_isa.isa_core.attend_triton import attend_triton
from liveditor_isa.isa_core.layout import block_table
from liveditor_isa.isa_core.pool import pool_blocks

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: tests/test_kernels.py covers the rest", allow_module_level=True)

CONFIGS = {
    "paper": ISAConfig(),
    "top mass": ISAConfig(0.4, 0.3, 0.3, sharpness="top_mass"),
    "taylor tail": ISAConfig(0.3, 0.5, 0.2, context_tail="taylor"),
    "threshold": ISAConfig(0.5, sharpness_threshold=1e-5),
    "nothing exact": ISAConfig(0.5, 0, 0),
    "small blocks": ISAConfig(0.3, 0.5, 0.2, block_size=16),
}
LAYOUTS = [TokenLayout(1080, (1080, 301)), TokenLayout(512, (512,)), TokenLayout(319, (77, 64)), TokenLayout(65)]
DENSE = {"sdpa": dense_attention, "triton": "triton"}


def tensors(layout, heads=2, dim=128, batch=1, dtype=torch.bfloat16, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    shape = batch, layout.total, heads, dim
    return [torch.randn(shape, generator=generator, device="cuda").to(dtype) for _ in range(3)]


def run(q, k, v, layout, config, dense=dense_attention):
    """(output, plan); every element of the output is written over a NaN."""
    out = torch.full(q.shape, float("nan"), device=q.device, dtype=q.dtype)
    return out, attend_triton(q, k, v, out, block_table(layout, config.block_size), config, None, dense)


def errors(out, plan, q, k, v, layout, config, sample=24):
    """(ours, that of plain attention in the inputs' own type), rel. L2 against fp32, over some query blocks of each kind."""
    table = block_table(layout, config.block_size)
    starts, lengths = table.starts, table.lengths
    generator = torch.Generator().manual_seed(1)
    chosen = []
    for dense in (True, False):
        rows = (plan.dense_queries.cpu() == dense).nonzero()
        chosen += rows[torch.randperm(len(rows), generator=generator)[:sample]].tolist()
    sums = torch.zeros(3, device=q.device, dtype=torch.float64)
    for group, row in chosen:
        b, h = divmod(group, q.shape[2])
        head_k, head_v = (x[b, :, h].float() for x in (k, v))
        mean_k, mean_v = (pool_blocks(x[None], table)[0] for x in (head_k, head_v))
        listed = plan.kv_blocks[group].tolist()
        is_dense = bool(plan.dense_queries[group, row])
        exact = listed if is_dense else plan.exact_blocks[group, row].tolist()
        tail = set(range(table.count)) if config.context_tail == "taylor" else set() if is_dense else set(listed)
        tail = sorted(tail - set(exact))
        tokens = torch.cat([torch.arange(starts[j], starts[j] + lengths[j]) for j in exact] or [torch.arange(0)]).to(q.device)
        weight = torch.tensor([0.0] * len(tokens) + [float(lengths[j]) for j in tail], device=q.device)
        bias = torch.where(weight > 0, weight.log(), 0.0)
        key, value = torch.cat([head_k[tokens], mean_k[tail]]), torch.cat([head_v[tokens], mean_v[tail]])
        at = slice(starts[row], starts[row] + lengths[row])
        query = q[b, at, h]
        reference = torch.softmax((query.float() @ key.T) * q.shape[3] ** -0.5 + bias, -1) @ value
        plain = (query @ key.to(q.dtype).T).float() * q.shape[3] ** -0.5 + bias
        plain = torch.softmax(plain, -1).to(q.dtype) @ value.to(q.dtype)
        ours = out[b, at, h].double() - reference
        sums += torch.stack([x.square().sum() for x in (ours, plain.double() - reference, reference.double())])
    return float((sums[0] / sums[2]).sqrt()), float((sums[1] / sums[2]).sqrt())


@pytest.fixture(autouse=True)
def true_fp32(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def check(q, k, v, layout, config, dense):
    out, plan = run(q, k, v, layout, config, dense)
    assert out.isfinite().all()
    ours, plain = errors(out, plan, q, k, v, layout, config)
    assert ours <= 5e-3 and ours <= 1.5 * plain, (ours, plain)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: str(layout.segments))
def test_precision_given_the_lists(layout, config):
    for name, dense in DENSE.items():
        if name == "triton" or config.context_tail == "drop":
            check(*tensors(layout, batch=2), layout, config, dense)


@pytest.mark.parametrize("dim", [64, 96])
def test_other_head_dims(dim):
    for dense in DENSE.values():
        check(*tensors(LAYOUTS[0], dim=dim), LAYOUTS[0], CONFIGS["top mass"], dense)


@pytest.mark.parametrize("tokens", [32760, 65536])
def test_precision_at_full_length(tokens):
    layout = TokenLayout(tokens, (tokens,))
    q, k, v = tensors(layout)
    for dense in DENSE.values():
        check(q, k, v, layout, ISAConfig(), dense)
    out, plan = run(q, k, v, layout, ISAConfig(), "8bit")
    ours, _ = errors(out, plan, q, k, v, layout, ISAConfig())
    assert ours <= 5e-2  # white noise, the worst case


def test_bulk_copies_and_pointers_give_the_same(monkeypatch):
    layout, config = LAYOUTS[0], CONFIGS["top mass"]
    q, k, v = tensors(layout)
    for dense in (dense_attention, "triton", "8bit"):
        with_copies = run(q, k, v, layout, config, dense)[0]
        with monkeypatch.context() as patch:
            for module in ("sparse", "dense"):
                patch.setattr(f"liveditor_isa.kernels.{module}.takes_bulk_copies", lambda x: False)
            torch.testing.assert_close(run(q, k, v, layout, config, dense)[0], with_copies, rtol=1e-2, atol=1e-3)


def test_any_strides_and_alignment():
    layout, config = LAYOUTS[0], CONFIGS["top mass"]
    q, k, v = tensors(layout)
    expected = run(q, k, v, layout, config)[0]
    fused = torch.stack([q, k, v], dim=2).transpose(2, 3).contiguous()
    padded = torch.zeros(*q.shape[:3], 3, 137, device="cuda", dtype=q.dtype)
    padded[..., 1:129] = torch.stack([q, k, v], dim=3)
    for views in ([fused[..., i, :] for i in range(3)], [padded[..., i, 1:129] for i in range(3)]):
        torch.testing.assert_close(run(*views, layout, config)[0], expected, rtol=1e-2, atol=1e-3)


def test_offsets_beyond_32_bits():
    layout, config = TokenLayout(4096, (4096,)), CONFIGS["paper"]
    q, k, v = tensors(layout)
    stride = 2**31 // layout.total + 64
    far = torch.empty(3, stride * layout.total, device="cuda", dtype=q.dtype)
    views = [far[i].as_strided(q.shape, (0, stride, q.shape[3], 1)) for i in range(3)]
    for view, x in zip(views, (q, k, v)):
        view.copy_(x)
    torch.testing.assert_close(run(*views, layout, config)[0], run(q, k, v, layout, config)[0], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dense", ["auto", "8bit"])
def test_in_a_cuda_graph(dense):
    """A ragged context, whose counts a call outside a graph reads back."""
    layout, config = LAYOUTS[0], ISAConfig(0.4, 0.5, 0.1)
    call = lambda: in_context_sparse_attention(q, k, v, layout=layout, config=config, dense=dense)  # noqa: E731
    q, k, v = tensors(layout)
    call()
    in_context_sparse_attention(q, k, v, layout=layout, config=config, dense="triton")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    for x, other in zip((q, k, v), tensors(layout, seed=5)):
        x.copy_(other)
    graph.replay()
    torch.testing.assert_close(out, call(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("layout", LAYOUTS[:3], ids=lambda layout: str(layout.segments))
@pytest.mark.parametrize("config", [CONFIGS["top mass"], CONFIGS["taylor tail"]], ids=["drop", "taylor"])
def test_gradients_in_bf16(layout, config):
    q, k, v = tensors(layout)
    gate = torch.rand(1, layout.total, 1, 1, device="cuda").to(q.dtype) - 0.5
    weight = torch.randn_like(q)
    found = []
    for backend, dtype in (("triton", q.dtype), ("torch", torch.float64)):
        leaves = [x.to(dtype).detach().clone().requires_grad_() for x in (q, k, v, gate)]
        out = in_context_sparse_attention(*leaves[:3], layout=layout, config=config, coarse_gate=leaves[3], backend=backend)
        found.append(torch.autograd.grad(out, leaves, weight.to(dtype)))
    for name, ours, exact in zip(("q", "k", "v", "gate"), *found):
        assert float((ours.double() - exact).norm() / exact.norm()) < 1.5e-2, name
