"""Attach ISA on real models: when it acts, when it must not, and that it leaves everybody else's patches alone."""

from types import SimpleNamespace

import comfy.ldm.wan.model
import comfy.model_base
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.supported_models
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from in_context import BLOCKS, FULL, STEPS, TEXT, attached, latent, relative_error, sample
from liveditor_isa.comfyui.attach import OVERRIDE, can_attach
from liveditor_isa.comfyui.hosts.bernini import native_layout
from liveditor_isa.isa_core import BackendUnavailable, ISAConfig
from liveditor_isa.runtime.report import RunReport
from liveditor_isa.runtime.schedule import Schedule

# What it computes


@pytest.mark.slow
def test_ratios_of_one_equal_full_attention(in_context_model):
    model, shown = attached(in_context_model, FULL)
    assert relative_error(sample(model), sample(in_context_model)) < 1e-5
    assert shown[0].startswith(f"ISA: {STEPS * BLOCKS} attention calls at 100.0% density")


@pytest.mark.slow
def test_sparse_ratios_change_the_result_and_the_cost(in_context_model):
    model, shown = attached(in_context_model)
    assert 1e-4 < relative_error(sample(model), sample(in_context_model)) < 0.5
    density = float(shown[0].split(" at ")[1].split("%")[0])
    assert 10 < density < 50


@pytest.mark.slow
def test_several_contexts_of_different_sizes(in_context_model):
    contexts = (latent(seed=1), latent(1, 10, 14, seed=2))
    model, shown = attached(in_context_model, FULL)
    assert relative_error(sample(model, contexts), sample(in_context_model, contexts)) < 1e-5
    assert f"{STEPS * BLOCKS} attention calls" in shown[0]


# When it acts


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule, sparse_calls, reason",
    [
        (Schedule(start_percent=0.5), None, "outside start_percent to end_percent"),
        (Schedule(end_percent=0.5), None, "outside start_percent to end_percent"),
        (Schedule(dense_blocks="0-1,-1"), STEPS, "dense_blocks 0-1,-1"),
        (Schedule(dense_blocks="0-3"), 0, "dense_blocks 0-3"),
        (Schedule(min_tokens=577), 0, "576 tokens are fewer than min_tokens 577"),
        (Schedule(min_tokens=576), STEPS * BLOCKS, None),
    ],
)
def test_schedule(liveditor, schedule, sparse_calls, reason):
    model, shown = attached(liveditor, FULL, schedule)
    sample(model)
    sparse = int(shown[0].split(" attention calls")[0].removeprefix("ISA: ")) if shown[0].startswith("ISA: ") else 0
    full = sum(int(line.split()[0]) for line in shown[0].splitlines() if "calls with full attention" in line)
    assert sparse + full == STEPS * BLOCKS
    if sparse_calls is not None:
        assert sparse == sparse_calls
    else:
        assert 0 < sparse < STEPS * BLOCKS and sparse % BLOCKS == 0
    assert reason is None or reason in shown[0]


@pytest.mark.slow
def test_start_and_end_share_the_schedule_without_gap_or_overlap(liveditor):
    calls = []
    for schedule in (Schedule(end_percent=0.6), Schedule(start_percent=0.6)):
        model, shown = attached(liveditor, FULL, schedule)
        sample(model, steps=8)
        calls.append(int(shown[0].split(" attention calls")[0].removeprefix("ISA: ")))
    # A step exactly on the boundary belongs to both.
    assert 8 * BLOCKS <= sum(calls) <= 9 * BLOCKS


@pytest.mark.slow
def test_an_inactive_schedule_is_bit_identical_to_no_node(in_context_model):
    model, _ = attached(in_context_model, schedule=Schedule(dense_blocks="0-3"))
    assert torch.equal(sample(model), sample(in_context_model))


