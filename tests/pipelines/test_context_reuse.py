"""Context reuse of diffusers transformers: LIVEditor's, FLUX Kontext's and Qwen-Image-Edit's."""

import copy
import gc
import inspect

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from diffusers.hooks import HookRegistry, ModelHook, apply_first_block_cache
from in_context_models import FULL, SPARSE, difference, flux, liveditor, noise, qwen
from liveditor_isa.isa_core import ISAConfig, TokenLayout
from liveditor_isa.pipelines import sampling_run
from liveditor_isa.pipelines.attention import attach_isa
from liveditor_isa.pipelines.context_reuse import MOST_PASSES, _current
from liveditor_isa.pipelines.pipeline import LIVEditorPipeline
from liveditor_isa.runtime import kept_context
from liveditor_isa.runtime.call import layouts_seen
from liveditor_isa.runtime.kept_context import KEEPING_COPIES, Keeping, Refresh
from peft import LoraConfig

LARGEST = 10
BY_THRESHOLD = ISAConfig(keep_ratio=0.3, sharpness_threshold=0.1, block_size=16)
"""A share of the queries is another one where only the target's run."""


def qwen_of_a_large_image():
    """Its text stands behind the largest image, which is the context's."""
    model, arguments, blocks = qwen()
    sizes = [(1, 8, 8), (1, 12, 8)]
    return model, {**arguments, "hidden_states": noise(1, 64 + 96, 16), "img_shapes": [sizes]}, blocks


MODELS = [flux, qwen, qwen_of_a_large_image, liveditor]


@pytest.fixture(params=MODELS, ids=lambda make: make.__name__)
def case(request):
    return request.param()


def at(model, arguments, level, **changed):
    """The target's part of a call's output at a noise level."""
    scale = 1000 if "context_latents" in arguments else 1
    with torch.no_grad():
        out = model(**{**arguments, "timestep": torch.tensor([scale * level]), **changed}).sample
    return out if scale == 1000 else out[:, :64]


@pytest.mark.parametrize("config", [FULL, BY_THRESHOLD], ids=["exact", "sparse"])
@pytest.mark.parametrize("min_tokens", [0, 10_000])
def test_a_reuse_at_once_gives_what_the_refresh_gave(case, config, min_tokens):
    model, arguments, _ = case
    isa = attach_isa(model, config, min_tokens=min_tokens, context_refresh=1)
    with sampling_run():
        whole = at(model, arguments, 0.5)
        with layouts_seen() as seen:
            alone = at(model, arguments, 0.5)
    assert difference(whole, alone) < 1e-5 and seen[0].context
    assert "The context was computed in 1 of 2 model calls, and reused in the others" in isa.report()


def test_the_target_runs_alone(case):
    """Half of the arithmetic is the purpose: the blocks see the target's tokens only."""
    model, arguments, _ = case
    attach_isa(model, FULL, min_tokens=0, context_refresh=1)
    widths, blocks = [], getattr(model, "transformer_blocks", None) or model.blocks
    hook = blocks[0].register_forward_pre_hook(
        lambda block, args, kwargs: widths.append((*args, *kwargs.values())[0].shape[1]), with_kwargs=True
    )
    with sampling_run():
        at(model, arguments, 0.5), at(model, arguments, 0.5)
    hook.remove()
    assert widths[1] == (40 if "context_latents" in arguments else 64) < widths[0]


def test_a_refresh_at_every_call_changes_no_bit(case):
    model, arguments, _ = case
    isa = attach_isa(model, SPARSE, min_tokens=0)
    plain = [at(model, arguments, level) for level in (0.9, 0.5, 0.1)]
    isa.context_refresh = 1e-3
    with sampling_run():
        for level, expected in zip((0.9, 0.5, 0.1), plain):
            assert torch.equal(at(model, arguments, level), expected)
    assert "computed in 3 of 3 model calls" in isa.report()


def test_in_8_bits_it_is_near(case):
    model, arguments, _ = case
    isa = attach_isa(model, FULL, min_tokens=0, context_refresh=LARGEST, keeping=Keeping(dtype="int8"))
    with sampling_run():
        assert 0 < difference(at(model, arguments, 0.5), at(model, arguments, 0.5)) < 0.01
    assert "computed in 1 of 2 model calls" in isa.report()


def test_without_room_all_tokens_run(case, monkeypatch):
    model, arguments, _ = case
    monkeypatch.setattr(kept_context, "_home", lambda *needed: None)
    isa = attach_isa(model, FULL, min_tokens=0, context_refresh=LARGEST)
    with sampling_run():
        assert torch.equal(at(model, arguments, 0.5), at(model, arguments, 0.5))
    assert "2 model calls could not reuse the context: neither the GPU nor main memory" in isa.report()


