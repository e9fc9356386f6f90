"""A kept context on a GPU with room for it, and in main memory where there is none."""

import pytest
import torch
from liveditor_isa.isa_core import TokenLayout
from liveditor_isa.runtime.kept_context import Keeping, Refresh, Reuse

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: on a CPU a context has one home", allow_module_level=True)

BLOCKS, LAYOUT = 6, TokenLayout(2048, (2048,))


@pytest.mark.parametrize("choice, home", [("gpu", "cuda"), ("cpu", "cpu")])
def test_what_is_kept_is_the_same_wherever_it_is(choice, home):
    """Main memory's copies run beside the work of the blocks, in both directions."""
    refresh, given = Refresh(keeping=Keeping(choice)), []
    for block in range(BLOCKS):
        k, v = (torch.randn(1, LAYOUT.total, 8, 64, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        given.append((k.clone(), v.clone()))
        refresh.attended(block, BLOCKS, k, v, LAYOUT)
        k.zero_(), v.zero_()  # queued behind the copies
    assert refresh.whole and refresh.home.type == home and refresh.of(0)[0].numbers.is_pinned() is (home == "cpu")
    for _ in range(3):
        reuse = Reuse(refresh)
        for block, (k, v) in enumerate(given):
            target = k[:, : LAYOUT.target], v[:, : LAYOUT.target], TokenLayout(LAYOUT.target)
            joined_k, joined_v, _ = reuse.attended(block, BLOCKS, *target)
            assert torch.equal(joined_k, k) and torch.equal(joined_v, v)
        assert reuse.whole
