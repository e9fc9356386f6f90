"""What ComfyUI sets aside for a step, context and all, against what steps took on a GPU (benchmarks/steps/whole_step.py)."""

import json

import comfy.model_management
import comfy.supported_models
import pytest
import torch
from comfy_headless import ROOT
from in_context import attached, latent, sample
from liveditor_isa.comfyui.architecture import LIVEditor
from liveditor_isa.comfyui.memory import with_context

SIZES = {"832x480": (21, 60, 104), "960x544": (21, 68, 120)}
WIDTH = {"dim": 5120}


def rows(name: str) -> list[dict]:
    found = sorted((ROOT / "benchmarks/results").glob(f"whole-step-{name}-*.json"))
    return json.loads(found[-1].read_text(encoding="utf-8"))["rows"]


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Core's formula for one, in bf16 and the real width."""
    monkeypatch.setattr(comfy.model_management, "pytorch_attention_flash_attention", lambda: True)

    def ready(base, config):
        monkeypatch.setattr(base, "memory_usage_factor", config(dict(WIDTH)).memory_usage_factor)
        monkeypatch.setattr(base, "get_dtype_inference", lambda: torch.bfloat16)
        return base

    return ready


@pytest.mark.parametrize("row", rows("memory"), ids=lambda row: f"{row['weights']} {row['size']} {row['variant']}")
def test_liveditor_within_15_percent(liveditor, on_a_gpu, row):
    base = on_a_gpu(liveditor.model, LIVEditor)
    size = SIZES[row["size"]]
    shapes = base.extra_conds_shapes(context_latents=[torch.empty(1, 16, *size, device="meta")])
    planned = base.memory_required([1, 16, *size], {name: [shape] for name, shape in shapes.items()})
    assert 1 <= planned / 1e9 / row["step_gb"] < 1.15


@pytest.mark.parametrize("row", rows("native"), ids=lambda row: f"{row['size']} {row['variant']}")
def test_bernini_within_15_percent(plain_wan, on_a_gpu, row):
    base = on_a_gpu(plain_wan.model, comfy.supported_models.WAN21_T2V)
    size = SIZES[row["size"]]
    shape = with_context([1, 16, *size], {"positive": [{"context_latents": [torch.empty(1, 16, *size, device="meta")]}]})
    assert 1 <= base.memory_required(shape) / 1e9 / row["step_gb"] < 1.15


def test_core_asks_for_the_context_when_it_loads_and_when_it_batches(plain_wan, monkeypatch):
    """At core's own estimate: how much of it a step takes is above."""
    monkeypatch.setattr("liveditor_isa.comfyui.memory.TAKEN", 1)
    model, _ = attached(attached(plain_wan)[0])
    without, with_two = (asked(monkeypatch, model, count) for count in (0, 2))
    assert len(without) == len(with_two) > 2
    assert all(large == pytest.approx(3 * small) for small, large in zip(without, with_two))
    assert max(asked(monkeypatch, plain_wan, 2)) == max(without), "the model that was given in is as it was"


def asked(monkeypatch, model, contexts: int) -> list[float]:
    """Bytes, every time that core asks in a run."""
    seen, base = [], type(model.model)
    required = base.memory_required

    def memory_required(self, *args, **kwargs):
        seen.append(required(self, *args, **kwargs))
        return seen[-1]

    with monkeypatch.context() as patch:
        patch.setattr(base, "memory_required", memory_required)
        sample(model, [latent(seed=seed) for seed in range(contexts)], steps=1)
    return seen


def test_the_largest_context_counts():
    small, large = ({"context_latents": [torch.zeros(1, 16, frames, 8, 12)]} for frames in (2, 5))
    conds = {"positive": [small, {}], "negative": [large], "middle": None}
    assert with_context([2, 16, 5, 8, 12], conds) == [2, 16, 6, 8, 12]
    assert with_context([2, 16, 5, 8, 12], {"positive": [{}]}) == [2, 16, 5, 8, 12]
