"""Never a black video: output that is not finite is found, named once, mended by full attention, or stops the run."""

import logging

import pytest
from in_context import BLOCKS, FULL, STEPS, attached, relative_error, sample
from liveditor_isa.comfyui import attach
from liveditor_isa.comfyui.loaders import load_diffusion_model
from liveditor_isa.runtime import finite
from safetensors.torch import save_file

BAD_BLOCK, BAD_CALL = 2, 3


@pytest.fixture
def looks(monkeypatch):
    """Shapes of what was looked at, in order."""
    seen = []
    is_finite = finite.is_finite
    monkeypatch.setattr(finite, "is_finite", lambda x: (seen.append(tuple(x.shape)), is_finite(x))[1])
    return seen


def spoil(monkeypatch, when):
    """Have ISA give one NaN in the attention calls, counted from 0, for which `when(call)` holds; returns the calls."""
    calls = []
    original = attach.in_context_sparse_attention

    def spoilt(*args, **kwargs):
        out, stats = original(*args, **kwargs)
        if when(len(calls)):
            out[0, 7, 0, 0] = float("nan")
        calls.append(1)
        return out, stats

    monkeypatch.setattr(attach, "in_context_sparse_attention", spoilt)
    return calls


@pytest.mark.slow
def test_a_sound_run_is_looked_at_once_per_model_call(in_context_model, looks):
    model, shown = attached(in_context_model)
    sample(model)
    # The two passes of guidance may be one call.
    assert STEPS <= len(looks) <= 2 * STEPS and {shape[1] for shape in looks} == {16}
    assert "not finite" not in shown[0]


@pytest.mark.slow
def test_one_bad_attention_is_named_once_and_mended(in_context_model, monkeypatch, caplog):
    """At ratios of one ISA is full attention, so the mended run must be too."""
    clean = sample(in_context_model)
    calls = spoil(monkeypatch, lambda call: call in (BAD_CALL * BLOCKS + BAD_BLOCK, (BAD_CALL + 1) * BLOCKS + BAD_BLOCK))
    model, shown = attached(in_context_model, FULL)
    with caplog.at_level(logging.WARNING):
        mended = sample(model)
    assert relative_error(mended, clean) < 1e-5
    named = f"block {BAD_BLOCK} was not finite in model call {BAD_CALL + 1}"
    assert f"{STEPS - BAD_CALL} calls with full attention: {named}" in shown[0]
    assert sum("not finite" in record.message for record in caplog.records) == 1
    # The bad call ran twice; after it, its block takes no part.
    assert len(calls) == (STEPS + 1) * BLOCKS - (STEPS - BAD_CALL - 1)


@pytest.mark.slow
def test_the_next_run_starts_afresh(liveditor, monkeypatch):
    spoil(monkeypatch, lambda call: call in (1, BLOCKS + 1))
    model, shown = attached(liveditor)
    sample(model), sample(model)
    assert "block 1 was not finite in model call 1" in shown[0] and "not finite" not in shown[1]


def test_damaged_weights_are_named_with_isa_too(weights, tmp_path):
    damaged = {**weights, "blocks.2.ffn.0.weight": weights["blocks.2.ffn.0.weight"] * float("nan")}
    save_file(damaged, tmp_path / "damaged.safetensors", {"config": '{"transformer": {"text_dim": 64}}'})
    model, shown = attached(load_diffusion_model(str(tmp_path / "damaged.safetensors")))
    with pytest.raises(ValueError, match=r"blocks\.2\.ffn\.0\.weight holds NaN"):
        sample(model)
    assert shown == []


def test_a_network_that_overflows_by_itself_stops_the_run(in_context_model):
    model, _ = attached(in_context_model)
    model.set_model_patch(lambda args: {"img": args["img"] * float("inf")}, "double_block")
    with pytest.raises(ValueError, match="not finite although its weights are"):
        sample(model)


def test_a_sampler_that_runs_away_is_not_the_models_fault(in_context_model):
    model, _ = attached(in_context_model)
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * float("inf"))
    with pytest.raises(ValueError, match="sampler gave to the model is not finite: lower the guidance"):
        sample(model)
