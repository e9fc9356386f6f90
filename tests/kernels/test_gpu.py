"""The Triton kernels on a GPU, up to real lengths: against fp64 given the same lists, and no less exact than PyTorch in bf16.

`-s` prints every error.
"""

import functools
import math
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from liveditor_isa import kernels
from liveditor_isa.benchmarks.attention import inputs as benchmark_inputs
from liveditor_isa.isa_core import ISAConfig, TokenLayout, in_context_sparse_attention
from liveditor_isa.isa_core.attend import attend_blocks, dense_attention
from liveditor_isa.isa_core.gpu.attend import attention_on_gpu
from liveditor_isa.isa_core.gpu.training import attention_with_gradients
from liveditor_isa.isa_core.layout import BlockTable, block_table
from liveditor_isa.isa_core.plan import RoutingPlan, coarse_scores
from liveditor_isa.isa_core.pool import block_variances, pool_blocks
from liveditor_isa.isa_core.residual import residual

DEVICE, DTYPE = torch.device("cuda"), torch.bfloat16


def missing() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA GPU here"
    return kernels.unavailable_reason(DEVICE, DTYPE) or kernels.eight_bit_unavailable_reason(DEVICE)


if missing():
    pytest.skip(f"the kernels at real lengths and in bf16: {missing()}", allow_module_level=True)

WORST = 5e-3
WORST_8BIT = {"structured": 2e-2, "random": 5e-2, "structured lists": 2.5e-2}
WORST_GRADIENT = 1e-2
BESIDE_TORCH = 1.5
"""Times the error of PyTorch's attention on the same lists in the same type."""

DENSE = {"sdpa": dense_attention, "triton": "triton", "8bit": "8bit"}
CONFIGS = {
    "paper": ISAConfig(),
    "top mass": ISAConfig(sharpness="top_mass", keep_ratio=0.4, exact_ratio=0.3),
    "threshold": ISAConfig(sharpness_threshold=1e-3, keep_ratio=0.5),
    "taylor tail": ISAConfig(context_tail="taylor", keep_ratio=0.3),
    "nothing exact": ISAConfig(keep_ratio=0, dense_query_ratio=0, exact_ratio=0),
    "second order": ISAConfig(keep_ratio=0.5, dense_query_ratio=0.3, exact_ratio=0.2, tail_order=2),
    "error-aware": ISAConfig(1, exact_ratio=0.3, policy="error_aware"),
    "error-aware, taylor tail": ISAConfig(0.4, exact_ratio=0.3, policy="error_aware", context_tail="taylor", tail_order=2),
    "top of segments": ISAConfig(exact_ratio=0.3, policy="segment_top_k"),
    "top of segments, second order": ISAConfig(exact_ratio=0.2, policy="segment_top_k", tail_order=2),
}
MIXED = ISAConfig(0.4, 0.5, 0.3)
"""On a few blocks: dense and sparse rows, lists of several blocks, context that is left out."""


@dataclass
class Case:
    """q, k, v [B, S, H, D], gate [B, S, 1, 1] or None."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    gate: torch.Tensor | None
    layout: TokenLayout
    config: ISAConfig

    @property
    def table(self) -> BlockTable:
        return block_table(self.layout, self.config.block_size)


def random_case(layout, config, batch=1, heads=2, dim=64, seed=0, scale=1.5) -> Case:
    generator = torch.Generator().manual_seed(seed)
    shape = batch, layout.total, heads, dim
    q, k, v = ((scale * torch.randn(shape, generator=generator)).to(DEVICE, DTYPE) for _ in range(3))
    gate = (torch.randn(batch, layout.total, 1, 1, generator=generator) / 4).to(DEVICE, DTYPE)
    return Case(q, k, v, gate, layout, config)


@functools.lru_cache
def long_case(kind: str, half: int, heads: int) -> Case:
    layout = TokenLayout(half, (half,))
    q, k, v = getattr(benchmark_inputs, kind)(layout, heads, device=DEVICE, dtype=DTYPE)
    gate = torch.linspace(-0.25, 0.25, layout.total, device=DEVICE).to(DTYPE).view(1, -1, 1, 1)
    return Case(q, k, v, gate, layout, ISAConfig())


@pytest.fixture(autouse=True)
def memory_holds_garbage(monkeypatch):
    """Whatever a kernel should have written but did not shows up as NaN, or as an index or a mark of 77."""
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(torch, "empty_like", lambda x, **kwargs: torch.full_like(x, math.nan, **kwargs))
    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))


def poisoned(empty):
    def make(*args, **kwargs):
        x = empty(*args, **kwargs)
        return x.fill_(math.nan if x.is_floating_point() else 77)

    return make


def run(case: Case, dense="sdpa") -> tuple[torch.Tensor, RoutingPlan]:
    """The kernels' output, into NaNs, and the lists they took."""
    out, plan = attention_on_gpu(case.q, case.k, case.v, case.table, case.config, case.gate, DENSE[dense])
    assert out.isfinite().all(), dense
    return out, plan


