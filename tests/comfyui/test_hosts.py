"""Core's in-context networks with ISA: their layouts as they run, what stays exact, what is declined, and their heat maps."""

from dataclasses import replace
from types import SimpleNamespace

import comfy.controlnet
import comfy.ldm.minimax.model as minimax_of_core
import pytest
import torch
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT
from comfy_extras.nodes_torch_compile import TorchCompileModel
from core_models import CASES, FLUX2, drawn, flat, run
from in_context import attached, relative_error
from liveditor_isa.comfyui import attach, memory
from liveditor_isa.comfyui.attach import Watcher, attach_isa, can_attach
from liveditor_isa.comfyui.hosts import ltx, minimax
from liveditor_isa.comfyui.hosts.parts import frames_of
from liveditor_isa.comfyui.model_call import Arguments
from liveditor_isa.isa_core import ISAConfig, TokenLayout, dense_attention
from liveditor_isa.runtime import decisions
from liveditor_isa.runtime.finite import tensors_of
from liveditor_isa.runtime.heatmap import EVERY_BLOCK
from liveditor_isa.runtime.kept_context import Keeping, Refresh, Reuse
from liveditor_isa.runtime.live import LiveSettings, Settings
from liveditor_isa.runtime.schedule import Schedule

STEPS = 2
KEEPING = ("scail2", "minimax", "flux", "qwen")
"""Cases whose context can be kept."""

BY_THRESHOLD = ISAConfig(0.5, sharpness_threshold=1e-4, exact_ratio=0.25, block_size=16)
"""By which a query block is dense or not whatever the other queries are."""

FULL, SPARSE = ISAConfig(1, 1, 1, block_size=16), ISAConfig(0.3, 0.3, 0.2, block_size=16)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A run, its model, and its sample without ISA."""
    found = (CASES | FLUX2)[request.param]()
    model = found.model()
    return SimpleNamespace(name=request.param, run=found, model=model, plain=flat(run(model, found)))


@pytest.fixture
def calls(monkeypatch):
    """(layout, q, k, v, output) of every sparse attention."""
    seen, real = [], attach.in_context_sparse_attention

    def watched(q, k, v, *, layout, **options):
        out, stats = real(q, k, v, layout=layout, **options)
        seen.append((layout, q, k, v, out))
        return out, stats

    monkeypatch.setattr(attach, "in_context_sparse_attention", watched)
    return seen


def test_ratios_of_one_are_full_attention(case):
    assert can_attach(case.model)
    model, shown = attached(case.model, FULL)
    assert relative_error(flat(run(model, case.run)), case.plain) < 1e-5
    assert shown[0].startswith(f"ISA: {STEPS * case.run.attentions} attention calls at 100.0% density"), shown[0]


def test_the_layout_is_the_calls_own_and_exact_rows_are_exact(case, calls):
    model, _ = attached(case.model, SPARSE)
    assert 1e-3 < relative_error(flat(run(model, case.run)), case.plain) < 0.5
    assert len(calls) == STEPS * case.run.attentions
    for layout, q, k, v, out in calls:
        assert layout == TokenLayout.of(*case.run.layout) and q.shape[1] == layout.total
        full = dense_attention(q, k, v)
        for start, tokens in layout.spans("exact"):
            torch.testing.assert_close(out[:, start : start + tokens], full[:, start : start + tokens])
        (start, tokens), *_ = layout.spans("target")
        assert relative_error(out[:, start : start + tokens], full[:, start : start + tokens]) > 1e-3


def test_without_the_node_and_switched_off_nothing_changes(case):
    model, shown = attached(case.model, SPARSE, Schedule(dense_blocks="0-99"))
    assert torch.equal(flat(run(model, case.run)), case.plain) and "dense_blocks" in shown[0]
    attached(case.model, SPARSE)
    assert torch.equal(flat(run(case.model, case.run)), case.plain)


def test_dense_blocks_count_all_blocks_of_a_network(case):
    model, shown = attached(case.model, SPARSE, Schedule(dense_blocks="-1"))
    run(model, case.run)
    assert shown[0].startswith(f"ISA: {STEPS * (case.run.attentions - 1)} attention calls")
    assert f"{STEPS} calls with full attention: dense_blocks -1" in shown[0]


def test_heat_maps_lie_over_the_right_frames(case):
    class Watching(Watcher):
        def started(self, live, steps, parts):
            self.parts, self.maps = parts, []
            return EVERY_BLOCK

        def mapped(self, at, blocks, maps):
            self.maps.append((blocks, maps.tensor()))

    watcher = Watching()
    model = attach_isa(case.model, LiveSettings(Settings(SPARSE)), Schedule(), "torch", lambda _: None, watcher)
    run(model, case.run)
    assert [part.grid for part in watcher.parts] == case.run.parts
    assert len(watcher.maps) == STEPS
    blocks = [-(-part.tokens // 16) for part in watcher.parts]
    for numbers, maps in watcher.maps:
        assert numbers == [-1, *range(case.run.attentions)] and maps.shape[2] == sum(blocks)
        assert not maps[:, 0, : blocks[0]].any() and maps[:, 0, blocks[0] :].any()
    for part, latent in zip(watcher.parts[1:], case.run.latents, strict=True):
        if latent is None:
            assert part.frames is None
        else:
            assert (
                torch.equal(part.frames, frames_of(latent, case.model.model.latent_format)) and len(part.frames) == part.grid[0]
            )


def reusing(model, config, refresh: float, keeping: Keeping = Keeping()):
    shown = []
    live = LiveSettings(Settings(config, context_refresh=refresh))
    return attach_isa(model, live, Schedule(), "torch", shown.append, keeping=keeping), shown


@pytest.mark.parametrize("case", [name for name in CASES if name not in KEEPING], indirect=True)
def test_a_context_that_cannot_be_kept_is_said(case):
    model, shown = reusing(case.model, FULL, 1.0)
    assert relative_error(flat(run(model, case.run)), case.plain) < 1e-5
    assert f"{STEPS} model calls could not reuse the context: {decisions.NO_REUSE}" in shown[0]


MASKS = {"ref_mask_28ch": drawn(1, 4, 28, 8, 12, seed=7), "driving_mask_28ch": drawn(1, 3, 28, 4, 6, seed=8), "ref_mask_flag": False,
         "clip_vision_output": SimpleNamespace(penultimate_hidden_states=drawn(1, 257, 1280, seed=9))}  # fmt: skip
"""Of SCAIL-2's reference and target, and of its pose video, with which it replaces a person; and what CLIP sees."""


