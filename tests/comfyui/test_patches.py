"""Other people's patches, imitated from what they do in public, beside LIVEditor and Attach ISA: the same as by hand, or a sentence.

KJNodes' Enhance-A-Video and Sage patch, AutoGuidance's second model, TeaCache's skipped steps, block replacements; copies of
model options and overrides called in places where no sampler is.
"""

import copy
import gc
import pickle
import threading
import types
from collections import OrderedDict

import comfy.conds
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import comfy.supported_models
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from in_context import BLOCKS, FULL, STEPS, TEXT, attached, latent, relative_error, sample
from liveditor_isa.comfyui.architecture import LIVEditor, register
from liveditor_isa.comfyui.attach import KEY, OVERRIDE, Watcher, attach_isa
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.nodes import live as page
from liveditor_isa.runtime.call import ModelCall
from liveditor_isa.runtime.core_attention import with_isa
from liveditor_isa.runtime.in_context import CALL
from liveditor_isa.runtime.live import LiveSettings, Settings
from liveditor_isa.runtime.schedule import Schedule

WRAPPERS = comfy.patcher_extension.WrappersMP
SCALE = 1.25


def rows_of(model, config=ISAConfig(), schedule=Schedule()):
    """(attached model, lines shown, rows that a page would get)."""
    rows, shown = [], []

    class Rows(Watcher):
        def stepped(self, row):
            rows.append(row)

    return attach_isa(model, LiveSettings(Settings(config)), schedule, "torch", shown.append, Rows()), shown, rows


# Self-attention replaced (row 3)


def enhance_a_video(passes_options):
    """A `forward` in place of self-attention's: core's steps, and the result scaled by how alike the frames are, here by 1.25."""

    def forward(self, x, freqs, transformer_options={}):
        from comfy.ldm.flux.math import apply_rope1

        batch, tokens, heads, dim = *x.shape[:2], self.num_heads, self.head_dim
        q = apply_rope1(self.norm_q(self.q(x)).view(batch, tokens, heads, dim), freqs)
        k = apply_rope1(self.norm_k(self.k(x)).view(batch, tokens, heads, dim), freqs)
        options = {"transformer_options": transformer_options} if passes_options else {}
        out = optimized_attention(q.flatten(2), k.flatten(2), self.v(x), heads=heads, **options)
        return self.o(out) * SCALE

    return forward


def with_forward(model, forward):
    """As KJNodes does it: an object patch for every block."""
    clone = model.clone()
    for number, block in enumerate(model.model.diffusion_model.blocks):
        path = f"diffusion_model.blocks.{number}.self_attn.forward"
        clone.add_object_patch(path, types.MethodType(forward, block.self_attn))
    return clone


def with_scaled_output(model):
    """By hand: LIVEditor's own self-attention, its result scaled."""
    clone = model.clone()
    for number, block in enumerate(model.model.diffusion_model.blocks):
        own = type(block.self_attn).forward

        def forward(self, *args, own=own, **kwargs):
            return own(self, *args, **kwargs) * SCALE

        clone.add_object_patch(f"diffusion_model.blocks.{number}.self_attn.forward", types.MethodType(forward, block.self_attn))
    return clone


@pytest.mark.slow
def test_a_replaced_self_attention_keeps_the_residual(liveditor):
    expected = sample(with_scaled_output(liveditor))
    assert relative_error(sample(with_forward(liveditor, enhance_a_video(True))), expected) < 1e-5
    assert relative_error(expected, sample(liveditor)) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("order", ["patch first", "ISA first"])
def test_isa_acts_in_a_replaced_self_attention(liveditor, order):
    by_hand, _ = attached(with_scaled_output(liveditor))
    if order == "patch first":
        model, shown = attached(with_forward(liveditor, enhance_a_video(True)))
    else:
        model, shown = attached(liveditor)
        model = with_forward(model, enhance_a_video(True))
    assert relative_error(sample(model), sample(by_hand)) < 1e-5
    assert shown[0].startswith(f"ISA: {STEPS * BLOCKS} attention calls")


