"""A file is called damaged where it is, and not where core, its options or another pack fails over it."""

import json
from pathlib import Path

import comfy.cli_args
import comfy.ldm.wan.vae
import comfy.sd
import comfy.text_encoders.wan
import pytest
import torch
from liveditor_isa.checkpoint.keys import CheckpointError
from liveditor_isa.comfyui import loaders
from liveditor_isa.comfyui.architecture import register
from liveditor_isa.comfyui.blame import text_encoder_shapes, whole_quantisation, whole_text_encoder, whole_vae
from make_tiny_model import ENCODER, MODEL, VAE
from safetensors.torch import load_file, save_file

PARTS = {
    "diffusion model": (
        lambda path: loaders.load_diffusion_model(path, convert=False),
        MODEL,
        "load_diffusion_model_state_dict",
    ),
    "text encoder": (loaders.load_text_encoder, ENCODER, "CLIP"),
    "VAE": (loaders.load_vae, VAE, "VAE"),
}


@pytest.fixture(autouse=True)
def registered():
    register()


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        TypeError("an argument too many"), AssertionError("Torch not compiled with CUDA enabled"), KeyError("image_model"),
        ModuleNotFoundError("No module named 'comfy_kitchen'"), NotImplementedError(), ZeroDivisionError("division by zero"),
        RuntimeError("required rank 4 tensor to use channels_last format"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("part", PARTS)
def test_a_whole_file_is_never_to_blame(models, monkeypatch, part, error):
    load, name, inner = PARTS[part]
    monkeypatch.setattr(comfy.sd, inner, failing(error))
    with pytest.raises(RuntimeError) as told:
        load(str(models / name))
    words = str(error) or type(error).__name__
    assert f"ComfyUI cannot build the model of {Path(name).name} ({words})" in str(told.value)
    assert "look at ComfyUI's start options" in str(told.value) and "download" not in str(told.value)


@pytest.mark.parametrize("part", PARTS)
def test_an_option_of_the_server_is_named(models, monkeypatch, part):
    load, name, inner = PARTS[part]
    monkeypatch.setattr(comfy.cli_args.args, "force_channels_last", True)
    if part != "diffusion model":  # core lays that out so, and no other part
        monkeypatch.setattr(comfy.sd, inner, failing(RuntimeError("required rank 4 tensor to use channels_last format")))
    with pytest.raises(RuntimeError, match="as --force-channels-last asks, start ComfyUI without it"):
        load(str(models / name))


def test_a_quantised_file_is_no_exception(weights, tmp_path, monkeypatch):
    """It was blamed, because its further entries are not among those that are checked."""
    stored = {name: weight for name, weight in weights.items() if ".alpha_2" not in name and "cross_attn.alpha" not in name}
    name = "blocks.0.ffn.0"
    layout = json.dumps({"format": "float8_e4m3fn"}).encode()
    stored |= {
        f"{name}.weight": stored[f"{name}.weight"].to(torch.float8_e4m3fn),
        f"{name}.weight_scale": torch.tensor(1.0),
        f"{name}.comfy_quant": torch.tensor(list(layout), dtype=torch.uint8),
    }
    save_file(stored, tmp_path / "fp8.safetensors", {"config": '{"transformer": {"text_dim": 64}}'})
    with monkeypatch.context() as patch:
        patch.setattr(comfy.cli_args.args, "force_channels_last", True)
        with pytest.raises(RuntimeError, match="--force-channels-last"):
            loaders.load_diffusion_model(str(tmp_path / "fp8.safetensors"))
    stored[f"{name}.comfy_quant"] = stored[f"{name}.comfy_quant"][:-5]
    save_file(stored, tmp_path / "cut.safetensors", {"config": '{"transformer": {"text_dim": 64}}'})
    with pytest.raises(CheckpointError, match="cut.safetensors does not fit .*download it again"):
        loaders.load_diffusion_model(str(tmp_path / "cut.safetensors"))


def test_quantisation_is_looked_at():
    def entries(**more):
        return {f"blocks.0.ffn.0.{name}": tensor for name, tensor in more.items()}

    def layout(text):
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    assert whole_quantisation(entries(weight_scale=torch.tensor(1.0), comfy_quant=layout('{"format": "nvfp4"}')))
    for wrong in ("", "{", "[]", "{}", '{"format": 5}'):
        assert not whole_quantisation(entries(comfy_quant=layout(wrong)))
    assert not whole_quantisation(entries(weight_scale=torch.tensor(float("nan"))))


def test_what_a_whole_vae_is(models, monkeypatch):
    shapes = {name: tuple(weight.shape) for name, weight in load_file(models / VAE).items()}
    assert whole_vae(shapes)
    assert not whole_vae({**shapes, "decoder.head.0.gamma": (7, 1, 1, 1)}) and not whole_vae({**shapes, "more": (1,)})
    assert not whole_vae({name: shape for name, shape in shapes.items() if "encoder.conv1" not in name}) and not whole_vae({})


def test_what_a_whole_text_encoder_is(models):
    home = Path(comfy.text_encoders.wan.__file__).parent
    xxl = text_encoder_shapes(json.loads((home / "umt5_config_xxl.json").read_text()))
    vocabulary = load_file(models / ENCODER)["spiece_model"]
    shapes = {**xxl, "spiece_model": tuple(vocabulary.shape)}
    quantised = {**shapes, "scaled_fp8": (0,), "encoder.block.0.layer.0.SelfAttention.k.scale_weight": (1,)}
    for whole in (shapes, quantised):
        assert whole_text_encoder(whole, lambda: vocabulary, None)
    assert not whole_text_encoder(xxl, lambda: vocabulary, None)
    assert not whole_text_encoder(shapes, lambda: torch.ones(100, dtype=torch.uint8), None)
    del shapes["encoder.block.23.layer.0.SelfAttention.k.weight"]
    assert not whole_text_encoder(shapes, lambda: vocabulary, None)


def test_core_that_cannot_build_even_an_empty_network_is_to_blame(models, monkeypatch):
    monkeypatch.setattr(comfy.ldm.wan.vae, "WanVAE", failing(TypeError("got an unexpected keyword argument")))
    with pytest.raises(RuntimeError, match="the file itself is whole"):
        loaders.load_vae(str(models / VAE))
