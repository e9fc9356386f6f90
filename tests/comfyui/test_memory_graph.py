"""ISA keeps out of the memory graph of newer cores. Stand-in: this core has none."""

from contextlib import contextmanager

import comfy.model_prefetch
import pytest
import torch
from in_context import STEPS, attached, sample
from liveditor_isa.comfyui import attach
from liveditor_isa.comfyui.attach import attach_isa
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.runtime import kept_context
from liveditor_isa.runtime.live import LiveSettings, Settings
from liveditor_isa.runtime.schedule import Schedule


@pytest.fixture
def paused(monkeypatch):
    """[how often the graph is paused at this moment]."""
    depth = [0]

    @contextmanager
    def pause_malloc_graph():
        depth[0] += 1
        try:
            yield
        finally:
            depth[0] -= 1

    monkeypatch.setattr(comfy.model_prefetch, "pause_malloc_graph", pause_malloc_graph, raising=False)
    return depth


def watched(monkeypatch, module, name: str, paused) -> list[int]:
    """How often the graph was paused in each call of a function."""
    seen, function = [], getattr(module, name)

    def watching(*args, **kwargs):
        seen.append(paused[0])
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, watching)
    return seen


def test_isa_and_kept_contexts_stay_out_of_the_graph(in_context_model, monkeypatch, paused):
    attention, copies = (
        watched(monkeypatch, module, name, paused)
        for module, name in ((attach, "in_context_sparse_attention"), (kept_context, "_copied"))
    )
    live = LiveSettings(Settings(ISAConfig(0.5, 0.5, 0.25), True, 1))
    model = attach_isa(in_context_model, live, Schedule(), "torch", print)
    out = sample(model)
    assert len(attention) >= STEPS and {*attention} == {1} and copies and {*copies} == {1} and paused == [0]
    monkeypatch.delattr(comfy.model_prefetch, "pause_malloc_graph")
    assert torch.equal(out, sample(model))


def test_full_attention_stays_in_the_graph(in_context_model, monkeypatch, paused):
    """Where ISA does not act, core's own attention is core's to lay out."""
    attention = watched(monkeypatch, attach, "in_context_sparse_attention", paused)
    seen = []

    def plain(func, *args, **kwargs):
        seen.append(paused[0])
        return func(*args, **kwargs)

    model = in_context_model.clone()
    model.model_options["transformer_options"][attach.OVERRIDE] = plain
    sample(attach_isa(model, LiveSettings(Settings(ISAConfig(), enabled=False)), Schedule(), "torch", print))
    assert not attention and seen and {*seen} == {0}


def test_an_error_ends_the_pause(in_context_model, monkeypatch, paused):
    def broken(*args, **kwargs):
        raise RuntimeError("a kernel failed")

    monkeypatch.setattr(attach, "in_context_sparse_attention", broken)
    model, _ = attached(in_context_model)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        sample(model)
    assert paused == [0]