@pytest.mark.slow
def test_a_self_attention_past_cores_gets_its_residual_afterwards_and_that_is_said(liveditor, caplog):
    def unscaled(self, x, freqs, transformer_options={}):
        return enhance_a_video(False)(self, x, freqs) / SCALE

    model, shown = attached(with_forward(liveditor, unscaled))
    with caplog.at_level("WARNING"):
        assert relative_error(sample(model), sample(liveditor)) < 1e-4
    said = [record.message for record in caplog.records if "took LIVEditor's self-attention past" in record.message]
    assert len(said) == 1 and "unscaled" in said[0] and "ISA cannot act" in said[0]
    assert "ISA saw no in-context attention" in shown[0] and "place Attach ISA after" in shown[0]


def test_a_self_attention_of_other_tokens_is_refused_by_name(liveditor):
    def half(self, x, freqs, transformer_options={}):
        return x[:, ::2]

    with pytest.raises(RuntimeError, match=r"half took LIVEditor's self-attention .* remove the node that patches"):
        sample(with_forward(liveditor, half))


@pytest.mark.slow
def test_the_patch_leaves_no_trace(liveditor):
    before = sample(liveditor)
    sample(with_forward(liveditor, enhance_a_video(True)))
    assert torch.equal(sample(liveditor), before)


@pytest.mark.slow
def test_self_attention_called_by_its_forward_alone(liveditor):
    """As blocks of other nodes do, which then go past hooks."""

    def block(args, extra):
        own = liveditor.model.diffusion_model.blocks[1].self_attn
        hooked, own.__class__.__call__ = own.__class__.__call__, lambda self, *a, **k: self.forward(*a, **k)
        try:
            return extra["original_block"](args)
        finally:
            own.__class__.__call__ = hooked

    clone = liveditor.clone()
    clone.set_model_patch_replace(block, "dit", "double_block", 1)
    assert torch.equal(sample(clone), sample(liveditor))


# Overrides and blocks replaced


def with_override(model, override):
    clone = model.clone()
    clone.model_options["transformer_options"][OVERRIDE] = override
    return clone


@pytest.mark.slow
def test_an_override_that_never_passes_on_is_named(in_context_model):
    def sage_patch(func, *args, **kwargs):
        return func(*args, **kwargs)

    model, shown = attached(in_context_model)
    assert relative_error(sample(with_override(model, sage_patch)), sample(in_context_model)) < 1e-6
    assert "sage_patch took the attention and passed none on: place Attach ISA after" in shown[0]


@pytest.mark.slow
def test_a_block_replacement_that_calls_the_original(in_context_model):
    def instead(args, extra):
        out = extra["original_block"](args)["img"]
        return {"img": args["img"] + 0.8 * (out - args["img"])}

    def patched(model):
        clone = model.clone()
        for number in range(BLOCKS):
            clone.set_model_patch_replace(instead, "dit", "double_block", number)
        return clone

    first, shown = attached(patched(in_context_model))
    last, _ = attached(in_context_model)
    assert torch.equal(sample(first), sample(patched(last)))
    assert shown[0].startswith(f"ISA: {STEPS * BLOCKS} attention calls")
    full, _ = attached(patched(in_context_model), FULL)
    assert relative_error(sample(full), sample(patched(in_context_model))) < 1e-5


class Skipping:
    """As TeaCache: the network's answer of the last step that was computed, in every second one."""

    def __init__(self):
        self.calls, self.answer = 0, None

    def __call__(self, executor, *args, **kwargs):
        self.calls += 1
        if self.calls % 2 == 1:
            self.answer = executor(*args, **kwargs)
        return self.answer


@pytest.mark.slow
@pytest.mark.parametrize("order", ["cache first", "ISA first"])
def test_a_cache_that_skips_whole_model_calls(in_context_model, order):
    def cached(model):
        clone = model.clone()
        clone.add_wrapper_with_key(WRAPPERS.DIFFUSION_MODEL, "teacache", Skipping())
        return clone

    expected = sample(cached(in_context_model))
    if order == "cache first":
        model, shown, rows = rows_of(cached(in_context_model), FULL)
    else:
        model, shown, rows = rows_of(in_context_model, FULL)
        model = cached(model)
    assert relative_error(sample(model), expected) < 1e-5
    assert shown[0].startswith(f"ISA: {3 * BLOCKS} attention calls") and len(rows) == STEPS


# A second model in a guider (rows 5 and 7)