def test_passes_of_guidance_have_a_context_each(case):
    model, arguments, _ = case
    isa = attach_isa(model, FULL, min_tokens=0, context_refresh=1)
    text = arguments["encoder_hidden_states"]
    other = torch.roll(text, 1, 1)
    whole = [at(model, arguments, 0.5, encoder_hidden_states=each) for each in (text, other)]
    with sampling_run():
        for each, expected in [*zip((text, other), whole)] * 2:
            found = at(model, arguments, 0.5, encoder_hidden_states=each.clone())  # as a conversion to bf16 makes new ones
            assert difference(expected, found) < 1e-5
    assert "computed in 2 of 4 model calls" in isa.report()


def test_one_copy_for_all_passes(case):
    model, arguments, _ = case
    text = arguments["encoder_hidden_states"]
    passes = [(level, each) for level in (0.5, 0.4) for each in (text, torch.roll(text, 1, 1))]
    found, kept = {}, {}
    for copies in KEEPING_COPIES:
        isa = attach_isa(model, FULL, min_tokens=0, context_refresh=1, keeping=Keeping(copies=copies))
        with sampling_run():
            found[copies] = [at(model, arguments, level, encoder_hidden_states=each) for level, each in passes]
            kept[copies] = sum(_current.get().contexts.held)
        assert "computed in 2 of 4 model calls" in isa.report()
        isa.detach()
    *same, each = zip(found["each"], found["one"])
    assert all(torch.equal(one, other) for one, other in same) and 0 < difference(*each) < 0.2
    assert kept["each"] == 2 * kept["one"] > 0


@pytest.mark.slow
def test_passes_that_differ_in_their_pictures_have_a_context_each(case):
    """As guidance on the pictures has them, or an edit of another picture in the same run."""
    model, arguments, _ = case
    isa = attach_isa(model, FULL, min_tokens=0, context_refresh=LARGEST)
    if "context_latents" in arguments:
        changed = {"context_latents": [latent * 0 for latent in arguments["context_latents"]]}
    else:
        changed = {"hidden_states": arguments["hidden_states"].clone()}
        changed["hidden_states"][:, 64:] = 0
    expected = at(model, arguments, 0.5, **changed)
    with sampling_run():
        at(model, arguments, 0.5)
        assert torch.equal(at(model, arguments, 0.5, **changed), expected)
    assert "computed in 2 of 2 model calls" in isa.report()


def test_pooled_texts_are_told_apart():
    model, arguments, _ = flux()
    isa = attach_isa(model, FULL, min_tokens=0, context_refresh=LARGEST)
    with sampling_run():
        at(model, arguments, 0.5), at(model, arguments, 0.5, pooled_projections=noise(1, 8, seed=5))
    assert "computed in 2 of 2 model calls" in isa.report()


def test_a_model_that_makes_several_pictures_is_computed_whole():
    model, arguments, _ = qwen(use_layer3d_rope=True)
    sizes = [(1, 8, 8), (1, 8, 8), (1, 4, 6)]
    isa = attach_isa(model, FULL, min_tokens=0, context_refresh=LARGEST)
    with sampling_run():
        whole = at(model, {**arguments, "img_shapes": [sizes]}, 0.5)
        assert torch.equal(at(model, {**arguments, "img_shapes": [sizes]}, 0.5), whole)
    assert "2 model calls could not reuse the context: it is not known" in isa.report()


def test_what_was_kept_is_of_one_run_and_freed_at_its_end(case):
    model, arguments, _ = case
    isa = attach_isa(model, FULL, min_tokens=0, context_refresh=LARGEST)
    for _ in range(2):
        with sampling_run():
            at(model, arguments, 0.5)
    assert "computed in 2 of 2 model calls" in isa.report()
    with pytest.raises(ZeroDivisionError), sampling_run():
        at(model, arguments, 0.5)
        1 / 0  # noqa: B018
    gc.collect()
    assert not [held for held in gc.get_objects() if type(held) is Refresh and held.whole]


def test_outside_of_a_run_nothing_is_kept(case):
    model, arguments, _ = case
    plain = at(model, arguments, 0.5)
    isa = attach_isa(model, FULL, min_tokens=10_000, context_refresh=LARGEST)
    assert torch.equal(at(model, arguments, 0.5), plain) and torch.equal(at(model, arguments, 0.5), plain)
    assert "2 model calls could not reuse the context: nobody said where the sampling run begins" in isa.report()