@pytest.mark.parametrize("case, more, batch", [
    ("scail2", {}, 2),
    ("scail2", MASKS, 1),
    ("minimax", {}, 1),
    ("minimax", {"minimax_token_tags": torch.tensor([1, 1, 0, 0, 1, 2, 1, 0, 1])}, 1),
    ("flux", {"reference_latents_method": "index"}, 2),
    ("flux2", {"reference_latents_method": "index"}, 1),
    ("flux2", {"reference_latents_method": "index_timestep_zero"}, 2),
    ("qwen", {"reference_latents_method": "index_timestep_zero"}, 2),
], indirect=["case"])  # fmt: skip
@pytest.mark.parametrize("config", [FULL, BY_THRESHOLD], ids=["full", "sparse"])
def test_a_kept_context_gives_at_once_what_the_whole_sequence_gave(case, config, more, batch, monkeypatch):
    """Every model call twice: text and target alone over the context that was kept a moment ago. Other nodes' functions see all tokens."""
    errors, seen = [], set()

    def twice(run, sequence, passes, sigmas, call):
        refresh = Refresh()
        out = call(refresh)
        assert refresh.whole
        reuse = Reuse(refresh)
        errors.append(relative_error(*(torch.cat([x.flatten() for x in tensors_of(each)]) for each in (call(reuse), out))))
        assert reuse.whole
        return out

    def watched(args):
        seen.add(args["img"].shape[1])
        return args

    monkeypatch.setattr(attach, "with_context_reuse", twice)
    model, _ = reusing(case.model, config, 1.0)
    model.set_model_patch(watched, "double_block")
    noise = case.run.noise if batch == 1 else torch.cat([case.run.noise, case.run.noise.flip(-1)])
    run(model, replace(case.run, noise=noise), condition=case.run.condition | more)
    assert len(errors) == STEPS and max(errors) < 1e-5
    images = sum(tokens for kind, tokens in case.run.layout if kind != "exact")
    assert seen <= {images}  # FLUX and MiniMax H3 have no such place


