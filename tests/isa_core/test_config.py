"""ISAConfig and TokenLayout: ranges, rounding, block tables."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from liveditor_isa.isa_core import ISAConfig, TokenLayout
from liveditor_isa.isa_core.config import blocks_for
from liveditor_isa.isa_core.layout import block_table
from liveditor_isa.isa_core.pool import pool_blocks

layouts = st.builds(TokenLayout, st.integers(1, 200), st.lists(st.integers(1, 200), max_size=3).map(tuple))


def test_defaults_are_the_papers():
    config = ISAConfig()
    assert (config.keep_ratio, config.dense_query_ratio, config.exact_ratio) == (0.125, 0.5, 0.0625)
    assert (config.sharpness, config.sharpness_threshold, config.context_tail, config.block_size) == (
        "variance",
        None,
        "drop",
        64,
    )


@pytest.mark.parametrize("field", ["keep_ratio", "dense_query_ratio", "exact_ratio", "sharpness_threshold"])
@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf, "0.5", True])
def test_ratios_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"^{field} must be a number from 0 to 1; got "):
        ISAConfig(**{field: value})


@pytest.mark.parametrize(
    "kwargs",
    [
        {"sharpness": "entropy"},
        {"context_tail": "keep"},
        {"block_size": 0},
        {"block_size": 64.0},
        {"block_size": True},
        {"tail_order": 1},
        {"tail_order": 2.0},
        {"tail_order": False},
    ],
)
def test_other_fields_are_checked(kwargs):
    with pytest.raises(ValueError, match=f"^{next(iter(kwargs))} must be"):
        ISAConfig(**kwargs)


@pytest.mark.parametrize("target, context", [(0, ()), (-1, ()), (4, (0,)), (4.0, ()), (4, (2, "3"))])
def test_layout_refuses_lengths_that_are_no_token_counts(target, context):
    with pytest.raises(ValueError, match="a token group must hold a whole number of tokens"):
        TokenLayout(target, context)


@given(st.floats(0, 1), st.integers(0, 5000))
def test_block_share_is_rounded_up_within_bounds(ratio, total):
    count = blocks_for(ratio, total)
    assert 0 <= count <= total
    assert ratio * total - 1e-6 <= count < ratio * total + 1


def test_block_share_has_no_floating_point_surprises():
    assert [blocks_for(r, n) for r, n in ((0.1, 10), (0.3, 10), (0.7, 10), (1.0, 7), (0.0, 7), (1e-4, 7))] == [1, 3, 7, 7, 0, 1]


@given(layouts, st.sampled_from([1, 3, 16, 64]))
def test_blocks_never_mix_segments_and_cover_every_token(layout, size):
    table = block_table(layout, size)
    assert sum(table.lengths) == layout.total
    assert sum(table.lengths[: table.target_blocks]) == layout.target
    tokens = torch.arange(layout.total, dtype=torch.float64).view(1, -1, 1)
    blocks = table.to_blocks(tokens)
    assert blocks.shape == (1, table.count, size, 1)
    assert torch.equal(table.to_tokens(blocks), tokens)
    assert table.slot_is_token("cpu").sum() == layout.total


@given(layouts, st.sampled_from([3, 16, 64]), st.integers(0, 2**31))
def test_pooling_divides_by_the_true_length(layout, size, seed):
    x = torch.randn(2, layout.total, 5, generator=torch.Generator().manual_seed(seed))
    table = block_table(layout, size)
    start, means = 0, []
    for length in table.lengths:
        means.append(x[:, start : start + length].double().mean(1))
        start += length
    torch.testing.assert_close(pool_blocks(x, table).double(), torch.stack(means, 1), rtol=1e-5, atol=1e-6)
