"""Names and shapes of a checkpoint: every wrapping leads to the official names, and what is no whole LIVEditor is refused."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from liveditor_isa.checkpoint.keys import MEMORY, CheckpointError, check_keys, expected_shapes, is_dead_weight, official_names
from make_tiny_model import bin_variants

UNIMODEL = "wanx_unimodel.guidance_model.feedforward_model."
PREFIXES = [UNIMODEL, "model.diffusion_model.", "module.", "model.", "model_ema."]

SHAPES = expected_shapes(64, 128, 32, 2)
DEAD = {
    f"blocks.{block}.{gate}.weight": (1, 64)
    for block in range(2)
    for gate in ("self_attn.alpha_2", "cross_attn.alpha_1", "cross_attn.alpha_2")
}

VARIANTS = bin_variants()

names = st.sampled_from(sorted(SHAPES))


def refusal(shapes: dict) -> str:
    with pytest.raises(CheckpointError) as caught:
        check_keys(shapes)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def flat(content: dict) -> dict:
    """The dictionary of weights inside a variant's containers."""
    while inner := next((content[key] for key in ("state_dict", "module", "weights") if key in content), None):
        content = inner
    return content


# Which names there are.


def test_at_40_blocks_there_are_wans_1095_names_and_42_of_liveditor():
    shapes = expected_shapes(5120, 13824, 4096, 40)
    own = {name for name in shapes if MEMORY in name or ".alpha_" in name}
    assert (len(shapes) - len(own), len(own)) == (1095, 42)
    dead = {
        f"blocks.{i}.{gate}.weight"
        for i in range(40)
        for gate in ("self_attn.alpha_2", "cross_attn.alpha_1", "cross_attn.alpha_2")
    }
    assert len(own | dead) == 162 and all(map(is_dead_weight, dead)) and not any(map(is_dead_weight, shapes))
    assert shapes[f"{MEMORY}.weight"] == (5120, 16, 1, 2, 2) and shapes["blocks.39.self_attn.alpha_1.weight"] == (1, 5120)
    check_keys(shapes)
    check_keys(shapes | dict.fromkeys(dead, (1, 5120)))


def test_plain_wan_of_core_has_the_same_names():
    """Independent of the spec: core's own model, built without memory for its weights."""
    import comfy.ops
    import torch
    from comfy.ldm.wan.model import WanModel

    operations = comfy.ops.disable_weight_init
    wan = WanModel(
        model_type="t2v",
        dim=64,
        ffn_dim=128,
        text_dim=32,
        num_heads=2,
        num_layers=2,
        device="meta",
        dtype=torch.float32,
        operations=operations,
    )
    core = {name: tuple(weight.shape) for name, weight in wan.state_dict().items()}
    assert core == {name: shape for name, shape in SHAPES.items() if MEMORY not in name and ".alpha_" not in name}


# From a file's names to the official ones.


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_wrapping_gives_the_official_names(weights, variant):
    content = flat(VARIANTS[variant])
    sources, notes = official_names(content)
    assert sources.keys() == weights.keys()
    assert all((content[source] == weights[name]).all() for name, source in sources.items())
    assert len(notes) == (variant == "ema")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(PREFIXES), max_size=5))
def test_wrappers_stack_in_any_order(stack):
    prefix = "".join(stack)
    sources, notes = official_names(prefix + name for name in SHAPES)
    assert sources == {name: prefix + name for name in SHAPES}
    assert bool(notes) == ("model_ema." in stack)


def test_averaged_weights_win_wherever_they_stand_and_that_is_said():
    raw, averaged = "module.model.head.head.bias", "module.model_ema.head.head.bias"
    for order in ([raw, averaged], [averaged, raw]):
        sources, notes = official_names([*order, "module.model.head.head.weight"])
        assert sources == {"head.head.bias": averaged, "head.head.weight": "module.model.head.head.weight"}
        assert len(notes) == 1 and "EMA" in notes[0]


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
def test_vae_and_training_state_are_left_out(prefix):
    other = ["vae.decoder.conv1.weight", "optimizer.state.0.exp_avg", "ema_optimizer.step", "lr_scheduler.last_epoch"]
    assert official_names(prefix + name for name in other)[0] == {}


# diffusers' names, after the table in the spec and written without a look at the code under test.

DIFFUSERS_OUTSIDE = {
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
}
DIFFUSERS_INSIDE = {
    "self_attn": "attn1",
    "cross_attn": "attn2",
    "norm2": "norm3",
    "norm3": "norm2",
    "modulation": "scale_shift_table",
}
DIFFUSERS_INSIDE |= {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}


def diffusers(name: str) -> str:
    if name == "head.modulation":
        return "scale_shift_table"
    if not name.startswith("blocks."):
        layer, _, ending = name.rpartition(".")
        return f"{DIFFUSERS_OUTSIDE.get(layer, layer)}.{ending}"
    name = name.replace("ffn.0.", "ffn.net#0#proj.").replace("ffn.2.", "ffn.net#2.")
    parts = [DIFFUSERS_INSIDE.get(part, part) for part in name.split(".")]
    return ".".join(parts).replace("#", ".")


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
def test_diffusers_names_come_back(prefix):
    shapes = SHAPES | DEAD
    renamed = {prefix + diffusers(name): name for name in shapes}
    assert len(renamed) == len(shapes) and f"{prefix}blocks.1.attn2.to_out.0.bias" in renamed
    sources, _ = official_names(renamed)
    assert {name: renamed[source] for name, source in sources.items()} == {name: name for name in shapes}