@given(st.text(alphabet="0123456789-, x", max_size=8))
def test_any_dense_blocks_text_is_read_or_refused(text):
    try:
        schedule = Schedule(dense_blocks=text)
    except ValueError as error:
        assert "dense_blocks" in str(error) and "0-2,-1" in str(error)
    else:
        assert isinstance(schedule.is_dense_block(3, 40), bool)


@pytest.mark.parametrize("start, end", [(0.5, 0.5), (0.7, 0.2), (-0.1, 1.0), (0.0, 1.1), (float("nan"), 1.0)])
def test_an_empty_or_impossible_schedule_is_refused(start, end):
    with pytest.raises(ValueError, match="start_percent must lie below end_percent"):
        Schedule(start, end)


@pytest.mark.parametrize(
    "text, dense", [("", set()), ("0-2,-1", {0, 1, 2, 9}), ("-3--2", {7, 8}), ("4", {4}), (" 1 , 3 ", {1, 3})]
)
def test_dense_blocks(text, dense):
    schedule = Schedule(dense_blocks=text)
    assert {index for index in range(10) if schedule.is_dense_block(index, 10)} == dense


# What the user is told


def test_a_threshold_that_routes_nothing_is_said(liveditor):
    model, shown = attached(liveditor, ISAConfig(sharpness_threshold=1.0))
    sample(model)
    assert "No query block is sharper than the threshold 1" in shown[0] and "lower sharpness_threshold" in shown[0]


@pytest.mark.parametrize(
    "device, backend, warned", [("cuda", "torch", True), ("cuda", "triton", False), ("cpu", "torch", False)]
)
def test_a_slow_combination_is_said(device, backend, warned):
    share = torch.tensor(0.3)
    sharpness = SimpleNamespace(device=torch.device(device))
    stats = SimpleNamespace(
        backend=backend,
        backend_reason="",
        dense_backend="caller",
        dense_reason="",
        mean_density=share,
        mean_flop_ratio=share,
        dense_queries=torch.ones(2),
        sharpness=sharpness,
    )
    report = RunReport()
    report.add_sparse(stats)
    assert ("slower than full attention" in report.summary(ISAConfig())) is warned


def test_8_bit_is_refused_at_once_where_it_cannot_run(liveditor):
    with pytest.raises(BackendUnavailable, match="^The Triton backend cannot run: Triton needs a GPU, not 'cpu'"):
        attached(liveditor, ISAConfig(), backend="8-bit")


@pytest.mark.parametrize(
    "config, no_fp8, words",
    [
        (ISAConfig(), "it needs FP8", "8-bit attention cannot run: it needs FP8. Choose 'auto'."),
        (
            ISAConfig(context_tail="taylor"),
            None,
            "8-bit attention cannot run: it has no block means, which context_tail 'taylor'",
        ),
    ],
)
def test_8_bit_is_refused_for_reasons_of_its_own(liveditor, monkeypatch, config, no_fp8, words):
    from liveditor_isa import kernels

    monkeypatch.setattr(kernels, "unavailable_reason", lambda *_: None)
    monkeypatch.setattr(kernels, "eight_bit_unavailable_reason", lambda *_: no_fp8)
    with pytest.raises(BackendUnavailable, match=f"^{words}"):
        attached(liveditor, config, backend="8-bit")


@pytest.mark.slow
def test_what_attended_for_the_dense_blocks_is_said_where_it_was_not_the_models_attention(liveditor):
    model, shown = attached(liveditor, ISAConfig(context_tail="taylor"))
    sample(model)
    assert "Dense query blocks attended on PyTorch's attention (context_tail 'taylor' needs a bias per key)" in shown[0]
    model, shown = attached(liveditor, ISAConfig())
    sample(model)
    assert "Dense query blocks" not in shown[0]


def test_no_context_is_said(liveditor, plain_wan):
    for network, words in ((liveditor, "no context tokens"), (plain_wan, "saw no in-context attention: no context tokens")):
        model, shown = attached(network)
        assert torch.equal(sample(model, ()), sample(network, ()))
        assert words in shown[0]


