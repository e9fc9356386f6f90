"""Context reuse on real models: what a reuse computes, when a refresh is due, and where nothing may be kept."""

import gc
import weakref

import comfy.conds
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import pytest
import torch
from in_context import BLOCKS, FULL, STEPS, latent, relative_error, sample
from liveditor_isa.comfyui import attach
from liveditor_isa.comfyui.attach import OVERRIDE, attach_isa
from liveditor_isa.comfyui.context_reuse import MOST_PATCHES
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.runtime import decisions, kept_context
from liveditor_isa.runtime.kept_context import Keeping, Refresh, Reuse
from liveditor_isa.runtime.live import LiveSettings, Settings
from liveditor_isa.runtime.schedule import Schedule

SPARSE = ISAConfig(0.5, 0.5, 0.25)
BY_THRESHOLD = ISAConfig(0.5, sharpness_threshold=1e-4, exact_ratio=0.25)
"""By which a query block is dense or not whatever the other queries are."""
LARGEST = 10.0
"""A change that is never reached, but from pure noise: two refreshes, then reuses."""


def reusing(model, refresh, config=FULL, schedule=Schedule(), enabled=True, keeping=Keeping()):
    """(model, lines the node would show after each run)."""
    shown = []
    live = LiveSettings(Settings(config, enabled, refresh))
    return attach_isa(model, live, schedule, "torch", shown.append, keeping=keeping), shown


def counted(shown: list[str]) -> tuple[int, int]:
    """(refreshes, model calls) of the last run."""
    line = next(line for line in shown[-1].splitlines() if line.startswith("The context was computed in "))
    words = line.split()
    return int(words[5]), int(words[7])


# What it computes


@pytest.mark.slow
@pytest.mark.parametrize("config", [FULL, SPARSE], ids=["full", "sparse"])
def test_a_refresh_in_every_call_changes_no_bit(in_context_model, config):
    plain, _ = reusing(in_context_model, 0, config)
    always, shown = reusing(in_context_model, 2e-5, config)
    assert torch.equal(sample(plain), sample(always))
    refreshed, calls = counted(shown)
    assert refreshed == calls > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, schedule",
    [
        (FULL, Schedule()),
        (BY_THRESHOLD, Schedule()),
        (BY_THRESHOLD, Schedule(dense_blocks="0-1")),
        (BY_THRESHOLD, Schedule(min_tokens=10_000)),
        (ISAConfig(0.5, sharpness_threshold=1e-4, context_tail="taylor"), Schedule()),
    ],
    ids=["all exact", "sparse", "some blocks full", "all blocks full", "taylor"],
)
@pytest.mark.parametrize("contexts", [(latent(seed=1),), (latent(seed=1), latent(1, 10, 14, seed=2))], ids=["one", "two"])
def test_a_reuse_at_once_gives_what_the_refresh_gave(in_context_model, config, schedule, contexts, monkeypatch):
    """Every model call twice: the target alone over the context that was kept a moment ago."""
    errors = []

    def twice(run, sequence, passes, sigmas, call):
        refresh = Refresh()
        out = call(refresh)
        assert refresh.whole
        reuse = Reuse(refresh)
        errors.append(relative_error(call(reuse), out))
        assert reuse.whole
        return out

    monkeypatch.setattr(attach, "with_context_reuse", twice)
    model, _ = reusing(in_context_model, LARGEST, config, schedule)
    sample(model, contexts, steps=2)
    assert errors and max(errors) < 1e-5


@pytest.mark.slow
def test_few_refreshes_stay_near_the_result_without_reuse(in_context_model):
    plain = sample(reusing(in_context_model, 0)[0], steps=12)
    errors = []
    for refresh in (0.7, 1.5, LARGEST):
        model, shown = reusing(in_context_model, refresh)
        errors.append(relative_error(sample(model, steps=12), plain))
        refreshed, calls = counted(shown)
        assert refreshed < calls
    assert 0 < errors[0] <= errors[-1] < 0.3