class AutoGuider(comfy.samplers.CFGGuider):
    """As AutoGuidance: the difference from a second model's answer.

    how: "own options", as they are on the second model, without its wrappers, which core adds when it samples; "prepared",
    with them; "merged", both models' put together; "nested", the second model has a guider, which is called in turn.
    """

    def __init__(self, model, other, how="own options"):
        super().__init__(model)
        self.other, self.how = other, how
        self.others = comfy.model_patcher.create_model_options_clone(other.model_options)
        if how != "own options":
            self.others["transformer_options"]["wrappers"] = comfy.patcher_extension.copy_nested_dicts(other.wrappers)

    def outer_sample(self, *args, **kwargs):
        if self.how == "merged":
            self.model_options = comfy.patcher_extension.merge_nested_dicts(self.model_options, self.others)
            self.others = comfy.patcher_extension.merge_nested_dicts(self.others, self.others)
        return super().outer_sample(*args, **kwargs)

    def predict_noise(self, x, timestep, model_options={}, seed=None):
        good = super().predict_noise(x, timestep, model_options, seed)
        if self.how == "nested":
            inner = comfy.samplers.CFGGuider(self.other)
            inner.inner_model, inner.conds, inner.cfg, inner.model_options = self.other.model, self.conds, self.cfg, self.others
            bad = inner(x, timestep, self.others, seed)
        else:
            bad = comfy.samplers.sampling_function(
                self.other.model, x, timestep, self.conds["negative"], self.conds["positive"], self.cfg,
                model_options=self.others, seed=seed,
            )  # fmt: skip
        return good + 0.5 * (good - bad)


def guided(guider, cfg=2.5, sigmas=(1.0, 0.8, 0.5, 0.0)):
    context = {"context_latents": [latent(seed=1)]}
    guider.set_conds([[TEXT, dict(context)]], [[TEXT * 0, dict(context)]])
    guider.set_cfg(cfg)
    noise = latent(seed=9)
    return guider.sample(noise, noise * 0, comfy.samplers.sampler_object("euler"), torch.tensor(sigmas), seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["prepared", "merged", "nested"])
def test_one_attach_isa_before_both_models_of_a_guider(in_context_model, how):
    model, shown, rows = rows_of(in_context_model, FULL)
    expected = guided(AutoGuider(in_context_model, in_context_model, how))
    assert relative_error(guided(AutoGuider(model, model, how)), expected) < 1e-5
    assert [row["at"] for row in rows] == [0, 1, 2] and all(row["tokens"] for row in rows)
    assert len(shown) == 1 and shown[0].startswith(f"ISA: {3 * 2 * BLOCKS} attention calls")


@pytest.mark.slow
def test_a_second_model_whose_wrappers_nobody_calls(in_context_model):
    model, shown, rows = rows_of(in_context_model, FULL)
    expected = guided(AutoGuider(in_context_model, in_context_model))
    assert relative_error(guided(AutoGuider(model, model)), expected) < 1e-5
    assert [row["at"] for row in rows] == [0, 1, 2] and len(shown) == 1
    if "LIVEditor" in type(in_context_model.model).__name__:  # which tells its layout itself
        assert shown[0].startswith(f"ISA: {3 * 2 * BLOCKS} attention calls")
    else:
        assert shown[0].startswith(f"ISA: {3 * BLOCKS} attention calls")
        assert "ISA left out 3 model calls: the model was called without the wrappers of Attach ISA" in shown[0]


def test_live_changes_count_evaluations_of_a_guider_with_two_models(liveditor):
    live = LiveSettings(Settings(FULL))
    told = []

    class Tell(Watcher):
        def stepped(self, row):
            if row["at"] == 0:
                told.append(live.tell({"keep_ratio": 0.5}))

    shown = []
    model = attach_isa(liveditor, live, Schedule(), "torch", shown.append, Tell())
    guided(AutoGuider(model, model, "nested"))
    assert told == [1] and "From model call 2: keep_ratio 0.5" in shown[0]


@pytest.mark.slow
def test_isa_on_the_second_model_alone(in_context_model):
    """Its sampling is somebody else's: ISA does what was set on the node, and nobody is told."""
    model, shown, rows = rows_of(in_context_model)
    out = guided(AutoGuider(in_context_model, model, "prepared"))
    assert out.isfinite().all() and not shown and not rows
    assert 1e-5 < relative_error(out, guided(AutoGuider(in_context_model, in_context_model)))


def apply_model(model, options):
    """One call of the model, where no sampler is."""
    options = {**options, "wrappers": model.wrappers} if len(options) > 1 else options
    base = model.model
    with torch.no_grad():
        return base.apply_model(
            latent(seed=9), torch.tensor([0.7]), c_crossattn=TEXT, context_latents=[latent(seed=1)], transformer_options=options
        )