def in_torch(case: Case, plan: RoutingPlan) -> torch.Tensor:
    """PyTorch's path on the same lists, in bf16: what plain code loses to rounding."""
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (case.q, case.k, case.v))
    pooled_q, pooled_k, pooled_v = (pool_blocks(x, case.table) for x in (q, k, v))
    plan = replace(plan, kv_blocks=plan.kv_blocks.long(), exact_blocks=plan.exact_blocks.long())
    blocks = (case.table.to_blocks(x) for x in (q, k, v))
    variance_k = block_variances(k, pooled_k, case.table) if case.config.tail_order == 2 else None
    out = case.table.to_tokens(
        attend_blocks(*blocks, pooled_k, pooled_v, variance_k, plan, case.table, case.config, dense_attention)
    )
    if case.gate is not None:
        gate = case.gate[:, None, :, 0].expand(-1, case.q.shape[2], -1, -1).flatten(0, 1)
        out = out + residual(coarse_scores(pooled_q, pooled_k).softmax(-1), pooled_v, gate, case.table)
    return out.unflatten(0, (len(case.q), -1)).transpose(1, 2)


def tokens_of(blocks: torch.Tensor, table: BlockTable) -> tuple[torch.Tensor, torch.Tensor]:
    """blocks [n] -> (their tokens [R], the position in `blocks` of each token's [R])."""
    starts, lengths = torch.tensor(table.starts, device=DEVICE), table.lengths_on(DEVICE)
    position = torch.arange(len(blocks), device=DEVICE).repeat_interleave(lengths[blocks])
    first = lengths[blocks].cumsum(0) - lengths[blocks]
    return starts[blocks][position] + torch.arange(len(position), device=DEVICE) - first[position], position


def exact_rows(case: Case, plan: RoutingPlan, head: int, blocks: torch.Tensor) -> torch.Tensor:
    """What the queries of `blocks` [n] of head b*H + h should get, [R, D] fp64: section 3 over a given plan's lists.

    Each query meets every token and every block mean at once; those its lists leave out have no weight.
    """
    (b, h), table, dim = divmod(head, case.q.shape[2]), case.table, case.q.shape[3]
    q, k, v = (x[b, :, h].double() for x in (case.q, case.k, case.v))
    lengths = table.lengths_on(DEVICE)
    block_of = torch.arange(table.count, device=DEVICE).repeat_interleave(lengths)
    mean_q, mean_k, mean_v = (
        torch.zeros(table.count, dim, device=DEVICE, dtype=torch.float64).index_add(0, block_of, x) / lengths[:, None]
        for x in (q, k, v)
    )
    nothing = torch.zeros(len(blocks), table.count, device=DEVICE, dtype=torch.bool)
    listed = nothing.scatter(1, plan.kv_blocks[head].long().expand(len(blocks), -1), True)
    dense = plan.dense_queries[head, blocks][:, None]
    lists = F.pad(nothing, (0, 1)).scatter(1, plan.exact_blocks[head, blocks].long(), True)[:, :-1]
    exact = torch.where(dense, listed, lists)
    tail = ~exact & (listed if case.config.context_tail == "drop" else ~nothing)
    # The logarithm of the weight with which each token and each mean counts.
    bias = torch.cat([exact.double().log()[:, block_of], (tail * lengths.double()).log()], dim=1)
    spread = torch.zeros_like(mean_k)
    if case.config.tail_order == 2:
        spread.index_add_(0, block_of, (k - mean_k[block_of]).square()).div_(lengths[:, None])
    keys, values = torch.cat([k, mean_k]), torch.cat([v, mean_v])

    rows, position = tokens_of(blocks, table)
    parts = []
    for row, at in zip(rows.split(512), position.split(512)):
        logits = q[row] @ keys.T / math.sqrt(dim) + bias[at]
        logits[:, len(k) :] += torch.where(dense[at], 0, (q[row].square() @ spread.T / dim / 2).log1p())
        parts.append(logits.softmax(1) @ values)
    result = torch.cat(parts)
    if case.gate is not None:
        coarse = (mean_q[blocks] @ mean_k.T / math.sqrt(dim)).softmax(1) @ mean_v
        result = result + case.gate[b, rows, 0].double() * coarse[position]
    return result


