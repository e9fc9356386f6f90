"""Which entry of a LoRA file belongs to which module, under every name that files have, and what is said of the others."""

import json

import pytest
import torch
from liveditor_isa.checkpoint.keys import CheckpointError, expected_shapes
from liveditor_isa.checkpoint.lora import Names, read_lora
from lora_names import NAMINGS, in_naming, pairs

SHAPES = expected_shapes(16, 32, 8, 3)


def read(tensors, **more):
    return read_lora(tensors, SHAPES, "style.safetensors", **more)


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_gives_the_same_changes(naming):
    """All modules that have a matrix: blocks, embeddings, head, gates."""
    modules = [name.removesuffix(".weight") for name, shape in SHAPES.items() if name.endswith(".weight") and len(shape) > 1]
    changes = pairs(SHAPES, modules)
    found = read(in_naming(changes, naming))
    assert set(found.modules) == set(modules) and not found.notes and not found.other_kinds()
    for module, (down, up) in changes.items():
        alpha = found.tensors.get(f"{module}.alpha")
        scale = 1.0 if alpha is None else float(alpha) / len(down)
        matrices = (found.tensors[f"{module}.{ending}.weight"].flatten(1) for ending in ("lora_up", "lora_down"))
        assert torch.allclose(scale * torch.mm(*matrices), up.flatten(1) @ down.flatten(1), rtol=1e-5)


@pytest.mark.parametrize(
    "name, place",
    [
        ("diffusion_model.blocks.0.self_attn.norm_q.diff", ("blocks.0.self_attn.norm_q", "diff")),
        ("diffusion_model.blocks.2.ffn.0.diff_b", ("blocks.2.ffn.0", "diff_b")),
        ("blocks.1.diff_m", ("blocks.1.modulation", "diff")),
        ("diffusion_model.head.modulation.diff", ("head.modulation", "diff")),
        ("transformer.blocks.1.norm2.w_norm", ("blocks.1.norm3", "diff")),
        ("transformer.blocks.1.attn2.to_out.0.lora_B.bias", ("blocks.1.cross_attn.o", "up_bias")),
        ("base_model.model.blocks.1.attn1.to_k.lora_magnitude_vector.default.weight", ("blocks.1.self_attn.k", "dora_scale")),
        ("lycoris_blocks_0_self_attn_q.lokr_w1", ("blocks.0.self_attn.q", "lokr_w1")),
        ("lora_unet_blocks_1_self_attn_alpha_1.alpha", ("blocks.1.self_attn.alpha_1", "alpha")),
        ("blocks.0.self_attn.q.lora_up.weight", ("blocks.0.self_attn.q", "lora_up.weight")),
        ("blocks.0.self_attn.q.lora_B", ("blocks.0.self_attn.q", "lora_up.weight")),
        ("transformer_2.blocks.0.attn1.to_q.lora_A.weight", None),
        ("blocks.3.self_attn.q.lora_A.weight", None),
        ("blocks.0.cross_attn.k_img.lora_A.weight", None),
        ("lora_unet_", None),
        ("blocks.0.self_attn.q", None),
        ("", None),
    ],
)
def test_an_entry_is_placed(name, place):
    found = Names(SHAPES).place(name)
    assert (found and found[:2]) == place


def test_the_configuration_that_diffusers_and_peft_keep_sets_alpha():
    changes = in_naming(pairs(SHAPES, ["blocks.0.self_attn.q", "blocks.1.ffn.0"]), "diffusers")
    config = {"transformer.r": 4, "transformer.lora_alpha": 8, "transformer.alpha_pattern": {"blocks.1.ffn.net.0.proj": 2}}
    found = read(changes, metadata={"lora_adapter_metadata": json.dumps(config)}).tensors
    assert (found["blocks.0.self_attn.q.alpha"], found["blocks.1.ffn.0.alpha"]) == (8, 2)
    found = read(changes, metadata={"lora_adapter_metadata": json.dumps({"lora_alpha": 8, "use_rslora": True})}).tensors
    assert found["blocks.0.self_attn.q.alpha"] == 16
    assert not read(changes, metadata={"lora_adapter_metadata": "not json"}).notes


