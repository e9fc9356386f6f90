"""The timed steps of the whole-edit benchmark, without a GPU: which of them compute the context."""

import pytest
import torch
from comfy_headless import import_comfy

import_comfy()

from liveditor_isa.benchmarks.steps.whole_edit import BETWEEN, TWO_TOKENS, in_pairs  # noqa: E402
from liveditor_isa.runtime.context_reuse import ContextStore  # noqa: E402
from liveditor_isa.runtime.kept_context import Refresh  # noqa: E402


@pytest.mark.parametrize("pairs", [2, 4, 6])
def test_every_other_step_computes_the_context(pairs):
    *levels, end = in_pairs(pairs).tolist()
    assert end == 0 and levels == sorted(levels, reverse=True) and torch.tensor(levels).lt(1).all()
    store, found = ContextStore(levels), []
    for level in levels:
        contexts = store.begin("edit", level, BETWEEN)
        assert contexts is not None, "every context is reused, so every one is kept"
        contexts.attended(0, 1, *TWO_TOKENS)
        store.end(contexts)
        found.append(isinstance(contexts, Refresh))
    assert found == [True, False] * pairs