@pytest.mark.parametrize("schedule", [Schedule(), Schedule(start_percent=0.2)])
def test_the_model_called_outside_of_a_sampler(in_context_model, schedule):
    plain = apply_model(in_context_model, {})
    model, shown = attached(in_context_model, FULL, schedule)
    options = model.model_options["transformer_options"]
    assert relative_error(apply_model(model, options), plain) < 1e-5
    assert relative_error(apply_model(model, {**options, "sigmas": torch.tensor([0.7])}), plain) < 1e-5
    assert not shown


def test_the_override_without_its_wrappers(liveditor):
    model, shown = attached(liveditor)
    whole = model.model_options["transformer_options"]
    assert torch.equal(apply_model(model, {OVERRIDE: whole[OVERRIDE]}), apply_model(model, whole))
    switched_off = attach_isa(liveditor, LiveSettings(Settings(ISAConfig(), False)), Schedule(), "torch", shown.append)
    only = {OVERRIDE: switched_off.model_options["transformer_options"][OVERRIDE]}
    assert torch.equal(apply_model(liveditor, only), apply_model(liveditor, {})) and not shown


def test_outer_sample_alone(liveditor):
    model, shown, rows = rows_of(liveditor, FULL)
    guider = comfy.samplers.CFGGuider(model)
    context = {"context_latents": [latent(seed=1)]}
    guider.set_conds([[TEXT, dict(context)]], [[TEXT * 0, dict(context)]])
    guider.set_cfg(2.5)
    guider.conds = {name: [cond.copy() for cond in conds] for name, conds in guider.original_conds.items()}
    own = model.model_options["transformer_options"]
    own["wrappers"] = comfy.patcher_extension.copy_nested_dicts(model.wrappers)
    before = set(own)
    noise = latent(seed=9)
    executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(
        guider.outer_sample, guider,
        comfy.patcher_extension.get_all_wrappers(WRAPPERS.OUTER_SAMPLE, guider.model_options, is_model_options=True),
    )  # fmt: skip
    with torch.no_grad():
        out = executor.execute(noise, noise * 0, comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.5, 0.0]))
    assert out.isfinite().all() and len(rows) == 2 and shown
    assert set(model.model_options["transformer_options"]) == before


# Copies (row 4)


@pytest.mark.slow
def test_deep_copied_model_options(in_context_model):
    model, shown = attached(in_context_model)
    expected = sample(model)
    copied = model.clone()
    copied.model_options = copy.deepcopy(model.model_options)
    assert torch.equal(sample(copied), expected) and len(shown) == 2 and shown[0] == shown[1]


def test_model_options_deep_copied_in_the_middle_of_a_run(liveditor):
    def deep(executor, x, timestep, model_options={}, seed=None):
        return executor(x, timestep, copy.deepcopy(model_options), seed)

    model, shown = attached(liveditor)
    expected = sample(model)
    model.add_wrapper_with_key(WRAPPERS.PREDICT_NOISE, "copies", deep)
    assert torch.equal(sample(model), expected) and shown[0] == shown[1]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pickle", "torch.save"])
def test_pickled_model_options(in_context_model, tmp_path, way):
    model, shown = attached(in_context_model, schedule=Schedule(end_percent=0.9))
    if way == "pickle":
        options, wrappers = pickle.loads(pickle.dumps((model.model_options, model.wrappers)))
    else:
        torch.save((model.model_options, model.wrappers), tmp_path / "options.pt")
        options, wrappers = torch.load(tmp_path / "options.pt", weights_only=False)
    other = in_context_model.clone()
    other.model_options, other.wrappers = options, wrappers
    assert torch.equal(sample(other), sample(model)) and len(shown) == 1


@pytest.mark.slow
def test_a_clone_of_a_clone_and_a_deep_copied_network(liveditor):
    model, _ = attached(liveditor)
    expected = sample(model)
    assert torch.equal(sample(model.clone().clone()), expected)
    network = copy.deepcopy(liveditor.model.diffusion_model)
    call = (latent(seed=9), torch.tensor([700.0]), TEXT)
    with torch.no_grad():
        one, two = (each(*call, context_latents=[latent(seed=1)]) for each in (liveditor.model.diffusion_model, network))
    assert torch.equal(one, two)


