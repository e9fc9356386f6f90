"""ISA as attention processors: on LIVEditor, and on transformers that diffusers brings for in-context editing."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel, WanTransformer3DModel
from diffusers.models.attention_dispatch import AttentionBackendName
from in_context_models import FULL, LAYOUT, SPARSE, difference, flux, liveditor, noise, qwen
from liveditor_isa.isa_core import TRAINING_FREE, BackendUnavailable, ISAConfig, TokenLayout
from liveditor_isa.pipelines import stand_in
from liveditor_isa.pipelines.attention import AttachedISA, attach_isa, detach_isa
from liveditor_isa.pipelines.stand_in import InContextProcessor
from liveditor_isa.pipelines.transformer import LIVEditorTransformer3DModel
from liveditor_isa.runtime.call import ModelCall, layouts_seen

UNUSED = "ISA saw no in-context attention: the transformer was not called"


@pytest.fixture(params=[flux, qwen, liveditor], ids=lambda make: make.__name__)
def case(request):
    return request.param()


def run(model, arguments):
    with torch.no_grad():
        return model(**arguments).sample


def test_the_papers_ratios_are_for_the_model_that_was_trained_with_them(case):
    model = case[0]
    assert attach_isa(model).config == (ISAConfig() if isinstance(model, LIVEditorTransformer3DModel) else TRAINING_FREE)


def test_it_stands_in_for_full_attention_and_leaves_no_trace(case):
    model, arguments, blocks = case
    plain, processors = run(model, arguments), dict(model.attn_processors)
    isa = attach_isa(model, FULL, min_tokens=0)
    assert difference(plain, run(model, arguments)) < 1e-5
    assert f"{blocks} attention calls at 100.0% density" in isa.report()
    isa.config = SPARSE  # from now on
    assert difference(plain, run(model, arguments)) > 1e-3
    isa.enabled = False
    assert torch.equal(run(model, arguments), plain)
    assert f"{blocks} calls with full attention: switched off" in isa.report()
    isa.detach()
    assert torch.equal(run(model, arguments), plain) and model.attn_processors == processors
    assert not hasattr(model, "attached_isa")


@pytest.mark.parametrize("make", [flux, qwen])
def test_a_text_may_be_exact(make):
    """A layout of the caller's, in the order that the sequence has."""
    model, arguments, blocks = make()
    plain = run(model, arguments)
    layout = TokenLayout.of(("exact", 9), ("target", 64), ("context", 64), ("context", 24))
    isa = attach_isa(model, FULL, layout=layout, min_tokens=0)
    assert difference(plain, run(model, arguments)) < 1e-5 and f"{blocks} attention calls at 100.0% density" in isa.report()
    isa.config = SPARSE
    with_exact = difference(plain, run(model, arguments))
    attach_isa(model, SPARSE, layout=LAYOUT, min_tokens=0)
    assert 1e-4 < with_exact < difference(plain, run(model, arguments)) < 0.5


MASKS = {
    "nothing hidden": [[1] * 9, [1] * 9],
    "a batch of unlike texts": [[1] * 6 + [0] * 3, [1] * 8 + [0]],
    "the same hidden in all": [[1] * 5 + [0] * 4] * 2,
}


@pytest.mark.parametrize("name", MASKS)
def test_a_text_that_is_hidden_in_part_is_left_out(name):
    """Every sequence of the batch is as alone with the text that it shows, with full attention and with sparse."""
    model, arguments, blocks = qwen()
    batch = {key: torch.cat([arguments[key], arguments[key].flip(1)]) for key in ("hidden_states", "encoder_hidden_states")}
    batch |= {"timestep": arguments["timestep"].repeat(2)}
    batch |= {"encoder_hidden_states_mask": torch.tensor(MASKS[name]), "img_shapes": arguments["img_shapes"] * 2}
    plain = run(model, batch)
    isa = attach_isa(model, FULL, min_tokens=0)
    assert difference(plain, run(model, batch)) < 1e-5
    assert "100.0% density" in isa.report()
    isa.config = SPARSE
    found = run(model, batch)
    assert difference(plain, found) > 1e-3 and "calls with full attention" not in isa.report()
    for number, shown in enumerate(MASKS[name]):
        alone = {key: value[number : number + 1] for key, value in batch.items()} | {"encoder_hidden_states_mask": None}
        alone["encoder_hidden_states"] = alone["encoder_hidden_states"][:, : sum(shown)]
        assert difference(run(model, alone), found[number : number + 1]) < 1e-5
    isa.report()
    isa.enabled = False
    assert torch.equal(run(model, batch), plain)
    assert f"{blocks} calls with full attention: switched off" in isa.report()