@pytest.mark.slow
def test_results_do_not_depend_on_what_ran_before(in_context_model):
    model, _ = reusing(in_context_model, 1.5)
    first = sample(model)
    sample(model, contexts=(latent(seed=4),))
    assert torch.equal(sample(model), first)


@pytest.mark.slow
def test_a_batch_and_guidance_in_calls_of_their_own(in_context_model, monkeypatch):
    noise, contexts = latent(seed=9).repeat(2, 1, 1, 1, 1), (latent(seed=1).repeat(2, 1, 1, 1, 1),)
    model, shown = reusing(in_context_model, 1.5)
    together = sample(model, contexts, noise=noise)
    monkeypatch.setattr(in_context_model.model, "memory_required", lambda *_, **__: 1e30)
    apart = sample(model, contexts, noise=noise)
    assert relative_error(together[1], together[0]) == 0 and relative_error(apart, together) < 1e-5
    refreshed, calls = counted(shown)
    assert calls == 2 * STEPS and refreshed % 2 == 0


@pytest.mark.slow
def test_one_copy_for_both_passes(in_context_model, monkeypatch):
    """In one call or in two, with a batch: half is kept, and the result is near."""
    noise, contexts = latent(seed=9).repeat(2, 1, 1, 1, 1), (latent(seed=1).repeat(2, 1, 1, 1, 1),)
    (each, shown), (one, shown_one) = (
        reusing(in_context_model, 1.5, keeping=Keeping(copies=copies)) for copies in ("each", "one")
    )
    apart, together = sample(each, contexts, noise=noise), sample(one, contexts, noise=noise)
    assert 1e-5 < relative_error(together, apart) < 0.1 and counted(shown) == counted(shown_one)
    in_gb = [float(lines[-1].split("kept: ")[1].split(" GB")[0]) for lines in (shown, shown_one)]
    assert in_gb[1] == pytest.approx(in_gb[0] / 2, rel=0.02)
    always = reusing(in_context_model, 2e-5, keeping=Keeping(copies="one"))[0]
    assert torch.equal(sample(always), sample(reusing(in_context_model, 0)[0]))
    monkeypatch.setattr(in_context_model.model, "memory_required", lambda *_, **__: 1e30)
    assert relative_error(sample(one, contexts, noise=noise), together) < 1e-5


@pytest.mark.slow
def test_passes_whose_contexts_differ_keep_one_each(in_context_model, monkeypatch):
    """A negative prompt may be given another video of the same size."""
    given = {"contexts": (latent(seed=1),), "negative_contexts": (latent(seed=2),)}
    for _ in ("in one call", "in two"):
        each, one = (
            sample(reusing(in_context_model, 1.5, keeping=Keeping(copies=copies))[0], **given) for copies in ("each", "one")
        )
        assert torch.equal(each, one)
        monkeypatch.setattr(in_context_model.model, "memory_required", lambda *_, **__: 1e30)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_2m", "uni_pc", "euler_ancestral", "dpmpp_sde"])
def test_samplers_that_evaluate_more_often_or_add_noise(liveditor, sampler):
    model, shown = reusing(liveditor, 1.5)
    with torch.inference_mode():
        assert sample(model, sampler=sampler).isfinite().all()
    refreshed, calls = counted(shown)
    assert 0 < refreshed < calls


def test_a_live_change_acts_from_the_next_evaluation_on(liveditor):
    live = LiveSettings(Settings(FULL), {"": [(0, {}), (2, {"context_refresh": 10.0}), (4, {"context_refresh": 0.0})]})
    shown = []
    sample(attach_isa(liveditor, live, Schedule(), "torch", shown.append))
    refreshed, calls = counted(shown)
    assert calls % 2 == 0 and refreshed == calls // 2
    assert live.record()[""][1:] == [(2, {"context_refresh": 10.0}), (4, {"context_refresh": 0.0})]


def test_switched_off_it_is_the_model_without_isa(liveditor):
    model, shown = reusing(liveditor, LARGEST, enabled=False)
    assert torch.equal(sample(model), sample(liveditor))
    assert "The context was" not in shown[0]