def test_with_gradients_all_tokens_run(case):
    model, arguments, _ = case
    isa = attach_isa(model, FULL, min_tokens=0, context_refresh=LARGEST)
    with sampling_run():
        model(**arguments), model(**arguments)
    assert "2 model calls could not reuse the context: gradients are recorded" in isa.report()


@pytest.mark.parametrize(
    "add", [lambda model, config: model.enable_cache(config), apply_first_block_cache], ids=["enabled", "hook"]
)
def test_a_cache_of_diffusers_is_left_to_itself(case, add):
    model, arguments, _ = case
    isa = attach_isa(model, FULL, min_tokens=0, context_refresh=LARGEST)
    add(model, FirstBlockCacheConfig(threshold=1e-6))
    with sampling_run(), model.cache_context("cond"):
        at(model, arguments, 0.5), at(model, arguments, 0.5)
    assert "2 model calls could not reuse the context: a hook of diffusers" in isa.report()


LEVELS = (0.9, 0.5, 0.1)


def with_adapter(model):
    names = ["to_q", "to_k", "to_v"]
    model.add_adapter(LoraConfig(r=4, lora_alpha=16, target_modules=names, init_lora_weights=False))


def without_lora(model, arguments, level):
    model.disable_lora()
    try:
        return at(model, arguments, level)
    finally:
        model.enable_lora()


def with_lora_scaled_to_nothing(model, arguments, level):
    name = next(name for name in inspect.signature(type(model).forward).parameters if name.endswith("attention_kwargs"))
    return at(model, arguments, level, **{name: {"scale": 0.0}})


@pytest.mark.parametrize("other_pass", [without_lora, with_lora_scaled_to_nothing])
def test_a_pass_with_other_loras_has_a_context_of_its_own(case, other_pass):
    model, arguments, _ = case
    with_adapter(model)
    isa = attach_isa(model, FULL, min_tokens=0)

    def run():
        return [call(model, arguments, level) for level in LEVELS for call in (at, other_pass)]

    plain, isa.context_refresh = run(), 1e-3
    with sampling_run():
        assert all(map(torch.equal, run(), plain))
    assert "computed in 6 of 6 model calls" in isa.report()


@pytest.mark.parametrize("name", ["SkipLayerGuidance_0", "SmoothedEnergyGuidance_0"])
def test_a_guidance_that_hooks_the_transformer_in_one_pass(case, name):
    """As diffusers' guiders do it: the hook comes and goes, and that pass is computed in full."""
    model, arguments, _ = case
    isa = attach_isa(model, FULL, min_tokens=0)
    blocks = getattr(model, "transformer_blocks", None) or model.blocks

    class Weaker(ModelHook):
        def post_forward(self, module, output):
            return tuple(each * 0.5 for each in output) if isinstance(output, tuple) else output * 0.5

    def run():
        found = []
        for level in LEVELS:
            found.append(at(model, arguments, level))
            registry = HookRegistry.check_if_exists_or_initialize(blocks[0])
            registry.register_hook(Weaker(), name)
            found.append(at(model, arguments, level))
            registry.remove_hook(name, recurse=False)
        return found

    plain, isa.context_refresh = run(), 1e-3
    with sampling_run():
        assert all(map(torch.equal, run(), plain))
    assert "3 model calls could not reuse the context: a hook of diffusers" in isa.report()


def test_a_text_that_is_changed_in_place_is_another_one(case):
    model, arguments, _ = case
    isa, text = attach_isa(model, FULL, min_tokens=0), arguments["encoder_hidden_states"].clone()
    given = {**arguments, "encoder_hidden_states": text}
    isa.context_refresh = LARGEST
    with sampling_run():
        at(model, given, 0.5)
        text.mul_(-3)
        changed = at(model, given, 0.45)
    isa.context_refresh = 0
    assert torch.equal(changed, at(model, given, 0.45))


def test_a_text_that_changes_step_by_step_fills_no_memory():
    model, arguments, _ = flux()
    isa = attach_isa(model, FULL, min_tokens=0, context_refresh=LARGEST)
    with sampling_run():
        for seed in range(MOST_PASSES + 2):
            at(model, arguments, 0.5, encoder_hidden_states=noise(1, 9, 32, seed=seed))
    assert "2 model calls could not reuse the context: the text or the pictures change from step to step" in isa.report()