@pytest.mark.parametrize("make", [flux, qwen])
def test_text_and_pictures_that_diffusers_splits_over_gpus_attend_fully(make):
    """Their order over all GPUs is not the layout's."""
    model, arguments, blocks = make()
    plain, isa = run(model, arguments), attach_isa(model, SPARSE, min_tokens=0)
    model._parallel_config = object()
    assert difference(plain, run(model, arguments)) < 1e-5
    assert f"{blocks} calls with full attention: diffusers splits text and pictures" in isa.report()


def test_layouts_are_read_from_the_call(case):
    """[text and target | contexts], which the statistics count."""
    model, arguments, _ = case
    isa = attach_isa(model, SPARSE, min_tokens=0)
    run(model, arguments)
    if isinstance(model, LIVEditorTransformer3DModel):
        with layouts_seen() as seen:
            run(model, arguments)
        assert seen == [TokenLayout(40, (40, 12))]
    else:
        expected = attach_isa(model, SPARSE, layout=LAYOUT, min_tokens=0)
        run(model, arguments)
        assert expected.report() == isa.report()
        other = attach_isa(model, SPARSE, layout=lambda call: TokenLayout(9, (152,)), min_tokens=0)
        run(model, arguments)
        assert other.report() != isa.report()


def test_another_attachment_replaces_the_first(case):
    model, arguments, blocks = case
    first = attach_isa(model, SPARSE, min_tokens=0)
    second = attach_isa(model, SPARSE, min_tokens=0, dense_blocks="0,-1")
    run(model, arguments)
    assert first.report() == UNUSED and "2 calls with full attention: dense_blocks" in second.report()
    third = attach_isa(model, SPARSE)
    run(model, arguments)
    assert f"{blocks} calls with full attention: " in (told := third.report()) and "fewer than min_tokens 12288" in told
    detach_isa(model)
    detach_isa(model)


