"""The same LoRA, in every naming that files have, changes LIVEditor-tiny alike on both hosts; what changes nothing is refused."""

import json
import logging

import comfy.model_management
import comfy.sd
import comfy.utils
import pytest
import torch
from liveditor_isa.checkpoint.included import path_of
from liveditor_isa.checkpoint.keys import CheckpointError
from liveditor_isa.checkpoint.opening import open_checkpoint
from liveditor_isa.checkpoint.scaled import Unscaled
from liveditor_isa.comfyui.architecture import register
from liveditor_isa.pipelines.edit import load
from liveditor_isa.pipelines.request import ModelChoice
from lora_names import NAMINGS, in_naming, pairs
from plain_tiny import plain_tiny
from safetensors.torch import load_file, save_file

SHAPES = Unscaled(open_checkpoint(path_of("diffusion_model"))).shapes
MODULES = (
    "blocks.0.self_attn.q", "blocks.1.self_attn.o", "blocks.2.cross_attn.v", "blocks.3.ffn.0", "blocks.3.ffn.2",
    "blocks.4.self_attn.alpha_1", "time_projection.1", "text_embedding.0", "head.head", "source_video_embedding_more_memory",
)  # fmt: skip


def latent(seed):
    return torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(seed))


INPUTS = latent(0), torch.tensor([700.0]), torch.randn(1, 9, SHAPES["text_embedding.0.weight"][1]) * 0.3, [latent(1)]


@pytest.fixture(scope="module")
def core():
    register()
    weights, metadata = plain_tiny()
    return comfy.sd.load_diffusion_model_state_dict(weights, {"dtype": torch.float32}, metadata)


def in_core(model, lora=None, metadata=None) -> torch.Tensor:
    """The network's output with a LoRA, {name: tensor}, as core's own loaders apply it."""
    if lora is not None:
        model = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0, lora_metadata=metadata)[0]
    comfy.model_management.load_models_gpu([model], force_patch_weights=True)
    x, time, text, contexts = INPUTS
    with torch.no_grad():
        return model.model.diffusion_model(x, time, context=text, context_latents=contexts, transformer_options={})


@pytest.fixture
def in_diffusers(pipe):
    """The network's output with a LoRA, a file or tensors, which goes after the test."""

    def output(*loras):
        for number, lora in enumerate(loras):
            pipe.load_lora_weights(lora, adapter_name=f"lora_{number}")
        with torch.no_grad():
            return pipe.transformer(*INPUTS, return_dict=False)[0]

    yield output
    pipe.unload_lora_weights()


def difference(one, other) -> float:
    return ((one - other).norm() / one.norm()).item()


@pytest.fixture(scope="module")
def plain(core, pipe):
    output = in_core(core)
    with torch.no_grad():
        assert difference(output, pipe.transformer(*INPUTS, return_dict=False)[0]) < 1e-5
    return output


CHANGES = pairs(SHAPES, MODULES, size=0.2)


@pytest.fixture(scope="module")
def expected(core):
    """By weights into which the changes are merged."""
    weights, metadata = plain_tiny()
    for module, (down, up) in CHANGES.items():
        weight = weights[f"{module}.weight"]
        weights[f"{module}.weight"] = weight.float() + (up.flatten(1) @ down.flatten(1)).view_as(weight)
    return in_core(comfy.sd.load_diffusion_model_state_dict(weights, {"dtype": torch.float32}, metadata))


@pytest.mark.slow
@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_does_the_same_on_both_hosts(naming, core, in_diffusers, plain, expected, tmp_path, caplog):
    lora = in_naming(CHANGES, naming)
    save_file(lora, tmp_path / "lora.safetensors")
    assert difference(expected, in_core(core, lora)) < 1e-4
    assert difference(expected, in_diffusers(str(tmp_path / "lora.safetensors"))) < 1e-4
    assert difference(expected, plain) > 1e-2
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def lightx2v() -> dict[str, torch.Tensor]:
    """Matrices, and differences of biases, norms, modulations and a whole weight."""
    lora = in_naming({module: CHANGES[module] for module in MODULES[:4]}, "lightx2v")
    generator = torch.Generator().manual_seed(5)
    for name, weight in {
        "blocks.0.self_attn.q.diff_b": "blocks.0.self_attn.q.bias",
        "blocks.1.ffn.0.diff_b": "blocks.1.ffn.0.bias",
        "blocks.0.self_attn.norm_q.diff": "blocks.0.self_attn.norm_q.weight",
        "blocks.2.norm3.diff": "blocks.2.norm3.weight",
        "blocks.2.norm3.diff_b": "blocks.2.norm3.bias",
        "blocks.3.diff_m": "blocks.3.modulation",
        "head.head.diff": "head.head.weight",
        "head.head.diff_b": "head.head.bias",
        "patch_embedding.diff": "patch_embedding.weight",
        "time_embedding.0.diff_b": "time_embedding.0.bias",
    }.items():
        lora[f"diffusion_model.{name}"] = torch.randn(SHAPES[weight], generator=generator) * 0.05
    return lora


def test_differences_of_whole_weights_do_the_same_on_both_hosts(core, pipe, in_diffusers, plain):
    lora = lightx2v()
    output = in_core(core, lora)
    assert difference(output, in_diffusers(lora)) < 1e-4
    again = comfy.sd.load_lora_for_models(core, None, {"blocks.3.diff_m": -lora["diffusion_model.blocks.3.diff_m"]}, 1.0, 0)[0]
    assert difference(output, in_core(again, lora)) > 1e-3
    without = in_core(core, {name: tensor for name, tensor in lora.items() if ".diff" not in name})
    assert difference(output, without) > 1e-2
    pipe.unload_lora_weights()
    assert difference(plain, in_diffusers()) < 1e-5


