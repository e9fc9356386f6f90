"""Attach ISA beside core's *Model Sparse Attention* and *Model Attention Backend*, before or behind them."""

import asyncio
from types import SimpleNamespace

import comfy.ldm.modules.attention as core_attention
import comfy.ops
import pytest
import torch
from core_models import CASES, flat, run
from core_nodes import (
    OF_SPARSE,
    blocks_that_take_an_attention,
    model_attention_backend,
    model_sparse_attention,
    sparse_in_blocks,
    sparse_override,
)  # fmt: skip
from in_context import BLOCKS, STEPS, attached, latent, relative_error, sample
from liveditor_isa.comfyui import network as network_module
from liveditor_isa.comfyui.attach import OVERRIDE, attach_isa
from liveditor_isa.comfyui.core_nodes import BACKEND, SPARSE, node_of
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.runtime.decisions import taken_over
from liveditor_isa.runtime.live import LiveSettings, Settings
from liveditor_isa.runtime.schedule import Schedule

import nodes as core

TOKENS = 2 * 3 * 8 * 12
SAME = 1e-5
SEEN = "Model Sparse Attention, which is on this model too, had no part in"


def in_order(order: str, model, patch, **isa):
    """(model with the patch and ISA in this order, lines on the node, the patch's log)."""
    log = []
    if order == "before":
        return *attached(patch(model, log), **isa), log
    model, shown = attached(model, **isa)
    return patch(model, log), shown, log


orders = pytest.mark.parametrize("order", ["before", "behind"])


@orders
def test_where_isa_acts_cores_sparse_attention_has_no_part(in_context_model, order):
    alone, lines = attached(in_context_model)
    model, shown, log = in_order(order, in_context_model, model_sparse_attention)
    assert torch.equal(sample(model), sample(alone)) and not log
    assert f"{SEEN} {STEPS} model calls" in shown[0] and SEEN not in lines[0]


@orders
def test_ratios_of_one_are_full_attention_beside_it_too(in_context_model, order):
    """Then the dense query blocks are all queries over all keys, which core's node would take if it was asked."""
    model, _, log = in_order(
        order, in_context_model, model_sparse_attention, config=ISAConfig(keep_ratio=1, dense_query_ratio=1)
    )
    assert relative_error(sample(model), sample(in_context_model)) < SAME and not log


@orders
def test_outside_of_isas_schedule_it_acts_as_without_isa(in_context_model, order):
    schedule = Schedule(start_percent=0.5)
    alone, _ = attached(in_context_model, schedule=schedule)
    model, shown, log = in_order(order, in_context_model, model_sparse_attention, schedule=schedule)
    out = sample(model)
    left = len(log) // BLOCKS
    assert 0 < left < STEPS and log == [TOKENS] * BLOCKS * left
    assert relative_error(out, sample(alone)) > 1e-3
    assert f"{SEEN} {STEPS - left} model calls" in shown[0]


@orders
@pytest.mark.parametrize("without", ["switched off", "no context"])
def test_where_isa_has_nothing_to_do_it_is_core_s_alone(in_context_model, order, without):
    log = []

    def isa(model):
        return attach_isa(
            model, LiveSettings(Settings(ISAConfig(), without != "switched off")), Schedule(), "torch", log.append
        )

    beside = (
        isa(model_sparse_attention(in_context_model, []))
        if order == "before"
        else model_sparse_attention(isa(in_context_model), [])
    )
    contexts = () if without == "no context" else (latent(seed=1),)
    alone = sample(model_sparse_attention(in_context_model, []), contexts)
    assert torch.equal(sample(beside, contexts), alone)
    assert SEEN not in log[0]


@orders
def test_the_chosen_backend_runs_the_dense_group_and_cross_attention(in_context_model, order):
    alone, _ = attached(in_context_model)
    model, shown, log = in_order(order, in_context_model, model_attention_backend)
    assert relative_error(sample(model), sample(alone)) < SAME
    assert f"ISA: {STEPS * BLOCKS} attention calls" in shown[0]
    assert sum(keys == 9 for _, keys in log) == STEPS * BLOCKS and all(keys < TOKENS for _, keys in log)


@pytest.mark.parametrize("first", ["sparse", "backend", "isa"])
def test_all_three(in_context_model, first):
    alone, _ = attached(in_context_model)
    of_sparse, of_backend, shown = [], [], []
    patches = {
        "sparse": lambda model: model_sparse_attention(model, of_sparse),
        "backend": lambda model: model_attention_backend(model, of_backend),
        "isa": lambda model: attach_isa(model, LiveSettings(Settings(ISAConfig())), Schedule(), "torch", shown.append),
    }
    model = in_context_model
    for patch in [patches.pop(first), *patches.values()]:
        model = patch(model)
    assert relative_error(sample(model), sample(alone)) < SAME
    assert f"ISA: {STEPS * BLOCKS} attention calls" in shown[0]


def test_one_that_does_not_say_what_is_beneath_it_is_named(in_context_model):
    """As a core would have it whose override is built in another way."""
    model, shown = attached(in_context_model)
    clone, log = model.clone(), []
    options = clone.model_options["transformer_options"]

    class Override:
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, *args, **kwargs):
            return self.inner(*args, **kwargs)

    Override.__module__ = OF_SPARSE
    options[OVERRIDE] = Override(sparse_override(log, options[OVERRIDE]))
    sample(clone)
    assert len(log) == STEPS * BLOCKS
    assert taken_over("Model Sparse Attention") in shown[0]