def every_block(case: Case) -> dict[int, torch.Tensor]:
    return {head: torch.arange(case.table.count, device=DEVICE) for head in range(case.q.shape[0] * case.q.shape[2])}


def some_blocks(case: Case, plan: RoutingPlan, count: int = 6) -> dict[int, torch.Tensor]:
    """Per head `count` dense and `count` sparse query blocks, and the last of each token group."""
    generator = torch.Generator().manual_seed(0)
    ends = [case.table.target_blocks - 1, case.table.count - 1]
    chosen = {}
    for head, dense in enumerate(plan.dense_queries.cpu()):
        order = torch.randperm(len(dense), generator=generator)
        picked = {*ends, *order[dense[order]][:count].tolist(), *order[~dense[order]][:count].tolist()}
        chosen[head] = torch.tensor(sorted(picked), device=DEVICE)
    return chosen


def errors(case: Case, plan: RoutingPlan, outs: dict[str, torch.Tensor], chosen: dict[int, torch.Tensor]):
    """{name: relative L2 errors over "all" chosen query blocks, over the "dense" and over the "sparse" ones}, with "torch"."""
    outs = outs | {"torch": in_torch(case, plan)}
    wrong = {name: torch.zeros(2, device=DEVICE, dtype=torch.float64) for name in outs}
    size = torch.zeros(2, device=DEVICE, dtype=torch.float64)
    for head, blocks in chosen.items():
        b, h = divmod(head, case.q.shape[2])
        rows, position = tokens_of(blocks, case.table)
        expected = exact_rows(case, plan, head, blocks)
        dense = plan.dense_queries[head, blocks][position].double()
        group = torch.stack([dense, 1 - dense])
        size += group @ expected.square().sum(1)
        for name, out in outs.items():
            wrong[name] += group @ (out[b, rows, h].double() - expected).square().sum(1)
    names = "dense", "sparse", "all"
    parts = {name: torch.cat([x / size, x.sum(0, keepdim=True) / size.sum()]).sqrt().tolist() for name, x in wrong.items()}
    found = {name: dict(zip(names, part)) for name, part in parts.items()}
    for name, part in found.items():
        print(f"\n  {name:8}", *(f"{group} {error:.2e}" for group, error in part.items()), end="")
    return found


def check(found, kind="random", groups=("all",)):
    """`groups`: where each must be as exact as demanded on its own. An 8-bit dense group is judged with all rows in one."""
    assert all(math.isfinite(part["all"]) for part in found.values())
    for name, part in found.items():
        if name == "torch":
            continue
        for group in groups:
            if name == "8bit" and group != "sparse":
                continue
            if not math.isnan(part[group]):  # no such rows
                assert part[group] <= WORST, f"{name}, {group}: {part[group]:.2e}"
                assert part[group] <= BESIDE_TORCH * found["torch"][group], f"{name}, {group}: {part} beside {found['torch']}"
        if name == "8bit":
            assert part["all"] <= WORST_8BIT[kind], f"{name}: {part['all']:.2e}"


def same(a: RoutingPlan, b: RoutingPlan) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("kv_blocks", "dense_queries", "exact_blocks"))


