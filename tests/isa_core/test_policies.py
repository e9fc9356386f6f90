"""Decisions that a caller brings, and the policies beside ISA's own that bring them, each against loops that restate it."""

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from liveditor_isa.isa_core import ISAConfig, RoutingMasks, TokenLayout, in_context_sparse_attention, vorta
from liveditor_isa.isa_core.layout import block_table
from liveditor_isa.isa_core.policies import paper_by_group, sol_style, unisparse_style
from liveditor_isa.isa_core.policies.tiles import tile_order
from liveditor_isa.isa_core.reference import cut_into_blocks, reference_attention

LAYOUTS = [TokenLayout(131, (70, 33)), TokenLayout(64), TokenLayout(200, (96,))]


def tensors(layout, batch=1, heads=2, dim=16, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, layout.total, heads, dim, generator=generator, dtype=dtype) * 1.5 for _ in range(3)]


def error(out, expected):
    return ((out.double() - expected.double()).norm() / expected.double().norm()).item()


def routing_of(masks, batch, heads):
    """As the oracle takes it."""

    def chosen(mask):
        return {row: mask[row].nonzero().flatten().tolist() for row in range(len(mask))}

    rows = [
        {"kv": [*range(exact.shape[1])], "dense": set(), "exact": chosen(exact), "means": chosen(mean & ~exact)}
        for exact, mean in zip(masks.exact, masks.by_mean)
    ]
    return {(b, h): rows[b * heads + h] for b in range(batch) for h in range(heads)}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    target=st.integers(1, 120), context=st.lists(st.integers(1, 90), max_size=2).map(tuple), order=st.sampled_from([0, 2]),
    block_size=st.sampled_from([7, 32, 64]), seed=st.integers(0, 1000), target_alone=st.booleans(),
)  # fmt: skip
def test_any_masks_equal_the_oracle(target, context, order, block_size, seed, target_alone):
    layout, config = TokenLayout(target, context), ISAConfig(block_size=block_size, tail_order=order)
    q, k, v = tensors(layout, batch=2, seed=seed)
    q = q[:, :target] if target_alone else q
    table = block_table(layout, block_size)
    shape = 4, table.of_queries(q.shape[1]).count, table.count
    generator = torch.Generator().manual_seed(seed)
    exact, by_mean = (torch.rand(shape, generator=generator) < 0.4 for _ in range(2))
    by_mean[:, :, 0] = True  # every row has something
    masks = RoutingMasks(exact, by_mean)
    out, stats = in_context_sparse_attention(
        q, k, v, layout=layout, config=config, masks=masks, backend="torch", return_stats=True
    )
    expected, _ = reference_attention(q, k, v, layout, config, lists=routing_of(masks, 2, 2))
    assert error(out, expected) <= 1e-10
    lengths = torch.tensor(table.lengths, dtype=torch.float64)
    pairs = (exact * lengths * lengths[: shape[1], None]).sum((1, 2)).mean() / layout.total**2
    assert stats.density == pytest.approx(float(pairs), rel=1e-5)
    assert stats.flop_ratio > stats.density


def test_masks_that_do_not_fit_are_refused():
    q, k, v = tensors(TokenLayout(64, (64,)))
    right = torch.ones(2, 2, 2, dtype=torch.bool)
    for masks in (RoutingMasks(right[:1], right), RoutingMasks(right, right[:, :1]), RoutingMasks(right.int(), right)):
        with pytest.raises(ValueError, match="masks.* must be bool, .* = \\[2, 2, 2\\]"):
            in_context_sparse_attention(q, k, v, layout=TokenLayout(64, (64,)), masks=masks, backend="torch")


