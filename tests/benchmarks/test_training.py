"""Rows of the benchmark of a training step."""

import pytest
from liveditor_isa.benchmarks.training import summary


def step(attention, seconds, memory, mfu):
    return {"attention": attention, "seconds": seconds, "memory_gb": memory, "mfu": mfu}


def test_the_first_turn_warms_up_and_does_not_count():
    steps = [step("full", 90, 99, 0.1), step("isa", 80, 99, 0.1)]
    for full, isa in ((40, 20), (44, 22), (42, 24)):
        steps += [step("full", full, full, full / 100), step("isa", isa, isa, isa / 100)]
    full, isa = summary(steps, "lora", 65_520)
    assert full == {
        "mode": "lora",
        "tokens": 65_520,
        "attention": "full",
        "seconds": 42,
        "vs_full": 1.0,
        "memory_gb": 44,
        "mfu": 0.42,
    }
    assert isa["vs_full"] == pytest.approx(42 / 22, abs=1e-3) and isa["seconds"] == 22 and isa["memory_gb"] == 24


def test_a_processor_has_neither_memory_nor_a_known_peak():
    steps = [{"attention": kind, "seconds": 1.0} for kind in ("full", "isa")] * 2
    assert all({*row} == {"mode", "tokens", "attention", "seconds", "vs_full"} for row in summary(steps, "full", 288))