def test_two_files_add_up(core, tmp_path):
    """The last one alone was active."""
    files = {tmp_path / f"{module}.safetensors": in_naming({module: CHANGES[module]}, "ComfyUI") for module in MODULES[:2]}
    for path, lora in files.items():
        save_file(lora, path)
    pipe = load(ModelChoice(loras=tuple(map(str, files)), device="cpu", isa=None))
    first, second = files.values()
    with torch.no_grad():
        assert difference(in_core(core, first | second), pipe.transformer(*INPUTS, return_dict=False)[0]) < 1e-4


def test_alpha_of_diffusers_metadata_and_of_peft_beside_the_file(core, in_diffusers, pipe, tmp_path):
    modules = {module: CHANGES[module] for module in MODULES[:3]}
    doubled = {module: (down, 2 * up) for module, (down, up) in modules.items()}
    wanted = in_core(core, in_naming(doubled, "bare"))
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 8})}
    save_file(in_naming(modules, "diffusers"), tmp_path / "pytorch_lora_weights.safetensors", metadata)
    assert difference(wanted, in_diffusers(str(tmp_path / "pytorch_lora_weights.safetensors"))) < 1e-4
    assert difference(wanted, in_core(core, in_naming(modules, "diffusers"), metadata)) < 1e-4
    pipe.unload_lora_weights()
    (tmp_path / "peft").mkdir()
    save_file(in_naming(modules, "PEFT of diffusers"), tmp_path / "peft/adapter_model.safetensors")
    (tmp_path / "peft/adapter_config.json").write_text('{"r": 4, "lora_alpha": 8}')
    assert difference(wanted, in_diffusers(str(tmp_path / "peft"))) < 1e-4


OTHERS = {f"double_blocks.{i}.img_attn.qkv.lora_{part}.weight": torch.ones(4, 4) for i in range(3) for part in "AB"}
UNTRAINED = {name: tensor * ("lora_B" not in name) for name, tensor in in_naming(CHANGES, "bare").items()}


@pytest.mark.parametrize("lora, why", [(OTHERS, "holds no LoRA for this model"), (UNTRAINED, "changes nothing")])
def test_an_effect_of_nothing_is_an_error_on_both_hosts(lora, why, core, tmp_path):
    save_file(lora, tmp_path / "flux.safetensors")
    with pytest.raises(ValueError, match=f"This LoRA {why}"):
        in_core(core, lora)
    with pytest.raises(ValueError, match=f"This LoRA {why}"):
        comfy.sd.load_bypass_lora_for_models(core, None, lora, 1.0, 0)
    with pytest.raises(CheckpointError, match=f"flux.safetensors {why}") as refused:
        load(ModelChoice(loras=(str(tmp_path / "flux.safetensors"),)))
    assert "download it again" not in str(refused.value)


def test_what_fits_in_part_is_said_on_both_hosts(core, in_diffusers, caplog):
    lora = in_naming({module: CHANGES[module] for module in MODULES[:2]}, "ComfyUI")
    part = lora | {name.replace("self_attn.q", "cross_attn.k_img"): weight for name, weight in lora.items()}
    told = "2 modules are applied; this model has none called diffusion_model.blocks.*.cross_attn.k_img."
    assert difference(in_core(core, part), in_diffusers(part)) < 1e-4
    assert caplog.text.count(told) == 2


def test_other_kinds_work_in_comfyui_and_are_refused_by_name_in_diffusers(core, in_diffusers, plain):
    rows, columns = SHAPES["blocks.0.self_attn.q.weight"]
    lokr = {
        "lycoris_blocks_0_attn1_to_q.lokr_w1": torch.eye(4),
        "lycoris_blocks_0_attn1_to_q.lokr_w2": 0.2 * torch.ones(rows // 4, columns // 4),
    }
    assert difference(in_core(core, lokr), plain) > 1e-3
    with pytest.raises(CheckpointError, match=r"This dictionary is of a kind .* \(LoKr\): use it in ComfyUI"):
        in_diffusers(lokr)


def test_core_is_wrapped_once_and_other_models_are_as_they_were(plain_wan, core):
    before = comfy.lora.load_lora
    register()
    assert comfy.lora.load_lora.args == before.args
    bare = in_naming(pairs({"blocks.0.self_attn.q.weight": (256, 256)}, ["blocks.0.self_attn.q"]), "bare")
    assert not comfy.sd.load_lora_for_models(plain_wan, None, bare, 1.0, 0)[0].patches
    named = {f"diffusion_model.{name}": weight for name, weight in bare.items()}
    assert len(comfy.sd.load_lora_for_models(plain_wan, None, named, 1.0, 0)[0].patches) == 1


def test_a_folder_of_several_and_pickles(in_diffusers, core, tmp_path):
    lora = in_naming({module: CHANGES[module] for module in MODULES[:2]}, "ComfyUI")
    torch.save(lora, tmp_path / "lora.bin")
    assert difference(in_core(core, lora), in_diffusers(str(tmp_path / "lora.bin"))) < 1e-4
    for name in ("high.safetensors", "low.safetensors"):
        save_file(lora, tmp_path / name)
    with pytest.raises(CheckpointError, match="holds 3 files, high.safetensors and lora.bin among them: name the LoRA"):
        in_diffusers(str(tmp_path))
    assert load_file(tmp_path / "high.safetensors").keys() == lora.keys()