# What must not be reused, and who is told


def test_a_target_as_long_as_the_text_is_told_from_it_by_its_context_alone(plain_wan, liveditor):
    """Core's own attention over the target would look like that to the text: nothing is kept, and the node says so."""
    noise = latent(1, 6, 6, seed=9)  # nine tokens, as the text has
    for model, refused in ((plain_wan, True), (liveditor, False)):
        reuse, shown = reusing(model, LARGEST)
        out = sample(reuse, (latent(seed=1),), noise=noise)
        assert ("the text has 9 tokens, as many as the target" in shown[0]) is refused
        if refused:
            assert torch.equal(out, sample(reusing(model, 0)[0], (latent(seed=1),), noise=noise))
        else:
            assert counted(shown)[0] == 2 * counted(shown)[1] // STEPS


def in_front_of(model, acts):
    """A clone of a model with ISA whose attention another node's override takes, where `acts(options)`."""
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    inner = options[OVERRIDE]

    def override(func, q, k, v, heads, *args, **kwargs):
        if acts(kwargs.get("transformer_options") or {}, q):
            return func(q, k, v, heads, *args, **kwargs)
        return inner(func, q, k, v, heads, *args, **kwargs)

    options[OVERRIDE] = override
    return clone


@pytest.mark.slow
def test_an_attention_that_another_node_takes_is_never_left_without_its_context(in_context_model):
    takes_block_2 = lambda options, q: options.get("block_index") == 2  # noqa: E731
    model, shown = reusing(in_context_model, LARGEST)
    with_none, _ = reusing(in_context_model, 0)
    assert torch.equal(sample(in_front_of(model, takes_block_2)), sample(in_front_of(with_none, takes_block_2)))
    assert "another node's patch answered for some transformer blocks" in shown[0]


@pytest.mark.slow
def test_an_attention_that_another_node_takes_only_in_a_reuse_is_found(in_context_model):
    """By its tokens, say. The call is repeated with its context, and the rest of the run keeps none."""
    tokens = latent(seed=9)[0, 0].numel() // 4
    takes_short = lambda options, q: q.shape[1] == tokens  # noqa: E731
    model, shown = reusing(in_context_model, LARGEST)
    plain, _ = reusing(in_context_model, 0)
    assert torch.equal(sample(in_front_of(model, takes_short)), sample(plain))
    assert "another node's patch answered for some transformer blocks" in shown[0]
    assert counted(shown)[0] == counted(shown)[1]


def skip(args, extra):
    return {"img": args["img"]}


def again(args, extra):
    return extra["original_block"]({**args, **extra["original_block"](args)})


@pytest.mark.parametrize("instead", [skip, again])
def test_a_block_that_another_node_leaves_out_or_runs_twice_keeps_no_context(liveditor, instead):
    def patched(model):
        clone = model.clone()
        clone.set_model_patch_replace(instead, "dit", "double_block", 1)
        return clone

    model, shown = reusing(liveditor, LARGEST)
    plain, _ = reusing(liveditor, 0)
    assert torch.equal(sample(patched(model), steps=3, cfg=1.0), sample(patched(plain), steps=3, cfg=1.0))
    assert "3 model calls could not reuse the context: another node's patch answered for some transformer blocks" in shown[0]


def test_where_gradients_are_recorded_nothing_is_kept(liveditor):
    """As some samplers let it be where the server's inference mode is missing."""
    model, shown = reusing(liveditor, LARGEST)
    sample(model, sampler="uni_pc")
    assert "could not reuse the context: gradients are recorded" in shown[0]


def test_without_context_nothing_is_kept(liveditor):
    model, shown = reusing(liveditor, LARGEST)
    assert torch.equal(sample(model, ()), sample(liveditor, ()))
    assert "no context tokens" in shown[0] and "could not reuse" not in shown[0], "said once"


# Whose it is, and how long