def small(module="blocks.0.self_attn.q", rows=16, columns=16, rank=4):
    return {f"{module}.lora_A.weight": torch.ones(rank, columns), f"{module}.lora_B.weight": torch.ones(rows, rank)}


@pytest.mark.parametrize(
    "tensors, why",
    [
        ({"weight": torch.ones(2)}, "there is no LoRA in it at all"),
        ({}, "there is no LoRA in it at all"),
        (small("double_blocks.7.img_attn.qkv"), "its modules are called 'double_blocks.*.img_attn.qkv' and the like"),
        (small("lora_unet_down_blocks_0_attentions_1_proj"), "'lora_unet_down_blocks_*_attentions_*_proj'"),
        (small("blocks.9.self_attn.q"), "'blocks.*.self_attn.q'"),
        (small(rows=24, columns=24), "a model of another size, blocks.0.self_attn.q has 24×24 for a weight of 16×16"),
        ({"blocks.0.ffn.0.diff_b": torch.ones(9)}, "blocks.0.ffn.0 has 9 for a bias of 32"),
        ({"blocks.0.self_attn.q.lora_A.weight": torch.ones(4, 16)}, "blocks.0.self_attn.q has one matrix of two"),
        ({"blocks.0.self_attn.q.alpha": torch.tensor(4.0)}, "blocks.0.self_attn.q has no matrix"),
        (
            {**small(), "blocks.0.self_attn.q.alpha": torch.ones(3)},
            "blocks.0.self_attn.q has matrices or an alpha that are none",
        ),
        ({name: weight[0] for name, weight in small().items()}, "blocks.0.self_attn.q has matrices or an alpha that are none"),
    ],
)
def test_what_holds_nothing_for_the_model_is_refused(tensors, why):
    with pytest.raises(CheckpointError, match="style.safetensors holds no LoRA for this model") as refused:
        read(tensors)
    assert why in str(refused.value) and str(refused.value).count(". ") == 0
    assert str(refused.value).endswith("pick one made for LIVEditor or for Wan 2.1 or 2.2 14B.")


@pytest.mark.parametrize("zero", ["lora_A", "lora_B", "alpha", "diff"])
def test_what_changes_nothing_is_refused(zero):
    tensors = {**small(), "blocks.0.self_attn.q.alpha": torch.tensor(4.0)}
    tensors = {name: weight * (zero not in name) for name, weight in tensors.items()}
    if zero == "diff":
        tensors = {"blocks.0.norm3.diff": torch.zeros(16)}
    with pytest.raises(CheckpointError, match="changes nothing: all of its weights are zero"):
        read(tensors)


def test_what_fits_only_in_part_is_said():
    tensors = small() | small("blocks.0.cross_attn.k_img") | small("blocks.1.cross_attn.v_img") | small("img_emb.proj.1")
    tensors |= small("blocks.1.cross_attn.k_img") | small("blocks.1.ffn.0")
    found = read(tensors)
    first, second = found.notes
    assert set(found.modules) == {"blocks.0.self_attn.q"}
    assert first == (
        "style.safetensors: 1 modules are applied; this model has none called blocks.*.cross_attn.k_img, "
        "blocks.*.cross_attn.v_img, img_emb.proj.*."
    )
    assert second == "style.safetensors: 1 modules are applied; blocks.1.ffn.0 has 16×16 for a weight of 32×16, left out."


def test_two_in_one_file_are_refused():
    tensors = {name.replace(".weight", f".{adapter}.weight"): weight for name, weight in small().items() for adapter in "ab"}
    with pytest.raises(CheckpointError, match="holds two LoRAs, .* is the second for blocks.0.self_attn.q"):
        read(tensors)


def test_text_encoders_are_anothers():
    tensors = small() | {"lora_te1_text_model_q.lora_up.weight": torch.ones(2, 2)}
    found = read(tensors)
    assert found.text_encoders == ("lora_te1_text_model_q.lora_up.weight",) and not found.notes


def test_other_kinds_of_adapter_are_named():
    found = read(
        {
            "lycoris_blocks_0_self_attn_q.lokr_w1": torch.ones(4, 4),
            **small("blocks.1.ffn.2", 16, 32),
            "blocks.1.ffn.2.dora_scale": torch.ones(16, 1),
        }
    )
    assert found.other_kinds() == ["DoRA", "LoKr"]