def test_a_masked_attention_is_seen():
    model, arguments, _ = flux()
    isa = attach_isa(model, FULL, min_tokens=0, context_refresh=LARGEST)
    masked = {"joint_attention_kwargs": {"attention_mask": torch.ones(1, 1, 1, 161, dtype=torch.bool)}}
    with sampling_run():
        whole = at(model, arguments, 0.5, **masked)
        assert torch.equal(at(model, arguments, 0.5, **masked), whole)
    assert "2 model calls could not reuse the context: some of the transformer's attentions are masked" in isa.report()


@pytest.mark.parametrize("mask", [[1] * 9, [1] * 6 + [0] * 3, [1, 0] * 4 + [1]])
def test_a_context_is_reused_beside_a_text_that_is_hidden_in_part(mask):
    model, arguments, _ = qwen()
    arguments = {**arguments, "encoder_hidden_states_mask": torch.tensor([mask])}
    isa = attach_isa(model, FULL, min_tokens=0, context_refresh=LARGEST)
    with sampling_run():
        whole = at(model, arguments, 0.5)
        assert difference(whole, at(model, arguments, 0.5)) < 1e-5
        at(model, {**arguments, "encoder_hidden_states_mask": None}, 0.5)
    assert "computed in 2 of 3 model calls" in isa.report()


def test_a_mask_that_comes_later_is_refused():
    """The reuse has begun then, and its result would be wrong."""
    model, arguments, _ = flux()
    attach_isa(model, FULL, min_tokens=0, context_refresh=LARGEST)
    mask = torch.ones(1, 1, 1, 73, dtype=torch.bool)
    with sampling_run(), pytest.raises(RuntimeError, match="could not be reused: .* set context_refresh to 0"):
        at(model, arguments, 0.5)
        at(model, arguments, 0.5, joint_attention_kwargs={"attention_mask": mask})


def test_a_layout_of_the_callers_own_and_control_are_computed_whole():
    model, arguments, _ = flux()
    isa = attach_isa(model, FULL, layout=TokenLayout(73, (64, 24)), min_tokens=0, context_refresh=LARGEST)
    with sampling_run():
        at(model, arguments, 0.5), at(model, arguments, 0.5)
    assert "2 model calls could not reuse the context: it is not known which arguments" in isa.report()
    isa = attach_isa(model, FULL, min_tokens=0, context_refresh=LARGEST)
    with sampling_run():
        at(model, arguments, 0.5), at(model, arguments, 0.5, controlnet_block_samples=[torch.zeros(1, 152, 32)])
    assert "1 model calls could not reuse the context: it is not known which arguments" in isa.report()


def test_a_copy_reuses_what_it_kept_itself(case):
    model, arguments, _ = case
    attach_isa(model, FULL, min_tokens=0, context_refresh=LARGEST)
    copied = copy.deepcopy(model)
    with sampling_run():
        at(model, arguments, 0.5)
        at(copied, arguments, 0.5), at(copied, arguments, 0.5)
    assert "computed in 1 of 2 model calls" in copied.attached_isa.report()


def test_detaching_leaves_nothing(case):
    model, arguments, _ = case
    plain = at(model, arguments, 0.5)
    attach_isa(model, FULL, min_tokens=0, context_refresh=LARGEST).detach()
    with sampling_run():
        assert torch.equal(at(model, arguments, 0.5), plain) and torch.equal(at(model, arguments, 0.5), plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("value", [-1, 11, "much"])
def test_a_setting_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="context_refresh must be a number from 0 to 10"):
        attach_isa(flux()[0], context_refresh=value)


# The pipeline


@pytest.mark.slow
def test_the_pipeline_reuses_contexts_and_stays_near():
    pipe = LIVEditorPipeline.included(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    isa = attach_isa(pipe.transformer)
    frames = torch.rand(5, 3, 64, 96, generator=torch.Generator().manual_seed(1))

    def edited():
        generator = torch.Generator().manual_seed(7)
        options = {"width": 96, "height": 64, "num_inference_steps": 8, "guidance_scale": 1.5, "output_type": "latent"}
        return pipe(frames, "Make the video look like sunset", generator=generator, **options).frames

    plain, found = edited(), []
    isa.report()
    for refresh in (1, 2, 4):
        isa.context_refresh = refresh
        found.append(difference(plain, edited()))
        again = edited()  # nothing of the first run is left
        assert difference(plain, again) == found[-1]
        told = isa.report().split("The context was computed in ")[1].split(",")[0]
        assert told.endswith("of 32 model calls") and int(told.split()[0]) < 32
    assert 0 < found[0] < found[1] < found[2] < 0.3