@pytest.mark.slow
@pytest.mark.parametrize("made", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"])
def test_a_copy_has_isa_of_its_own(case, made):
    model, arguments, blocks = case
    plain = run(model, arguments)
    isa = attach_isa(model, SPARSE, min_tokens=0)
    other = made(model)
    sparse = run(other, arguments)
    assert isa.report() == UNUSED and f"ISA: {blocks} " in other.attached_isa.report()
    detach_isa(other)
    assert torch.equal(run(other, arguments), plain) and not hasattr(other, "attached_isa")
    assert torch.equal(run(model, arguments), sparse) and difference(plain, sparse) > 1e-3


def test_the_chosen_backend_attends_for_the_dense_blocks(case):
    """And for all others that are not ours."""
    model, arguments, _ = case
    plain = run(model, arguments)
    isa = attach_isa(model, FULL, min_tokens=0)
    model.set_attention_backend("_native_math")
    assert difference(plain, run(model, arguments)) < 1e-5
    assert "PyTorch's attention" not in isa.report(), "the caller's own is not ours to name"
    isa.enabled = False
    assert difference(plain, run(model, arguments)) < 1e-5
    model.set_attention_backend("native")
    isa.enabled = True
    run(model, arguments)
    assert "PyTorch's attention" in isa.report()
    model.set_attention_backend("_native_math")
    isa.detach()
    chosen = {processor._attention_backend for processor in model.attn_processors.values()}
    assert chosen == {"_native_math"}, "what was chosen meanwhile stays"


def test_attention_that_is_not_of_all_tokens_is_left_alone():
    """Wan's text-to-video: no context, and a layout that is never met."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=24, text_dim=16, ffn_dim=32, num_layers=2).eval()
    arguments = {
        "hidden_states": noise(1, 16, 1, 8, 8), "timestep": torch.tensor([500]), "encoder_hidden_states": noise(1, 7, 16),
    }  # fmt: skip
    plain = run(model, arguments)
    isa = attach_isa(model, SPARSE, layout=TokenLayout(8, (9,)), min_tokens=0)
    assert torch.equal(run(model, arguments), plain)
    assert isa.report() == "2 calls with full attention: its 16 tokens are not the 17 of the layout (8 + 9)"
    isa = attach_isa(model, SPARSE, layout=TokenLayout(8, (8,)), min_tokens=0)
    run(model, arguments)
    assert "ISA: 2 attention calls" in isa.report()


def test_attention_of_another_kind_is_left_as_it_was_chosen(monkeypatch):
    """Causal, masked or scaled otherwise, though over all tokens: ISA knows none of these."""
    q, k, v = (noise(1, 2, 16, 8, seed=seed) for seed in range(3))
    isa = AttachedISA(SPARSE, "torch", "", 16)
    call = ModelCall(TokenLayout(8, (8,)), isa.decisions(), isa.recorder)
    chosen = []
    dispatch = stand_in.dispatch_attention_fn
    monkeypatch.setattr(stand_in, "dispatch_attention_fn", lambda *args, backend: chosen.append(backend) or dispatch(*args))
    processor = InContextProcessor()
    processor._attention_backend = AttentionBackendName._NATIVE_MATH
    for options in ({"is_causal": True}, {"scale": 0.5}, {"attn_mask": torch.ones(16, 16).tril().bool()}):
        expected = F.scaled_dot_product_attention(q, k, v, **options)
        with stand_in.in_context_attention(processor, call, 0) as standing:
            found = F.scaled_dot_product_attention(q, k, v, **options)
        assert difference(expected, found) < 1e-6 and not standing.used, options
    assert chosen == [AttentionBackendName._NATIVE_MATH] * 3


def test_min_tokens_are_enough():
    isa = AttachedISA(SPARSE, "torch", "", 16)
    decided = isa.decisions()
    assert decided.reason_for_full(TokenLayout(8, (8,)), 0, 1) is None and decided.reason_for_full(TokenLayout(8, (7,)), 0, 1)


def test_gradients_flow_as_without_it():
    model, arguments, _ = liveditor()
    gradients = []
    for attached in (False, True):
        if attached:
            attach_isa(model, FULL, min_tokens=0)
        model.zero_grad()
        model(**arguments).sample.square().mean().backward()
        gradients.append(model.blocks[3].attn1.to_q.weight.grad.clone())
    assert gradients[0].norm() > 0 and difference(*gradients) < 1e-3


def test_what_cannot_be_attached_gets_a_sentence():
    model, _, _ = flux()
    unknown = SD3Transformer2DModel(num_layers=1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16,
                                    caption_projection_dim=16, pooled_projection_dim=8, sample_size=8)  # fmt: skip
    with pytest.raises(ValueError, match="does not know where SD3Transformer2DModel keeps its context: pass layout="):
        attach_isa(unknown)
    with pytest.raises(ValueError, match="LIVEditorTransformer3DModel tells its token groups itself: leave layout out"):
        attach_isa(liveditor()[0], layout=LAYOUT)
    with pytest.raises(BackendUnavailable, match="The Triton backend cannot run"):
        attach_isa(model, backend="triton")
    with pytest.raises(ValueError, match="dense_blocks is a list of block numbers"):
        attach_isa(model, dense_blocks="first")
    assert not hasattr(model, "attached_isa") and all("ISA" not in str(each) for each in model.attn_processors.values())


def test_several_contexts_of_any_size_are_padded_as_in_comfyui():
    model, arguments, _ = liveditor()
    odd = {**arguments, "hidden_states": noise(1, 16, 2, 7, 9), "context_latents": [noise(1, 16, 1, 5, 5)]}
    with layouts_seen() as seen:
        assert run(model, odd).shape == (1, 16, 2, 7, 9)
    assert seen == [TokenLayout(2 * 4 * 5, (9,))]
    alone = {**arguments, "context_latents": []}
    isa = attach_isa(model, min_tokens=0)
    run(model, alone)
    assert "10 calls with full attention: no context tokens" in isa.report()