def test_an_explicit_backend_never_falls_back(liveditor, monkeypatch):
    from liveditor_isa import kernels

    monkeypatch.setattr(kernels, "unavailable_reason", lambda *_: "no GPU here")
    with pytest.raises(BackendUnavailable, match="no GPU here"):
        attached(liveditor, backend="triton")


# Living with others


def recorder(log, name):
    def override(func, q, k, v, heads, mask=None, **kwargs):
        log.append((name, q.shape[1], k.shape[1]))
        return func(q, k, v, heads, mask=mask, **kwargs)

    return override


def with_override(model, override):
    clone = model.clone()
    clone.model_options["transformer_options"][OVERRIDE] = override
    return clone


def test_an_earlier_override_runs_the_dense_group_and_everything_else(liveditor):
    log = []
    model, shown = attached(with_override(liveditor, recorder(log, "earlier")), ISAConfig(keep_ratio=0.25, exact_ratio=0.1))
    sample(model, steps=1)
    cross = [entry for entry in log if entry[2] == TEXT.shape[1]]
    dense_group = [entry for entry in log if entry[2] != TEXT.shape[1]]
    assert len(cross) == BLOCKS
    assert dense_group and all(queries < 576 and keys < 576 for _, queries, keys in dense_group)


def test_a_later_override_may_wrap_isa(liveditor):
    log = []
    model, shown = attached(liveditor, FULL)
    isa = model.model_options["transformer_options"][OVERRIDE]

    def later(func, *args, **kwargs):
        log.append("later")
        return isa(func, *args, **kwargs)

    sample(with_override(model, later), steps=1)
    assert len(log) == 2 * BLOCKS and f"{BLOCKS} attention calls" in shown[0]


@pytest.mark.slow
def test_attaching_leaves_the_given_model_alone(in_context_model):
    before = sample(in_context_model)
    model, _ = attached(in_context_model)
    sample(model)
    assert OVERRIDE not in in_context_model.model_options["transformer_options"]
    assert not any(in_context_model.wrappers.values())
    assert torch.equal(sample(in_context_model), before)


def test_attaching_twice_replaces_and_keeps_what_was_earlier(liveditor):
    log = []
    first, first_shown = attached(with_override(liveditor, recorder(log, "earlier")))
    second, shown = attached(first, FULL)
    sample(second, steps=1)
    assert len(shown) == 1 and not first_shown
    assert "100.0% density" in shown[0] and log


@pytest.mark.slow
def test_two_branches_do_not_disturb_each_other(liveditor):
    dense, dense_shown = attached(liveditor, FULL)
    sparse, sparse_shown = attached(liveditor)
    alone = sample(sparse)
    again = [sample(dense), sample(sparse), sample(dense)]
    assert torch.equal(again[1], alone) and torch.equal(again[0], again[2])
    assert "100.0% density" in dense_shown[0] and "100.0% density" not in sparse_shown[0]


def test_other_nodes_wrappers_survive(liveditor):
    import comfy.patcher_extension

    calls = []

    def wrapper(executor, *args, **kwargs):
        calls.append(1)
        return executor(*args, **kwargs)

    theirs = liveditor.clone()
    theirs.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "theirs", wrapper)
    model, shown = attached(theirs)
    sample(model, steps=2)
    assert len(calls) == 2 and shown


@pytest.mark.slow
def test_an_isa_behind_somebody_elses_override_leaves_the_decision_to_the_outer_one(liveditor):
    inner, inner_shown = attached(liveditor)
    captured = inner.model_options["transformer_options"][OVERRIDE]

    def wrapping(func, *args, **kwargs):
        return captured(func, *args, **kwargs)

    outer, shown = attached(with_override(inner, wrapping), schedule=Schedule(dense_blocks="0-3"))
    assert torch.equal(sample(outer), sample(liveditor))
    assert f"{STEPS * BLOCKS} calls with full attention: dense_blocks" in shown[0]