@pytest.fixture
def kept(monkeypatch) -> list[weakref.ref]:
    """Every tensor that was kept."""
    found, attended = [], kept_context.Refresh.attended

    def watched(self, block, *args):
        tokens = attended(self, block, *args)
        found.extend(weakref.ref(x.numbers) for x in self._held.get(block, ()))
        return tokens

    monkeypatch.setattr(kept_context.Refresh, "attended", watched)
    return found


def alive(kept) -> int:
    gc.collect()
    return sum(each() is not None for each in kept)


@pytest.mark.slow
@pytest.mark.parametrize("error", [None, RuntimeError, comfy.model_management.InterruptProcessingException])
def test_what_is_kept_is_freed_at_the_end_on_error_and_on_interrupt(liveditor, kept, error):
    model, _ = reusing(liveditor, LARGEST)
    seen = []

    def callback(step, *_):
        seen.append(alive(kept))
        if error and step == 2:
            raise error("stopped")

    def run():
        noise, context = latent(seed=9), {"context_latents": [latent(seed=1)]}
        positive = [[torch.ones(1, 9, 64), context]]
        comfy.sample.sample(
            model, noise, STEPS, 1.0, "euler", "simple", positive, positive, noise * 0, callback=callback, seed=1
        )

    if error:
        with pytest.raises(error):
            run()
    else:
        run()
    assert seen and min(seen[1:]) == 2 * BLOCKS and alive(kept) == 0


def test_a_damaged_refresh_that_runs_again_keeps_what_the_second_one_found(liveditor, kept, monkeypatch):
    """The guard against what is not finite repeats a call."""
    sparse = attach.in_context_sparse_attention
    calls = []

    def breaks_twice(q, *args, **kwargs):
        """The first transformer block's, in the first call that keeps something and in its repetition."""
        calls.append(q.shape)
        out, stats = sparse(q, *args, **kwargs)
        return (out.fill_(float("nan")) if len(calls) in (1 + BLOCKS, 1 + 2 * BLOCKS) else out), stats

    monkeypatch.setattr(attach, "in_context_sparse_attention", breaks_twice)
    model, shown = reusing(liveditor, LARGEST, SPARSE)
    assert sample(model, cfg=1.0).isfinite().all()
    assert counted(shown) == (2, STEPS) and "was not finite" in shown[0]


# Passes of guidance that a condition's name does not tell apart


def with_another_pass(model, change, begins: float = 1.0):
    """A clone whose guidance runs one more pass of the positive condition, changed, as some guidance nodes do, from noise level
    `begins` on."""
    clone = model.clone()

    def post_cfg(given):
        if given["sigma"].max() > begins:
            return given["denoised"]
        options = given["model_options"]
        conds, options = change([{**cond, "model_conds": dict(cond["model_conds"])} for cond in given["cond"]], options)
        (out,) = comfy.samplers.calc_cond_batch(given["model"], [conds], given["input"], given["sigma"], options)
        return given["denoised"] + 2 * (given["cond_denoised"] - out)

    clone.set_model_sampler_post_cfg_function(post_cfg, disable_cfg1_optimization=False)
    return clone


def another_text(conds, options):
    for cond in conds:
        cond["model_conds"]["c_crossattn"] = comfy.conds.CONDCrossAttn(cond["model_conds"]["c_crossattn"].cond * 0)
    return conds, options


def another_context(conds, options):
    for cond in conds:
        blank = [each * 0 for each in cond["model_conds"]["context_latents"].cond]
        cond["model_conds"]["context_latents"] = comfy.conds.CONDList(blank)
    return conds, options


def weaker(args, extra):
    out = extra["original_block"](args)
    return {"img": args["img"] + 0.1 * (out["img"] - args["img"])}


def another_network(conds, options):
    return conds, comfy.model_patcher.set_model_options_patch_replace(options.copy(), weaker, "dit", "double_block", 1)


