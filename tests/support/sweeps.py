"""Sweeps over many cases: which of them an ordinary run takes, and which `make test-fast`."""

from collections.abc import Sequence

import pytest
from kernel_device import GPU


def sweep(cases: dict, *quick: str) -> list:
    """The cases as parameters with their names; those that are not `quick` are slow."""
    assert set(quick) <= set(cases)
    return [pytest.param(case, id=name, marks=() if name in quick else pytest.mark.slow) for name, case in cases.items()]


def pairs(layouts: Sequence, configs: dict) -> list:
    """(layout, config) of every config with the first layout, the richest, and with one of the others in turn; with all on a GPU, as
    the interpreter is slow."""
    return [
        pytest.param(layout, config, id=f"{layout.segments}-{name}")
        for number, (name, config) in enumerate(configs.items())
        for layout in (layouts if GPU else (layouts[0], layouts[1 + number % (len(layouts) - 1)]))
    ]