@pytest.mark.parametrize("case", KEEPING, indirect=True)
def test_beside_skip_layer_guidance_the_other_pass_reuses(case):
    model, shown = reusing(case.model, FULL, 10.0)
    run(SkipLayerGuidanceDiT.execute(model, 3.0, 0.0, 1.0, "0", "", 0.0).args[0], case.run, 6)
    assert "computed in 2 of 6 model calls" in shown[0]
    assert f"6 model calls could not reuse the context: {decisions.PARTS_LEFT_OUT}" in shown[0]


@pytest.mark.parametrize("case", KEEPING, indirect=True)
def test_passes_with_unlike_texts_may_share_one_copy(case):
    """H3's positions are counted from the text's end, so that its passes keep one each."""
    import comfy.sample

    words = [[[text, dict(case.run.condition)]] for text in (case.run.text, case.run.text[:, :4])]

    def sampled(model):
        return flat(
            comfy.sample.sample(
                model, case.run.noise, 6, 2.0, "euler", "simple", *words, case.run.noise * 0, noise_mask=case.run.mask, seed=1
            )
        )

    models = [reusing(case.model, FULL, 10.0, Keeping(copies=copies)) for copies in ("each", "one")]
    each, one = (sampled(model) for model, _ in models)
    assert relative_error(each, sampled(case.model)) < 0.1
    if case.name == "minimax":
        assert torch.equal(one, each)
    else:
        assert 1e-6 < relative_error(one, each) < 0.1


@pytest.mark.long
@pytest.mark.parametrize("case", ["scail2", "flux", "qwen"], indirect=True)
def test_a_reuse_under_torch_compile(case):
    torch._dynamo.reset()
    model, shown = reusing(case.model, FULL, 10.0)
    plain = flat(run(model, case.run, 6))
    compiled = TorchCompileModel.execute(model, "eager").args[0]
    assert relative_error(flat(run(compiled, case.run, 6)), plain) < 1e-5
    assert shown[0] == shown[1] and "computed in 2 of 6 model calls" in shown[0]


def test_beside_a_controlnet_all_tokens_run():
    case = CASES["flux"]()
    model, shown = reusing(case.model(), FULL, 10.0)

    class Control(comfy.controlnet.ControlBase):
        def get_control(self, x, *args):
            return {"input": [torch.zeros(1, 48, 64)], "output": []}

        def get_models(self):
            return []

    run(model, case, 6, case.condition | {"control": Control(), "control_apply_to_uncond": True})
    assert f"6 model calls could not reuse the context: {decisions.CONTROLLED}" in shown[0]


@pytest.mark.parametrize("case", ["flux", "qwen"], indirect=True)
def test_other_nodes_find_no_pictures_in_a_reuse(case):
    """Some scale the keys of the last tokens, which they take for the pictures."""
    seen = set()

    def numbered(q, k, v, pe=None, attn_mask=None, extra_options=None, **more):
        seen.add((q.shape[2], sum(extra_options["reference_image_num_tokens"])))
        return {"q": q, "k": k, "v": v, "pe": pe}

    model, _ = reusing(case.model, FULL, 10.0)
    model.set_model_patch(numbered, "attn1_patch")
    run(model, case.run, 6)
    assert {tokens for _, tokens in seen} == {48 + 24, 0}


@pytest.mark.parametrize("case", KEEPING, indirect=True)
def test_what_stands_in_a_blocks_place_sees_all_tokens(case):
    seen = set()

    def standing(args, extra):
        out = extra["original_block"](args)
        seen.add((args["img"].shape, out["img"].shape))
        return out

    model, shown = reusing(case.model, FULL, 10.0)
    plain = flat(run(model, case.run, 6))
    model.set_model_patch_replace(standing, "dit", "double_block", 0)
    assert torch.equal(flat(run(model, case.run, 6)), plain) and "computed in 2 of 6" in shown[1]
    assert len(seen) == 1