def test_cores_node_is_known_as_a_server_loads_it(tmp_path):
    file = tmp_path / "comfy_extras/nodes_sparse_attention.py"
    file.parent.mkdir()
    file.write_text(
        "def override(): ...\nclass Node: made = override\nNODE_CLASS_MAPPINGS = {'of a test': Node}\n", encoding="utf-8"
    )
    try:
        assert asyncio.run(core.load_custom_node(str(file), module_parent="comfy_extras"))
        override = core.NODE_CLASS_MAPPINGS["of a test"].made
    finally:
        core.NODE_CLASS_MAPPINGS.pop("of a test", None)
    assert override.__module__ == str(file.with_suffix("")) and node_of(override) == SPARSE


@pytest.mark.parametrize("module, node", [
    ("comfy_extras.nodes_sparse_attention", SPARSE),
    (r"C:\ComfyUI\comfy_extras\nodes_sparse_attention", SPARSE),
    ("comfy.model_patcher", BACKEND),
    ("/ComfyUI/custom_nodes/nodes_sparse_attention", None),
    (None, None),
])  # fmt: skip
def test_cores_nodes_are_told_by_their_modules(module, node):
    assert node_of(SimpleNamespace(__module__=module)) == node


# Newer cores


def test_keywords_that_this_core_does_not_know_reach_the_attention(liveditor):
    """Cores after 0.30 give attention `preferred_attention` and `low_precision_attention`."""
    seen, newer = [], {"preferred_attention": object(), "low_precision_attention": False, "_inside_attn_wrapper": True}

    def of_core(q, k, v, heads, mask=None, **keywords):
        seen.append(keywords)
        return core_attention.attention_basic(q, k, v, heads, mask=mask)

    model, _ = attached(liveditor)
    override = model.model_options["transformer_options"][OVERRIDE]
    q, k = torch.randn(1, 6, 8), torch.randn(1, 3, 8)
    override(of_core, q, k, k, 2, transformer_options={}, **newer)
    assert all(seen[0][name] is value for name, value in newer.items())


def test_dense_query_blocks_get_them_too(liveditor, monkeypatch):
    seen = []

    def passing(func, q, k, v, heads, *args, **keywords):
        seen.append((q.shape[1], k.shape[1], keywords.get("preferred_attention")))
        return func(q, k, v, heads, *args, **{name: value for name, value in keywords.items() if name != "preferred_attention"})

    clone, wish = liveditor.clone(), object()
    clone.model_options["transformer_options"][OVERRIDE] = passing
    model, _ = attached(clone)
    own = type(model.model_options["transformer_options"][OVERRIDE])
    called = own.__call__
    monkeypatch.setattr(own, "__call__", lambda *args, **keywords: called(*args, preferred_attention=wish, **keywords))
    sample(model, steps=1)
    of_dense_group = [given for queries, keys, given in seen if keys not in (9, TOKENS)]
    assert of_dense_group and all(given is wish for given in of_dense_group)


@pytest.mark.parametrize("name", ["scale", "enable_gqa"])
def test_a_self_attention_of_another_kind_is_left_to_core(liveditor, name, monkeypatch):
    model, shown = attached(liveditor)
    own = type(model.model_options["transformer_options"][OVERRIDE])
    called = own.__call__

    def of_another_kind(self, func, q, k, v, heads, **keywords):
        return called(self, func, q, k, v, heads, **keywords, **({name: q.shape[2] ** -0.5} if q.shape == k.shape else {}))

    monkeypatch.setattr(own, "__call__", of_another_kind)
    sample(model, steps=1)
    assert f"{BLOCKS} calls with full attention: " in shown[0] and "scaled by a factor of its own" in shown[0]


def test_what_a_newer_core_gives_blocks_and_self_attention_is_passed_on(liveditor, monkeypatch):
    network, wish, seen = liveditor.model.diffusion_model, object(), []
    built = network_module.WanAttentionBlock.__init__
    monkeypatch.setattr(
        network_module.WanAttentionBlock,
        "__init__",
        lambda self, *args, attention=None, **keywords: (seen.append(attention), built(self, *args, **keywords))[1],
    )
    block = network_module.LIVEditorBlock(
        "t2v_cross_attn", 256, 512, 2, operation_settings={"operations": comfy.ops.disable_weight_init}, attention=wish
    )
    assert seen == [wish] and isinstance(block.self_attn, network_module.LIVEditorSelfAttention)

    def attention(q, k, v, heads, transformer_options, preferred_attention):
        seen.append(preferred_attention)
        return core_attention.optimized_attention(q, k, v, heads, transformer_options=transformer_options)

    monkeypatch.setattr(network_module, "optimized_attention", attention)
    called = type(network.blocks[0]).forward

    def newer(self, x, *args, **keywords):
        own = self.self_attn.forward
        with monkeypatch.context() as patch:
            patch.setattr(self.self_attn, "forward", lambda *given, **others: own(*given, preferred_attention=wish, **others))
            return called(self, x, *args, **keywords)

    monkeypatch.setattr(type(network.blocks[0]), "forward", newer)
    sample(attached(liveditor)[0], steps=1)
    assert seen == [wish] * (1 + BLOCKS)


@orders
@pytest.mark.parametrize("acts", [True, False])
def test_its_block_patches_on_minimax_are_left_out_where_isa_acts(order, acts):
    case, config = CASES["minimax"](), ISAConfig(1, 1, 1, block_size=16)
    plain, schedule = case.model(), Schedule() if acts else Schedule(start_percent=0.99)
    model, shown, log = in_order(order, plain, sparse_in_blocks, config=config, schedule=schedule)
    out = flat(run(blocks_that_take_an_attention(model), case))
    assert bool(log) is not acts and (f"{SEEN} 2 model calls" in shown[0]) is acts
    assert (relative_error(out, flat(run(plain, case))) < SAME) is acts
