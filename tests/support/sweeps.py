"""Sweeps over many cases, of which an ordinary run takes all and `make test-fast` a few."""

import pytest


def sweep(cases: dict, *quick: str) -> list:
    """The cases as parameters with their names; those that are not `quick` are slow."""
    assert set(quick) <= set(cases)
    return [pytest.param(case, id=name, marks=() if name in quick else pytest.mark.slow) for name, case in cases.items()]