def run_all(case: Case, kinds=tuple(DENSE)) -> tuple[dict[str, torch.Tensor], RoutingPlan]:
    """Outputs by what attends for the dense group. A function takes no bias per key and 8 bits no means, as a Taylor tail wants."""
    kinds = [kind for kind in kinds if case.config.context_tail == "drop" or kind == "triton"]
    results = {kind: run(case, kind) for kind in kinds}
    first, *others = (plan for _, plan in results.values())
    assert all(same(first, other) for other in others)
    return {kind: out for kind, (out, _) in results.items()}, first


def relative(out, expected) -> float:
    return float((out.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("context", [(), (130,), (77, 64)], ids=str)
@pytest.mark.parametrize("target", [64, 65, 120, 127, 256 + 63])
def test_aligned_and_ragged_layouts(target, context, config):
    case = random_case(TokenLayout(target, context), config, seed=target)
    outs, plan = run_all(case, ("sdpa", "triton"))
    check(errors(case, plan, outs, every_block(case)))


@pytest.mark.parametrize("batch, heads, dim", [(1, 1, 64), (2, 5, 96), (3, 3, 128)])
@pytest.mark.parametrize(
    "name", ["paper", "top mass", "threshold", "taylor tail", "second order", "error-aware", "top of segments"]
)
def test_batches_heads_and_head_dims(batch, heads, dim, name):
    case = random_case(TokenLayout(191, (140,)), CONFIGS[name], batch, heads, dim)
    outs, plan = run_all(case, DENSE if dim == 96 else ("sdpa", "triton"))
    check(errors(case, plan, outs, every_block(case)))


@pytest.mark.parametrize("block_size", [16, 24, 32, 64, 128])
def test_block_sizes(block_size):
    case = random_case(TokenLayout(600, (400, 77)), replace(MIXED, block_size=block_size))
    outs, plan = run_all(case)
    check(errors(case, plan, outs, every_block(case)), groups=("dense", "sparse"))


@pytest.mark.parametrize(
    "kind, half, heads", [("structured", 32760, 4), ("random", 32760, 2), ("structured", 65536, 2)], ids=str
)
def test_long_sequences(kind, half, heads):
    case = long_case(kind, half, heads)
    outs, plan = run_all(case)
    check(errors(case, plan, outs, some_blocks(case, plan)), kind, groups=("dense", "sparse"))


@pytest.mark.parametrize("ratio", [0.1, 0.28])
@pytest.mark.parametrize("half", [32760, 65536])
def test_a_long_sequence_under_one_budget(half, ratio):
    case = replace(long_case("structured", half, 2), config=ISAConfig(1, exact_ratio=ratio, policy="error_aware"))
    outs, plan = run_all(case, ("triton", "8bit"))
    assert plan.exact_counts.sum() >= ratio * plan.exact_counts.numel() * case.table.count  # no fewer than the budget
    assert plan.exact_counts.sum() <= ratio * plan.exact_counts.numel() * case.table.count + 100  # equal errors join in
    check(errors(case, plan, outs, some_blocks(case, plan)), "structured lists")


@pytest.mark.parametrize("count", [1, 2, 1000, 2_000_000, 2_999_999, 3_000_000])
def test_the_kth_largest_of_millions(count):
    from liveditor_isa.kernels.budget import kth_of_all

    values = torch.randn(2, 3_000_000, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0)).round(decimals=4)
    assert torch.equal(kth_of_all(values, count), values.sort(1, descending=True).values[:, count - 1])


def test_a_long_sequence_with_a_taylor_tail():
    case = replace(long_case("structured", 32760, 4), config=ISAConfig(context_tail="taylor", tail_order=2))
    outs, plan = run_all(case)
    check(errors(case, plan, outs, some_blocks(case, plan)), groups=("dense", "sparse"))


def test_means_above_every_exact_logit():
    """Fault of the public release: its running maximum moved without the sums moving along.

    Most queries of a block look one way, which decides its list; the others look where only blocks are that it does not
    list, and those are blocks of equal keys, whose means are as long as the keys.
    """
    layout, config = TokenLayout(1024, (256,)), ISAConfig(1, 0, 0.2)
    case = random_case(layout, config, batch=2, dim=128, scale=0.5)
    one = torch.ones(128, device=DEVICE, dtype=DTYPE)
    other = 1.5 - 3 * (torch.arange(128, device=DEVICE) % 2).to(DTYPE)
    odd = torch.arange(layout.total, device=DEVICE) % 8 == 0
    case.q += torch.where(odd[:, None, None], 1.7 * other, one)
    case.k += one
    # One block in four.
    loud = (torch.arange(layout.total, device=DEVICE) // 64 % 4 == 3)[:, None, None]
    case.k.copy_(torch.where(loud, other, case.k))
    out, plan = run(case)

    lists = torch.zeros_like(plan.dense_queries).expand(len(plan.kv_blocks), case.table.count)
    listed = lists[:, None].expand(-1, case.table.count, -1).scatter(2, plan.exact_blocks.long(), True)
    assert not listed[..., 3::4].any()
    logits = (case.q.transpose(1, 2).double() @ case.k.permute(0, 2, 3, 1).double()).flatten(0, 1) / math.sqrt(128)
    means = logits.unflatten(2, (-1, 64)).mean(3)
    block_of = torch.arange(layout.total, device=DEVICE) // 64
    highest_mean = means.masked_fill(listed[:, block_of], -math.inf).amax(2)
    highest_exact = logits.masked_fill(~listed[:, block_of][..., block_of], -math.inf).amax(2)
    assert (highest_mean > highest_exact + 20)[:, odd].all()
    check(errors(case, plan, {"triton": out}, every_block(case)))


def fused(x):
    """Slices of one tensor of all three, as a single linear layer makes them."""
    return torch.stack(x, dim=2).unbind(2)


def heads_first(x):
    return [part.transpose(1, 2).contiguous().transpose(1, 2) for part in x]


def unaligned(x):
    """Addresses, strides and channels that bulk copies do not take."""
    moved = []
    for part, step in zip(x, (1, 2, 1)):
        room = torch.zeros(*part.shape[:2], part.shape[2] + 1, step * part.shape[3] + 1, device=DEVICE, dtype=DTYPE)
        moved.append(room[:, :, 1:, 1::step] if step > 1 else room[:, :, 1:, 1:])
        moved[-1].copy_(part)
    return moved


@pytest.mark.parametrize("view", [fused, heads_first, unaligned])
def test_strided_views(view):
    from liveditor_isa.kernels.hardware import takes_bulk_copies

    plain = random_case(TokenLayout(300, (200, 77)), MIXED, batch=2, heads=3, dim=128)
    q, k, v = view([plain.q, plain.k, plain.v])
    assert all(torch.equal(x, y) and x.stride() != y.stride() for x, y in zip((q, k, v), (plain.q, plain.k, plain.v)))
    case = replace(plain, q=q, k=k, v=v)
    assert all(takes_bulk_copies(x) == (view is not unaligned and takes_bulk_copies(plain.k)) for x in (q, k, v))
    outs, plan = run_all(case)
    expected, _ = run_all(plain)
    for kind, out in outs.items():
        assert torch.equal(out, expected[kind]) if view is not unaligned else relative(out, expected[kind]) <= 1e-3
    check(errors(case, plan, outs, every_block(case)))


def test_pointers_give_what_bulk_copies_give(monkeypatch):
    from liveditor_isa.kernels import dense, sparse

    case = random_case(TokenLayout(600, (400, 77)), MIXED, dim=128)
    assert sparse.takes_bulk_copies(case.k) == (torch.cuda.get_device_capability(DEVICE) >= (9, 0))
    copied, plan = run_all(case)
    for module in (sparse, dense):
        monkeypatch.setattr(module, "takes_bulk_copies", lambda x: False)
    loaded, same_plan = run_all(case)
    assert same(plan, same_plan)
    for kind, out in loaded.items():
        assert relative(out, copied[kind]) <= 1e-3, kind
    check(errors(case, plan, loaded, every_block(case)))


@pytest.mark.parametrize("pointers", [False, True], ids=["bulk copies", "pointers"])
def test_offsets_beyond_32_bits(pointers, monkeypatch):
    if pointers:
        for module in ("sparse", "dense"):
            monkeypatch.setattr(f"liveditor_isa.kernels.{module}.takes_bulk_copies", lambda x: False)
    plain = random_case(TokenLayout(2100, (2000,)), MIXED, heads=2, dim=128)
    tokens, heads, dim = plain.q.shape[1:]
    # A row of 1 MB holds a token's q, k, v and output, so that the last tokens' elements have numbers beyond 2^31.
    rows = torch.empty(1, tokens, 2**19 // dim, dim, device=DEVICE, dtype=DTYPE)
    q, k, v = (rows[:, :, i * heads : (i + 1) * heads] for i in range(3))
    assert q.stride(1) * (tokens - 1) > 2**31
    for part, x in zip((q, k, v), (plain.q, plain.k, plain.v)):
        part.copy_(x)
    case = replace(plain, q=q, k=k, v=v)
    for kind in DENSE:
        expected, _ = run(plain, kind)
        assert torch.equal(run(case, kind)[0], expected), kind
    rest = rows[:, :, 3 * heads :]
    assert rest[:, -64:].isnan().all(), "written beside the inputs"


GRAPHS = {
    "ragged context": ("triton", MIXED),
    "threshold": ("triton", replace(MIXED, dense_query_ratio=0, sharpness_threshold=1e-3)),
    "taylor tail": ("auto", replace(MIXED, context_tail="taylor")),
    "8 bits": ("8bit", MIXED),
    "chosen": ("auto", MIXED),
}


@pytest.mark.parametrize("dense, config", GRAPHS.values(), ids=GRAPHS)
def test_in_a_cuda_graph(dense, config):
    """Recorded once and replayed with other values, whose lists are others too."""
    layout = TokenLayout(600, (410, 77))
    first, *others = (random_case(layout, config, dim=128, seed=seed) for seed in range(3))
    held = Case(*(x.clone() for x in (first.q, first.k, first.v, first.gate)), layout, config)

    def call(case):
        common = {"layout": layout, "config": config, "backend": "triton", "dense": dense}
        return in_context_sparse_attention(case.q, case.k, case.v, coarse_gate=case.gate, **common)

    call(held)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(held)
    for case in (*others, first):
        for name in ("q", "k", "v", "gate"):
            getattr(held, name).copy_(getattr(case, name))
        out.fill_(math.nan)
        graph.replay()
        eager = call(case)
        assert out.isfinite().all() and torch.equal(out, eager)


@pytest.mark.parametrize("name", ["paper", "taylor tail", "threshold"])
def test_gradients(name):
    """In q, k, v and gate, against fp64 autograd of the same formula."""
    case = random_case(TokenLayout(319, (300, 77)), replace(CONFIGS[name], exact_ratio=0.3, keep_ratio=0.5), batch=2, dim=128)
    weight = random_case(case.layout, case.config, batch=2, dim=128, seed=1).q
    leaves = [x.detach().requires_grad_() for x in (case.q, case.k, case.v, case.gate)]
    out, plan = attention_with_gradients(*leaves[:3], case.table, case.config, leaves[3], dense_attention)
    found = {"triton": torch.autograd.grad(out, leaves, weight)}

    plain = Case(*leaves, case.layout, case.config)
    found["torch"] = torch.autograd.grad(in_torch(plain, plan), leaves, weight)
    leaves = [x.detach().double().requires_grad_() for x in (case.q, case.k, case.v, case.gate)]
    plain = Case(*leaves, case.layout, case.config)
    total = 0
    for head, blocks in every_block(case).items():
        b, h = divmod(head, case.q.shape[2])
        total = total + (exact_rows(plain, plan, head, blocks) * weight[b, :, h]).sum()
    expected = torch.autograd.grad(total, leaves)
    for kind, gradients in found.items():
        wrong = [relative(x, y) for x, y in zip(gradients, expected)]
        print(f"\n  {kind:8}", *(f"d{leaf} {error:.2e}" for leaf, error in zip(("q", "k", "v", "gate"), wrong)), end="")
        assert kind == "torch" or max(wrong) <= WORST_GRADIENT
