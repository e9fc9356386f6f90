"""Scores of composite tokens, and the largest of each segment: against what PyTorch says."""

from itertools import accumulate

import interpreter  # noqa: F401
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_device import DEVICE
from liveditor_isa.isa_core.config import blocks_for
from liveditor_isa.kernels.composite import composite_shares, keep_largest


@pytest.mark.parametrize("rows, blocks, per_block, dim", [(3, 5, 4, 32), (17, 17, 4, 24), (40, 70, 2, 16), (2, 2, 1, 16)])
def test_shares(rows, blocks, per_block, dim):
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, count * per_block, dim, generator=generator) * 2 for count in (rows, blocks))
    tokens = torch.randint(0, 17, (blocks, per_block), generator=generator).float()
    tokens[:, 0] = 16  # no block is empty
    log_tokens = tokens.log().flatten()
    logits = (q @ k.transpose(1, 2) / dim**0.5 + log_tokens).softmax(2)
    stands = tokens[:rows].flatten() > 0
    expected = (logits * stands[:, None]).view(2, rows, per_block, blocks, per_block).sum((2, 4))
    out = composite_shares(q.to(DEVICE), k.to(DEVICE), log_tokens.to(DEVICE), per_block)
    assert torch.allclose(out.cpu(), expected, atol=1e-5, rtol=1e-4)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.floats(0, 1),
    st.sampled_from([1, 3, 1000]),
)
@settings(max_examples=15, deadline=None)
def test_the_largest_of_each_segment(segments, ratio, levels):
    """Few levels make ties, of which the earlier block stays."""
    generator = torch.Generator().manual_seed(len(segments))
    shares = torch.randint(0, levels, (2, 3, sum(segments)), generator=generator) / levels
    bounds = torch.tensor([0, *accumulate(segments)], dtype=torch.int32, device=DEVICE)
    counts = [blocks_for(ratio, length) for length in segments]
    found = keep_largest(shares.to(DEVICE), bounds, torch.tensor(counts, dtype=torch.int32, device=DEVICE), max(segments)).cpu()
    first = 0
    for length, count in zip(segments, counts):
        part = shares[:, :, first : first + length]
        best = part.sort(dim=2, descending=True, stable=True).indices[:, :, :count]
        kept = torch.zeros_like(part, dtype=torch.bool).scatter_(2, best, True)
        assert torch.equal(found[:, :, first : first + length], torch.where(kept, part, -1.0))
        first += length