# Why nothing was done (row 6)


def test_no_steps_left_is_said(in_context_model):
    model, shown = attached(in_context_model)
    guider = comfy.samplers.CFGGuider(model)
    guided(guider, sigmas=(0.5,))
    assert "the sampler had no step to do: look at its steps" in shown[0] and "In-Context References" not in shown[0]


@pytest.mark.parametrize(
    "cond, words",
    [
        ({"reference_latents": [latent(1, seed=1)]}, "this model was given a ReferenceLatent, which is no context for ISA"),
        ({"context_latents": [latent(seed=1)], "time_dim_concat": latent(1)}, "time_dim_concat adds frames"),
        ({}, "no context tokens: connect In-Context References"),
    ],
)
def test_what_kept_isa_out_of_plain_wan_is_said(plain_wan, monkeypatch, cond, words):
    base = plain_wan.model
    if "time_dim_concat" in cond:  # of Wan variants, which core passes on alike
        extra = type(base).extra_conds
        frames = cond.pop("time_dim_concat")

        def with_frames(self, **kwargs):
            return {**extra(self, **kwargs), "time_dim_concat": comfy.conds.CONDRegular(frames)}

        monkeypatch.setattr(type(base), "extra_conds", with_frames)
    model, shown = attached(plain_wan)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds([[TEXT, dict(cond)]], [[TEXT * 0, dict(cond)]])
    guider.set_cfg(1.0)
    noise = latent(seed=9)
    try:
        guider.sample(noise, noise * 0, comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.5, 0.0]), seed=1)
    except RuntimeError:
        if "time_dim_concat" not in words:
            raise
        pytest.skip("core itself cannot run this combination")
    assert shown[0].startswith("ISA saw no in-context attention") and words in shown[0]


def test_text_as_long_as_the_sequence_is_said(plain_wan):
    model, shown = attached(plain_wan)
    guider = comfy.samplers.CFGGuider(model)
    text = torch.randn(1, 576, 64, generator=torch.Generator().manual_seed(3))
    guider.set_conds([[text, {"context_latents": [latent(seed=1)]}]], [[text, {"context_latents": [latent(seed=1)]}]])
    guider.set_cfg(1.0)
    noise = latent(seed=9)
    guider.sample(noise, noise * 0, comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.0]), seed=1)
    assert "the text has 576 tokens, as many as target and context have" in shown[0]


def test_a_mask_is_said(liveditor):
    def masking(func, q, k, v, heads, mask=None, **kwargs):
        mask = torch.zeros(1, 1, q.shape[1], k.shape[1]) if q.shape[1] == k.shape[1] else mask
        return isa(func, q, k, v, heads, mask=mask, **kwargs)

    model, shown = attached(liveditor)
    isa = model.model_options["transformer_options"][OVERRIDE]
    assert relative_error(sample(with_override(model, masking)), sample(liveditor)) < 1e-5
    assert f"{STEPS * BLOCKS} calls with full attention: it has a mask, which ISA does not know" in shown[0]


# Threads and training