def test_a_mask_is_said_as_the_reason():
    case = CASES["qwen"]()
    case.condition["attention_mask"] = torch.tensor([[1] * 7 + [0] * 2])
    model, shown = reusing(case.model(), FULL, 10.0)
    run(model, case)
    assert f"could not reuse the context: {decisions.MASKED}" in shown[0]


@pytest.mark.parametrize("case", KEEPING, indirect=True)
def test_few_refreshes_stay_near_and_what_is_kept_is_reserved(case, monkeypatch):
    def refreshed(shown):
        return int(shown[0].split("The context was computed in ")[1].split()[0])

    steps = 8
    plain = flat(run(case.model, case.run, steps))
    model, shown = reusing(case.model, FULL, 2e-5)
    assert relative_error(flat(run(model, case.run, steps)), plain) < 1e-5 and refreshed(shown) == steps
    model, shown = reusing(case.model, FULL, 10.0)
    assert 1e-6 < relative_error(flat(run(model, case.run, steps)), plain) < 0.1 and refreshed(shown) == 2

    numbers = 2 * case.run.attentions * sum(tokens for kind, tokens in case.run.layout if kind == "context") * 64
    conditions = {"positive": [dict(case.run.condition)], "negative": [dict(case.run.condition)]}
    assert memory.kept_bytes(model, 1, conditions, Keeping()) == 2 * 4 * numbers


@pytest.mark.parametrize("case", [name for name in CASES if not name.startswith("ltx")], indirect=True)
def test_without_context_the_user_is_told_what_brings_it(case):
    gone = {"reference_latents", "pose_video_latent", "minimax_refs"}
    condition = {name: value for name, value in case.run.condition.items() if name not in gone}
    model, shown = attached(case.model, SPARSE)
    out = flat(run(model, case.run, condition=condition))
    assert torch.equal(out, flat(run(case.model, case.run, condition=condition)))
    assert shown[0].startswith("ISA saw no in-context attention: no context tokens: ")


# One model's own


@pytest.mark.parametrize("change", [{"strength": 0.5}, {"pixel_mask": torch.rand(1, 1, 9, 64, 64)}], ids=["strength", "mask"])
def test_guides_with_a_mask_are_declined(change):
    case = CASES["ltx"]()
    entry = case.condition["guide_attention_entries"][0] | change
    case.condition["guide_attention_entries"] = [entry]
    model = case.model()
    isa, shown = attached(model, SPARSE)
    assert torch.equal(flat(run(isa, case)), flat(run(model, case)))
    assert shown[0] == f"ISA saw no in-context attention: {decisions.GUIDES_MASKED}"


def test_a_call_in_an_unknown_form_is_declined(monkeypatch):
    """As a newer core may give it."""
    monkeypatch.setattr(minimax, "_packed", lambda network, inputs: inputs["minimax_payload"]["of a newer core"])
    case = CASES["minimax"]()
    model = case.model()
    isa, shown = reusing(model, SPARSE, 1.0)
    assert torch.equal(flat(run(isa, case)), flat(run(model, case)))
    assert shown == [f"ISA saw no in-context attention: {decisions.unknown_form('MiniMaxH3Model')}"]


def test_what_core_says_of_a_wrong_guide_reaches_the_user():
    """As where nodes that count their guides' tokens meet one that does not."""
    case = CASES["ltx"]()
    entries = [entry | {"pre_filter_count": 1} for entry in case.condition["guide_attention_entries"]]
    with pytest.raises(ValueError, match="guide pre_filter_counts"):
        run(attached(case.model(), SPARSE)[0], case, condition=case.condition | {"guide_attention_entries": entries})


def test_a_layout_is_made_as_a_newer_core_makes_it(monkeypatch):
    """Where none is at hand that fits the call. Cores after 0.33 count no frames for it."""
    case, real = CASES["minimax"](), minimax_of_core.PackedLayout
    monkeypatch.setattr(
        minimax_of_core, "PackedLayout", lambda *signature, keyframes=None, refs=None: real(*signature, keyframes, refs)
    )
    inputs = {"x": case.noise.unbind(), "context": case.text, "minimax_payload": {"refs": case.condition["minimax_refs"]}}
    assert minimax.layout(case.model().model.diffusion_model, inputs) == TokenLayout.of(*case.layout)


