"""The benchmark of core's in-context networks, at the size that needs no GPU: every model runs, and ISA acts in it."""

import pytest
from comfy_headless import import_comfy

import_comfy()

from liveditor_isa.benchmarks.steps.core_models import FULL, MODELS, REUSE, measure  # noqa: E402
from liveditor_isa.isa_core import ISAConfig  # noqa: E402


@pytest.mark.parametrize("name", MODELS)
def test_a_small_network_is_measured(name):
    rows = {row["variant"]: row for row in measure(name, True, 1, 1, ISAConfig())}
    assert set(rows) == {FULL, "full attention, ComfyUI's default", "ISA"} | ({REUSE} if name != "ltx" else set())
    assert all(row["seconds_per_step"] > 0 for row in rows.values())
    blocks = 2 if name == "flux" else 1
    assert rows["ISA"]["report"].startswith(f"ISA: {3 * blocks} attention calls at ")