def coarse(q, k, layout, block_size, queries=None):
    """Coarse logits of one head, by loops: q, k [S, D]."""
    cut = cut_into_blocks(layout, block_size)[0]
    return torch.tensor([[float(q[i].mean(0) @ k[j].mean(0)) / math.sqrt(q.shape[1]) for j in cut] for i in cut])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_sol_style(layout):
    q, k, _ = tensors(layout, batch=2, heads=3)
    masks = sol_style.masks(q, k, layout, 0.2, block_size=16)
    for b, h in ((0, 0), (1, 2)):
        logits = coarse(q[b, :, h], k[b, :, h], layout, 16)
        above = NormalDist().inv_cdf(0.8) * ((logits - logits.mean(1, keepdim=True)) ** 2).mean(1, keepdim=True).sqrt()
        assert torch.equal(masks.exact[3 * b + h], logits > logits.mean(1, keepdim=True) + above)
    assert masks.by_mean.all()
    alone = sol_style.masks(q[:, : layout.target], k, layout, 0.2, block_size=16)
    assert torch.equal(alone.exact, masks.exact[:, : -(-layout.target // 16)])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_unisparse_style(layout):
    """The fewest blocks of each group that hold the share, by composite tokens of 8, of which a block has up to 4."""
    q, k, _ = tensors(layout, heads=2)
    masks = unisparse_style.masks(q, k, layout, 0.6, composite=8, block_size=32)
    fine, _ = cut_into_blocks(layout, 8)
    blocks, _ = cut_into_blocks(layout, 32)
    groups, first = [], 0
    for tokens in layout.segments:
        groups.append([*range(first, first := first + -(-tokens // 32))])
    for h in range(2):
        logits = coarse(q[0, :, h], k[0, :, h], layout, 8) + torch.tensor([float(j.stop - j.start) for j in fine]).log()
        shares = logits.softmax(1)
        inside = torch.tensor([[b.start <= f.start < b.stop for f in fine] for b in blocks]).float()
        cells = inside @ shares @ inside.T
        for i in range(len(blocks)):
            for group in groups:
                held = [j for j in group if masks.exact[h, i, j] and j != i]
                if i in group:  # which is always exact, whatever its share
                    continue
                total = float(cells[i, group].sum())
                assert float(cells[i, held].sum()) >= 0.6 * total - 1e-6
                weakest = min(held, key=lambda j: float(cells[i, j]))
                assert float(cells[i, held].sum() - cells[i, weakest]) < 0.6 * total + 1e-6
                assert all(float(cells[i, weakest]) >= float(cells[i, j]) for j in group if j not in held)
            assert masks.exact[h, i, i]
    assert not masks.by_mean.any()
    assert unisparse_style.masks(q, k, layout, 0.6, tail=True).by_mean.all()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_one_group_of_all_is_the_papers_router(layout):
    config = ISAConfig(0.4, 0.5, 0.3, block_size=16)
    q, k, v = tensors(layout, heads=3)
    masks = paper_by_group.masks(q, k, layout, config, group=10_000)
    target = -(-layout.target // 16)
    # Every token group begins a group of its own, so the target's rows alone choose as the paper lets all rows choose.
    out = in_context_sparse_attention(q, k, v, layout=layout, config=config, masks=masks, backend="torch")
    expected, lists = reference_attention(q, k, v, layout, config)
    assert error(out[:, : layout.target], expected[:, : layout.target]) <= 1e-10
    for h in range(3):
        for i in range(target):
            exact = lists[0, h]["kv"] if i in lists[0, h]["dense"] else lists[0, h]["exact"][i]
            assert masks.exact[h, i].nonzero().flatten().tolist() == sorted(exact)


def test_groups_choose_their_own_context():
    """Four frames whose queries each look at the same frame of the context: one list for all cannot hold what each needs."""
    layout, config = TokenLayout(64, (64,)), ISAConfig(0.25, 1, 1, block_size=16)
    q, k, _ = tensors(layout, heads=1, dim=8)
    direction = torch.eye(8, dtype=torch.float64)
    for frame in range(4):
        q[:, 16 * frame : 16 * frame + 16] = 6 * direction[frame]
        k[:, 64 + 16 * frame : 80 + 16 * frame] = 6 * direction[frame]
    masks = paper_by_group.masks(q, k, layout, config, group=1)
    assert torch.equal(masks.exact[0, :4, 4:], torch.eye(4, dtype=torch.bool))
    assert masks.exact[0, :, :4].all()


GRID = (3, 7, 5)


def test_a_coreset_by_loops():
    """Buckets of 2×3×2, cut at the edges; half of each stays, the centre and what is least like it."""
    layout = TokenLayout(105, (105,))
    q, k, v = tensors(layout, batch=2, heads=3)
    centre, kept = vorta.coreset(q, layout, GRID)
    number = torch.arange(105).view(GRID)
    for group in (0, 105):
        for t in range(0, 3, 2):
            for y in range(0, 7, 3):
                for x in range(0, 5, 2):
                    bucket = (number[t : t + 2, y : y + 3, x : x + 2].flatten() + group).tolist()
                    middle = int(number[min(t + 1, 2), min(y + 1, 6), min(x + 1, 4)]) + group
                    assert set(centre[bucket].tolist()) == {middle}
                    for b, h in ((0, 0), (1, 2)):
                        like = {i: float(torch.cosine_similarity(q[b, i, h], q[b, middle, h], dim=0)) for i in bucket}
                        others = sorted((i for i in bucket if i != middle), key=like.get)
                        stay = {middle, *others[: math.ceil(len(bucket) / 2) - 1]}
                        assert {i for i in bucket if kept[b, h, i]} == stay
    out, cost = vorta.vorta_attention(q, k, v, layout, GRID, torch.tensor([vorta.CORESET] * 3))
    for b, h in ((0, 1), (1, 0)):
        some = kept[b, h]
        over = (q[b, some, h] @ k[b, some, h].T / 4).softmax(1) @ v[b, some, h]
        assert error(out[b, some, h], over) <= 1e-10
        assert torch.equal(out[b, ~some, h], out[b, centre[~some], h])
    assert float(cost) == pytest.approx((int(kept[0, 0].sum()) / 210) ** 2)


def test_a_sliding_window():
    grid, layout = (8, 16, 20), TokenLayout(2560, (2560,))
    q, k, v = tensors(layout, heads=1, dim=8)
    near = vorta.window(grid, layout, (4, 4, 4), torch.device("cpu"))
    order = tile_order(grid, layout, torch.device("cpu"))
    assert 27 / (2 * 4 * 5) > near.float().mean() > 18 / 40 - 1e-6  # 2 of 2 tiles in time, 3 of 4 and of 5 in space
    middle = torch.stack(torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij"), -1).flatten(0, 2)[order[:2560]]
    tile = middle.view(40, 64, 3)[:, 0] // 4
    centre = torch.minimum(tile.clamp(min=1), torch.tensor([0, 2, 3]))
    expected = ((tile[None] - centre[:, None]).abs() <= 1).all(2)
    assert torch.equal(near, expected.repeat(2, 2))
    out, cost = vorta.vorta_attention(q, k, v, layout, grid, torch.tensor([vorta.SLIDING]), tile=(4, 4, 4))
    row = 1234
    block = int((order == row).nonzero()) // 64
    seen = order[near[block].repeat_interleave(64)]
    expected = (q[0, row, 0] @ k[0, seen, 0].T / math.sqrt(8)).softmax(0) @ v[0, seen, 0]
    assert error(out[0, row, 0], expected) <= 1e-10
    assert float(cost) == pytest.approx(float(near.float().mean()))


def test_full_heads_and_windows_over_everything_are_full_attention():
    layout, grid = TokenLayout(105, (105,)), GRID
    q, k, v = tensors(layout, heads=2)
    full = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    out, _ = vorta.vorta_attention(q, k, v, layout, grid, torch.tensor([vorta.FULL, vorta.SLIDING]))
    assert error(out, full) <= 1e-10


def test_routers_choose_an_expert_for_every_head():
    generator = torch.Generator().manual_seed(0)
    routers = {
        f"blocks.{block}.router.linear.{name}": torch.randn(shape, generator=generator)
        for block in range(2)
        for name, shape in (("weight", (12, 6)), ("bias", (12,)))
    }
    time = torch.randn(6, generator=generator)
    found = vorta.experts(routers, time)
    assert [len(each) for each in found] == [4, 4]
    one = routers["blocks.1.router.linear.weight"] @ (time * time.sigmoid()) + routers["blocks.1.router.linear.bias"]
    assert found[1].tolist() == [int(one[3 * head : 3 * head + 3].argmax()) for head in range(4)]
    with pytest.raises(ValueError, match="no routers of VORTA: blocks.0"):
        vorta.experts({"weight": time}, time)