@pytest.mark.slow
def test_threads_share_a_network_and_an_override(liveditor):
    """Fault 5 and the like: one call's schedule and layout must not be another's."""
    network = liveditor.model.diffusion_model
    model, _ = attached(liveditor, schedule=Schedule(start_percent=0.5))
    options = model.model_options["transformer_options"]
    contexts = ([latent(seed=1)], [latent(1, 12, 8, seed=2), latent(2, 16, 24, seed=3)])
    sigmas = (torch.tensor([0.95]), torch.tensor([0.3]))

    def call(number):
        given = {**options, "sigmas": sigmas[number % 2]}
        with torch.no_grad():
            return network(
                latent(seed=9), torch.tensor([700.0]), TEXT, context_latents=contexts[number // 2], transformer_options=given
            )

    expected = [call(number) for number in range(4)]
    assert relative_error(expected[0], expected[1]) > 1e-5
    wrong = []

    def work(first):
        for turn in range(12):
            number = (first + turn) % 4
            if not torch.allclose(call(number), expected[number], atol=1e-5):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert not wrong


def test_the_networks_default_options_are_nobodys(liveditor):
    network = liveditor.model.diffusion_model
    call = (latent(seed=9), torch.tensor([700.0]), TEXT)
    options = {}
    with torch.no_grad():
        network(*call, context_latents=[latent(seed=1)], transformer_options=options)
    assert not any(isinstance(value, ModelCall) for value in options.values()) and CALL not in options


def training_loss(network, options, seed, contexts):
    out = network(
        latent(2, 8, 8, seed=seed), torch.tensor([700.0]), TEXT, context_latents=contexts, transformer_options=options
    )
    return out.square().mean()


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["without", "with_isa", "attached"])
def test_checkpointed_blocks_over_mixed_layouts(in_context_model, isa):
    """As core's training node checkpoints: `forward` of every block replaced. Both calls share one dict of options."""
    network = in_context_model.model.diffusion_model
    config = ISAConfig(keep_ratio=0.5, dense_query_ratio=0.5, block_size=8)
    if isa == "with_isa":
        options = with_isa(config)
    elif isa == "attached":
        model = attached(in_context_model, config, Schedule(dense_blocks="1"))[0]
        options = {**model.model_options["transformer_options"], "wrappers": model.wrappers}
    else:
        options = {}
    contexts = ([latent(2, 8, 8, seed=1)], [latent(1, 8, 8, seed=2), latent(1, 8, 8, seed=3)])

    def gradients():
        network.zero_grad()
        sum(training_loss(network, options, seed, each) for seed, each in enumerate(contexts)).backward()
        return [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]

    was = [weight.requires_grad for weight in network.parameters()]
    training, comfy.model_management.in_training = comfy.model_management.in_training, True
    network.requires_grad_(True)
    try:
        plain = gradients()
        for block in network.blocks:

            def forward(*args, own=block.forward, **kwargs):
                return torch.utils.checkpoint.checkpoint(own, *args, use_reentrant=False, **kwargs)

            block.forward = forward
        found = gradients()
    finally:
        comfy.model_management.in_training = training
        for block in network.blocks:
            vars(block).pop("forward", None)
        network.zero_grad()
        for weight, value in zip(network.parameters(), was):
            weight.grad = None
            weight.requires_grad_(value)
    assert plain and len(found) == len(plain)
    assert all(torch.equal(one, two) for one, two in zip(plain, found))


# Faults of the house


def test_a_class_of_another_origin_that_is_called_liveditor_stays(monkeypatch):
    """Fault 8: core's own future one, say."""
    theirs = type("LIVEditor", (comfy.supported_models.WAN21_T2V,), {"__module__": "comfy.supported_models"})
    earlier = type("LIVEditor", (comfy.supported_models.WAN21_T2V,), {"registered_by": "liveditor_isa"})
    derived = type("Derived", (earlier,), {})
    monkeypatch.setattr(comfy.supported_models, "models", [theirs, earlier, derived, comfy.supported_models.WAN21_T2V])
    register()
    register()
    assert comfy.supported_models.models == [LIVEditor, theirs, derived, comfy.supported_models.WAN21_T2V]


@pytest.mark.slow
def test_the_table_of_runs_is_read_while_runs_begin(monkeypatch):
    """Fault 10."""
    monkeypatch.setattr(page, "RUNS", OrderedDict())
    monkeypatch.setattr(page, "MOST_RUNS", 400)
    run = page.Run(LiveSettings(Settings(ISAConfig())), "workflow", "client", page.RunMaps([]))
    errors, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            try:
                page.events_of("workflow", "client"), page.with_live_changes({}, "execution"), run.maps.listed()
            except RuntimeError as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(3)]
    [thread.start() for thread in threads]
    encoded = page.EncodedMap(b"0", b"0", b"0", b"0", (0.0, 1.0), 1.0)
    for number in range(3000):
        page._remember(str(number), "5", page.Run(run.live, "workflow", "client", page.RunMaps([])))
        run.maps.add(number, 0, encoded)
    stop.set()
    [thread.join() for thread in threads]
    assert not errors


def test_nothing_of_a_call_is_held_after_it(liveditor):
    model, _ = attached(liveditor)
    override = model.model_options["transformer_options"][OVERRIDE]
    sample(model, steps=1)
    held = [vars(override), *(vars(wrapper.__self__) for wrapper in model.wrappers[WRAPPERS.OUTER_SAMPLE][KEY])]
    gc.collect()
    assert not any(isinstance(value, (torch.Tensor, ModelCall)) for values in held for value in values.values())
    assert {"live", "schedule", "backend", "previous", "notify", "watcher", "keeping", "acting"} == set(vars(override))