def test_the_affine_norm_is_the_second_of_diffusers_and_the_third_of_wan():
    is_diffusers = "condition_embedder.time_proj.bias"
    sources, _ = official_names([is_diffusers, "blocks.0.norm2.weight"])
    assert sources["blocks.0.norm3.weight"] == "blocks.0.norm2.weight"
    assert official_names(["blocks.0.norm3.weight"])[0] == {"blocks.0.norm3.weight": "blocks.0.norm3.weight"}


def test_what_accompanies_quantised_weights_is_renamed_with_them():
    renamed = ["condition_embedder.time_proj.bias", "blocks.0.attn1.to_q.weight_scale", "blocks.0.ffn.net.2.comfy_quant"]
    sources, _ = official_names(renamed)
    assert list(sources) == ["time_projection.1.bias", "blocks.0.self_attn.q.weight_scale", "blocks.0.ffn.2.comfy_quant"]


# What is no whole LIVEditor.


def test_a_whole_checkpoint_passes_with_and_without_dead_weights():
    check_keys(SHAPES)
    check_keys(SHAPES | DEAD)
    check_keys({name: list(shape) for name, shape in SHAPES.items()})


def test_plain_wan_is_called_so():
    plain = {name: shape for name, shape in SHAPES.items() if MEMORY not in name and ".alpha_" not in name}
    assert "plain Wan" in refusal(plain) and f"{MEMORY}.weight" in refusal(plain)


@pytest.mark.parametrize("ending", ["lora_A.weight", "lora_B.weight", "lora_down.weight"])
def test_a_lora_is_called_so(ending):
    assert "LoRA" in refusal({f"diffusion_model.blocks.{i}.self_attn.q.{ending}": (8, 64) for i in range(2)})


@pytest.mark.parametrize(
    "shapes", [{}, {"decoder.conv1.weight": (3, 3)}, {"blocks.0.attn.weight": (2, 2)}, {"scaled_fp8": (2,)}]
)
def test_no_wan_at_all_is_called_so(shapes):
    assert "nor any Wan model" in refusal(shapes)


@settings(max_examples=40, deadline=None)
@given(names)
def test_any_missing_weight_is_named(name):
    assert name in refusal({other: shape for other, shape in SHAPES.items() if other != name})


@pytest.mark.parametrize("name", ["head.modulation", "blocks.0.ffn.0.weight"])
def test_a_missing_weight_that_sizes_are_read_from_is_named(name):
    assert f"lacks {name}" in refusal({other: shape for other, shape in SHAPES.items() if other != name})


@pytest.mark.parametrize(
    "name",
    [
        "blocks.1.surprise.weight",
        "blocks.1.norm1.weight",
        "blocks.99999.norm3.bias",
        "blocks.999999999999.norm3.bias",
        "blocks.x.norm3.bias",
        "",
        "vae",
    ],
)
def test_an_unexpected_weight_is_named(name):
    message = refusal(SHAPES | {name: (64,)})
    assert re.search(f"has unknown {re.escape(name)}[.;]", message)


# The model's sizes are read from these, so that a wrong one makes others look wrong.
READ_FROM = {"head.modulation", "blocks.0.ffn.0.weight", "text_embedding.0.weight"}


@settings(max_examples=60, deadline=None)
@given(names, st.sampled_from(["longer", "empty", "scalar", "deeper"]))
@example("head.modulation", "scalar")
@example("blocks.0.ffn.0.weight", "scalar")
@example("text_embedding.0.weight", "scalar")
def test_any_misshapen_weight_is_named(name, how):
    shape = SHAPES[name]
    wrong = {"longer": (shape[0] + 1, *shape[1:]), "empty": (0, *shape[1:]), "scalar": (), "deeper": (*shape, 2)}[how]
    if name == "text_embedding.0.weight" and how == "deeper":
        wrong = (*shape, 32)
    message = refusal(SHAPES | {name: wrong})
    assert name in READ_FROM or f"has misshapen {name}" in message


def test_many_faults_are_counted_and_only_some_named():
    shapes = {name: shape for name, shape in SHAPES.items() if not name.startswith("blocks.0.cross_attn")}
    message = refusal(shapes | {"a": (1,), "b": (1,), "c": (1,), "d": (1,)})
    assert "lacks blocks.0.cross_attn.q.weight, blocks.0.cross_attn.q.bias, " in message and " and 7 more" in message
    assert "has unknown a, b, c and 1 more" in message
    assert message.count("blocks.") == 3


# Quantised files.


def test_scaled_fp8_is_accepted():
    linear = [name for name, shape in SHAPES.items() if len(shape) == 2 and name.startswith("blocks.")]
    scales = {name.replace(".weight", f".scale_{which}"): () for name in linear for which in ("weight", "input")}
    check_keys(SHAPES | DEAD | scales | {"scaled_fp8": (2,)})
    newer = {
        name.replace(".weight", ending): ()
        for name in linear
        for ending in (".weight_scale", ".weight_scale_2", ".input_scale")
    }
    check_keys(SHAPES | newer)


def test_a_packed_weight_is_accepted_only_where_its_file_says_so():
    packed = SHAPES | {"blocks.0.self_attn.q.weight": (64, 32)}
    check_keys(packed | {"blocks.0.self_attn.q.comfy_quant": (27,), "blocks.0.self_attn.q.weight_scale": (64, 4)})
    assert "has misshapen blocks.0.self_attn.q.weight" in refusal(packed | {"blocks.0.self_attn.k.comfy_quant": (27,)})