def test_unknown_kinds_of_tokens_stay_exact(monkeypatch, calls):
    monkeypatch.delitem(minimax.KINDS, "audio")
    case = CASES["minimax"]()
    run(attached(case.model(), SPARSE)[0], case, 1)
    assert {layout for layout, *_ in calls} == {TokenLayout.of(*case.layout)}


def test_a_text_as_long_as_the_video_is_declined():
    case = CASES["ltx"]()
    case.text, case.condition["attention_mask"] = drawn(1, 120, 48), torch.ones(1, 120)
    isa, shown = attached(case.model(), SPARSE)
    run(isa, case)
    assert "text or sound have 120 tokens" in shown[0]


def test_guides_of_several_pictures_are_several_contexts():
    network = SimpleNamespace(patchifier=SimpleNamespace(patchify=lambda mask: (mask.flatten(2).transpose(1, 2), None)))
    mask = torch.ones(1, 1, 4, 2, 3)
    mask[:, :, 2, 0] = -1  # half of the first guide
    inputs = {
        "x": drawn(1, 16, 4, 2, 3), "context": drawn(1, 5, 8), "denoise_mask": mask, "keyframe_idxs": torch.zeros(1, 3, 12, 2),
        "guide_attention_entries": [{"pre_filter_count": 6, "strength": 1.0}] * 2,
    }  # fmt: skip
    assert ltx.layout(network, inputs) == TokenLayout(12, (3, 6))
    mask[:, :, 2] = -1
    assert ltx.layout(network, inputs) == TokenLayout(12, (6,))
    mask[:, :, 3] = -1
    assert ltx.layout(network, inputs).startswith("no context tokens")


def test_texts_of_unlike_length_have_layouts_of_their_own(calls):
    """H3 runs one sequence at a time, and core prepares the layout of each."""
    import comfy.sample

    case = CASES["minimax"]()
    model, _ = attached(case.model(), FULL)
    words = [[[text, dict(case.condition)]] for text in (case.text, case.text[:, :4])]
    comfy.sample.sample(model, case.noise, 1, 2.0, "euler", "simple", *words, case.noise * 0, seed=1)
    assert {layout.in_memory[0].tokens for layout, *_ in calls} == {9, 4}


def test_a_masked_text_stays_full():
    case = CASES["qwen"]()
    case.condition["attention_mask"] = torch.tensor([[1] * 7 + [0] * 2])
    model = case.model()
    isa, shown = attached(model, SPARSE)
    assert torch.equal(flat(run(isa, case)), flat(run(model, case)))
    assert f"calls with full attention: {decisions.MASKED}" in shown[0]


def test_tokens_that_another_node_adds_are_said():
    case = CASES["flux"]()
    model = case.model()

    def more(args):
        return {**args, "txt": args["txt"].repeat(1, 2, 1), "txt_ids": args["txt_ids"].repeat(1, 2, 1)}

    model.set_model_patch(more, "post_input")
    isa, shown = attached(model, SPARSE)
    assert torch.equal(flat(run(isa, case)), flat(run(model, case)))
    assert "calls with full attention: its 138 tokens are not the 129 of the layout (exact 9 + target 48 +" in shown[0]


def test_arguments_keep_their_places():
    class Network:
        def _forward(self, x, timestep, context, transformer_options={}, extra=None, **kwargs): ...

    arguments = Arguments(Network(), (1, 2, 3), {"transformer_options": 4, "extra": 5, "more": 6})
    assert arguments.by_name == {"x": 1, "timestep": 2, "context": 3, "transformer_options": 4, "extra": 5, "more": 6}
    passed = arguments.passed(lambda *args, **kwargs: (args, kwargs), context=30, extra=None, transformer_options=40)
    assert passed == ((1, 2, 30), {"transformer_options": 40, "more": 6})
