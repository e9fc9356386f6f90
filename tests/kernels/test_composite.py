"""Scores of composite tokens, and the fewest blocks that hold a share: against what PyTorch says."""

import interpreter  # noqa: F401
import pytest
import torch
from kernel_device import DEVICE

from liveditor_isa.kernels.composite import composite_shares, fewest


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


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_the_fewest(share):
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(2, 9, 21, generator=generator) ** 4
    bounds = [0, 9, 16, 21]
    out = fewest(values.to(DEVICE), torch.tensor(bounds, dtype=torch.int32, device=DEVICE), share, 9).bool().cpu()
    for head in range(2):
        for row in range(9):
            for first, last in zip(bounds, bounds[1:]):
                order = sorted(range(first, last), key=lambda j: -values[head, row, j])
                held, taken, total = 0.0, set(), float(values[head, row, first:last].sum())
                for j in order:
                    if held >= share * total * (1 - 1e-6):
                        break
                    taken.add(j)
                    held += float(values[head, row, j])
                found = {j for j in range(first, last) if out[head, row, j]}
                if share < 1:
                    assert found - {row} == taken - {row}
                if first <= row < last:
                    assert row in found