@pytest.mark.slow
@pytest.mark.parametrize("change", [another_text, another_context, another_network])
@pytest.mark.parametrize("copies", ["each", "one"])
def test_a_pass_of_the_same_name_is_told_apart_by_what_it_is_given(in_context_model, change, copies):
    plain = sample(reusing(with_another_pass(in_context_model, change), 0)[0], cfg=1.0)
    keeping = Keeping(copies=copies)
    always, _ = reusing(with_another_pass(in_context_model, change), 2e-5, keeping=keeping)
    assert torch.equal(sample(always, cfg=1.0), plain)
    some, shown = reusing(with_another_pass(in_context_model, change), 1.5, keeping=keeping)
    assert relative_error(sample(some, cfg=1.0), plain) < 0.1
    refreshed, calls = counted(shown)
    assert refreshed < calls == 2 * STEPS


def without_a_block(conds, options):
    return conds, comfy.model_patcher.set_model_options_patch_replace(options.copy(), skip, "dit", "double_block", 1)


@pytest.mark.slow
@pytest.mark.parametrize("copies", ["each", "one"])
def test_beside_a_guidance_that_skips_layers_the_other_pass_reuses(liveditor, copies):
    model, shown = reusing(with_another_pass(liveditor, without_a_block), LARGEST, keeping=Keeping(copies=copies))
    assert sample(model, cfg=1.0).isfinite().all()
    assert counted(shown) == (2, STEPS)
    assert f"{STEPS} model calls could not reuse the context: another node's patch answered for some" in shown[0]


@pytest.mark.slow
def test_a_guidance_that_skips_layers_may_begin_where_the_context_is_reused(liveditor):
    """With one copy its first call meets a kept context: that reuse is wrong and computed again, and the others go on."""
    model, shown = reusing(with_another_pass(liveditor, without_a_block, 0.9), LARGEST, keeping=Keeping(copies="one"))
    assert sample(model, cfg=1.0).isfinite().all()
    refreshed, calls = counted(shown)
    assert refreshed < 3 and calls == STEPS


def others_each_time(conds, options):
    """A function, and a tensor, which cannot be compared with another one."""
    options = comfy.model_patcher.set_model_options_patch_replace(
        options.copy(), lambda args, extra: weaker(args, extra), "dit", "double_block", 1
    )
    options["transformer_options"]["patches"] = {"of_others": [torch.ones(2)]}
    return conds, options


@pytest.mark.slow
def test_patches_made_anew_at_every_step_do_not_pile_up(liveditor):
    model, shown = reusing(with_another_pass(liveditor, others_each_time), LARGEST)
    assert sample(model, cfg=1.0).isfinite().all()
    new = MOST_PATCHES - 1
    assert counted(shown) == (2 + new, STEPS + new)
    assert f"{STEPS - new} model calls could not reuse the context: {decisions.CHANGING_PATCHES}" in shown[0]


@pytest.mark.slow
def test_behind_a_wrapper_that_copies_the_options(in_context_model):
    """The network writes into a copy then, and the attentions alone say that it ran."""
    model, shown = reusing(in_context_model, LARGEST)
    copying = model.clone()
    copying.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL,
        "copying",
        lambda executor, x, t, text, clip_fea=None, time_dim_concat=None, transformer_options={}, **kwargs: executor(
            x, t, text, clip_fea, time_dim_concat, dict(transformer_options), **kwargs
        ),
    )
    assert relative_error(sample(copying), sample(model)) == 0
    refreshed, calls = counted(shown)
    assert refreshed < calls


def test_what_is_kept_is_freed_when_it_is_switched_off(in_context_model):
    shown, held = [], []
    live = LiveSettings(Settings(FULL, True, LARGEST))
    model = attach_isa(in_context_model, live, Schedule(), "torch", shown.append)

    def step(number, *_):
        gc.collect()
        held.append(sum(each.bytes for each in gc.get_objects() if isinstance(each, Refresh)))
        if number == 2:
            live.tell({"context_refresh": 0.0})

    sample(model, steps=6, cfg=1.0, callback=step)
    assert held[1] > 0 and held[-1] == 0