def test_a_stopped_run_says_nothing(liveditor):
    def stop(func, *args, **kwargs):
        raise InterruptedError("stopped")

    model, shown = attached(with_override(liveditor, stop))
    with pytest.raises(InterruptedError):
        sample(model)
    assert not shown


@pytest.mark.slow
def test_a_threshold_that_routes_everything_is_said(liveditor):
    model, shown = attached(liveditor, ISAConfig(keep_ratio=1, sharpness_threshold=0.0))
    assert relative_error(sample(model), sample(liveditor)) < 1e-5
    assert "Every query block is sharper" in shown[0] and "raise sharpness_threshold" in shown[0]


# What it must not touch


def test_text_as_long_as_the_sequence_is_not_taken_for_self_attention(plain_wan):
    """Cross-attention then has the shapes of self-attention; on core's Wan nothing tells them apart, so ISA stays out."""
    network = plain_wan.model.diffusion_model
    x, contexts = latent(), [latent(seed=1)]
    assert native_layout(network, x, torch.zeros(1, 575, 64), context_latents=contexts).total == 576
    assert native_layout(network, x, torch.zeros(1, 576, 64), context_latents=contexts).startswith("the text has 576 tokens")


@pytest.mark.parametrize(
    "extra, words", [("time_dim_concat", "time_dim_concat adds"), ("reference_latent", "a ReferenceLatent")]
)
def test_inputs_that_add_other_tokens_keep_isa_out(plain_wan, extra, words):
    network = plain_wan.model.diffusion_model
    assert words in native_layout(network, latent(), TEXT, context_latents=[latent(seed=1)], **{extra: latent()})


def test_wan_variants_with_their_own_forward_pass_through():
    with torch.device("meta"):
        vace = comfy.ldm.wan.model.VaceWanModel(
            dim=256, ffn_dim=512, num_heads=2, num_layers=2, text_dim=64, vace_layers=1, vace_in_dim=96,
            operations=comfy.ops.disable_weight_init,
        )  # fmt: skip
    assert not can_attach(holding(vace))


def holding(network):
    """Something with the one attribute chain that `can_attach` follows."""
    return type("Patcher", (), {"model": type("Model", (), {"diffusion_model": network})})


@pytest.fixture(scope="module")
def sdxl():
    """SDXL's own architecture with fewer channels: three levels, linear projections, text and size conditioning."""
    config = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 64, "adm_in_channels": 2816,
        "num_classes": "sequential", "use_linear_in_transformer": True, "use_spatial_transformer": True, "legacy": False,
        "use_temporal_attention": False, "num_head_channels": 32, "num_heads": -1, "dtype": torch.float32,
    }  # fmt: skip
    model = comfy.supported_models.SDXL(config).get_model({}, "")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.diffusion_model.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def test_sdxl_passes_through_the_node_unharmed(sdxl):
    from liveditor_isa.nodes.attach import AttachISA

    assert not can_attach(sdxl)
    node = AttachISA.PREPARE_CLASS_CLONE(None)
    given = {"enabled": True, "sharpness": "variance", "context_tail": "drop", "start_percent": 0.0, "end_percent": 1.0}
    given |= {"dense_blocks": "", "min_tokens": 0, "backend": "auto", "keep_ratio": 0.1, "exact_ratio": 0.1}
    out = node.execute(model=sdxl, routing={"routing": "ratio", "dense_query_ratio": 0.5}, **given).args[0]
    assert out is sdxl

    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    text = [[torch.randn(1, 7, 64), {"pooled_output": torch.zeros(1, 1280)}]]
    image = comfy.sample.sample(out, noise, 2, 4.0, "euler", "normal", text, text, noise * 0, seed=1)
    assert image.isfinite().all() and not torch.equal(image, noise)
