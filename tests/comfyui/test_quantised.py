"""LIVEditor with quantised weights, in core's formats and in a GGUF loader's way, and partly loaded: as with plain weights."""

import json

import comfy.model_management
import comfy.ops
import comfy.sample
import comfy.sd
import pytest
import torch
from liveditor_isa.checkpoint.convert import convert_checkpoint
from liveditor_isa.checkpoint.keys import CheckpointError, core_metadata
from liveditor_isa.checkpoint.opening import open_checkpoint
from liveditor_isa.checkpoint.scaled import Unscaled
from liveditor_isa.comfyui.architecture import register
from liveditor_isa.comfyui.attach import attach_isa
from liveditor_isa.comfyui.loaders import load_diffusion_model
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.runtime.live import LiveSettings, Settings
from liveditor_isa.runtime.schedule import Schedule
from safetensors.torch import load_file, save_file

CPU = torch.device("cpu")
E4M3 = torch.float8_e4m3fn


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, CONTEXT, TEXT = randn(1, 16, 2, 12, 16, seed=0), randn(1, 16, 2, 12, 16, seed=1), randn(1, 9, 64, seed=2)


@pytest.fixture(scope="module")
def plain(liveditor_file):
    """The weights, with gates so far open that it shows when they are lost."""
    register()
    weights = load_file(liveditor_file)
    return {name: 20 * weight if "alpha_1" in name else weight for name, weight in weights.items()}


def loaded(weights, folder, weight_dtype="default"):
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    return load_diffusion_model(str(folder / "model.safetensors"), weight_dtype)


def sample(model, steps=1):
    given = [[TEXT, {"context_latents": [CONTEXT]}]]
    return comfy.sample.sample(model, X, steps, 1.0, "euler", "simple", given, given, X * 0, seed=1)


def attached(model, config=ISAConfig()):
    shown = []
    return attach_isa(model, LiveSettings(Settings(config)), Schedule(), "torch", shown.append), shown


def error(out, reference):
    return float((out - reference).norm() / reference.norm())


def matrices(weights):
    return [name for name, weight in weights.items() if weight.ndim == 2]


def assert_same_with_isa(model, by_hand):
    """Without ISA, with all of it, and sparse."""
    assert error(sample(model), sample(by_hand)) < 1e-5
    whole, _ = attached(model, ISAConfig(keep_ratio=1, dense_query_ratio=1))
    assert error(sample(whole), sample(by_hand)) < 1e-5
    sparse, shown = attached(model)
    assert error(sample(sparse), sample(attached(by_hand)[0])) < 1e-5
    assert shown[0].startswith("ISA: 4 attention calls")


@pytest.mark.parametrize("name, dtype", [("fp8_e4m3fn", E4M3), ("fp8_e4m3fn_fast", E4M3), ("fp8_e5m2", torch.float8_e5m2)])
def test_fp8_weight_types(plain, tmp_path, name, dtype):
    model = loaded(plain, tmp_path, name)
    gate = model.model.diffusion_model.blocks[0].self_attn.alpha_1.weight
    assert gate.dtype == dtype
    # Core keeps a parameter that the network made in fp32 as it is.
    kept = {key for key, value in model.model.diffusion_model.state_dict().items() if value.dtype != dtype}
    (tmp_path / "hand").mkdir()
    rounded = {key: weight if key in kept else weight.to(dtype).float() for key, weight in plain.items()}
    assert_same_with_isa(model, loaded(rounded, tmp_path / "hand"))


def test_the_gate_never_runs_as_an_fp8_product(plain, tmp_path, monkeypatch):
    """With a GPU that has them: they need 16 outputs, and the gate has one."""
    monkeypatch.setattr(comfy.model_management, "supports_fp8_compute", lambda *_: True)
    model = loaded(plain, tmp_path, "fp8_e4m3fn_fast")
    attention = model.model.diffusion_model.blocks[0].self_attn
    assert isinstance(attention.q, comfy.ops.fp8_ops.Linear)
    assert not isinstance(attention.alpha_1, comfy.ops.fp8_ops.Linear) and attention.alpha_1.weight.dtype == E4M3
    assert sample(model).isfinite().all()


def scaled(weights, ending):
    """Every matrix in fp8 with a scale of its own, as core writes it; and what it then stands for."""
    stored, meant = dict(weights), dict(weights)
    for name in matrices(weights):
        scale = weights[name].abs().max() / torch.finfo(E4M3).max
        stored[name] = (weights[name] / scale).to(E4M3)
        meant[name] = stored[name].float() * scale
        stored[name.removesuffix("weight") + ending] = scale
        if ending == "weight_scale":
            layout = json.dumps({"format": "float8_e4m3fn"}).encode()
            stored[name.removesuffix("weight") + "comfy_quant"] = torch.tensor(list(layout), dtype=torch.uint8)
    if ending == "scale_weight":
        stored["scaled_fp8"] = torch.empty(0, dtype=E4M3)
    return stored, meant


@pytest.mark.parametrize("ending", ["weight_scale", "scale_weight"])
def test_scaled_fp8(plain, tmp_path, ending):
    stored, meant = scaled(plain, ending)
    (tmp_path / "hand").mkdir()
    model = loaded(stored, tmp_path)
    assert model.model.diffusion_model.blocks[0].self_attn.alpha_1.weight.dtype != torch.uint8
    assert_same_with_isa(model, loaded(meant, tmp_path / "hand"))


# As GGUF loaders do: weights stay packed, a loader's own layers unpack them at every use.


class Packed(torch.Tensor):
    """Q8_0: rows of blocks of 32 numbers, each two bytes of scale in fp16 and 32 signed bytes; it says the shape it stands for."""

    @staticmethod
    def __new__(cls, data, stands_for):
        return torch.Tensor._make_subclass(cls, data)

    def __init__(self, data, stands_for):
        self.stands_for = torch.Size(stands_for)

    @property
    def shape(self):
        return getattr(self, "stands_for", None) or self.size()

    def to(self, *args, **kwargs):
        return self

    def clone(self, *args, **kwargs):
        return self

    def detach(self):
        return self


def pack(weight):
    blocks = weight.reshape(-1, 32)
    scale = (blocks.abs().amax(1, keepdim=True) / 127).half()
    numbers = (blocks / scale.float().clamp_min(1e-12)).round().clamp(-127, 127).to(torch.int8)
    data = torch.cat([scale.view(torch.uint8), numbers.view(torch.uint8)], dim=1)
    return Packed(data.reshape(len(weight), -1), weight.shape)


def unpack(packed):
    data = packed.as_subclass(torch.Tensor).reshape(-1, 34)
    scale, numbers = data[:, :2].contiguous().view(torch.float16), data[:, 2:].contiguous().view(torch.int8)
    return (scale.float() * numbers.float()).reshape(packed.stands_for)


class PackedOps(comfy.ops.manual_cast):
    class Linear(comfy.ops.manual_cast.Linear):
        def __init__(self, *args, bias=True, device=None, dtype=None):
            torch.nn.Module.__init__(self)
            self.in_features, self.out_features = args
            self.weight = self.bias = None

        def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
            for name in ("weight", "bias"):
                value = state_dict.get(prefix + name)
                setattr(self, name, None if value is None else torch.nn.Parameter(value, requires_grad=False))

        def forward(self, x):
            weight = unpack(self.weight) if isinstance(self.weight, Packed) else self.weight
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return torch.nn.functional.linear(x, weight.to(x.dtype), bias)


def test_packed_weights_that_a_loader_unpacks_at_every_use(plain, tmp_path):
    names = set(matrices(plain))
    packed = {name: pack(weight) if name in names else weight for name, weight in plain.items()}
    unpacked = {name: unpack(packed[name]) if name in names else weight for name, weight in plain.items()}
    assert 1e-4 < error(unpacked["blocks.0.self_attn.alpha_1.weight"], plain["blocks.0.self_attn.alpha_1.weight"]) < 0.02
    metadata = core_metadata({name: tuple(weight.shape) for name, weight in plain.items()})
    model = comfy.sd.load_diffusion_model_state_dict(dict(packed), {"custom_operations": PackedOps}, metadata)
    assert isinstance(model.model.diffusion_model.blocks[0].self_attn.alpha_1, PackedOps.Linear)
    assert_same_with_isa(model, loaded(unpacked, tmp_path))


# Partly loaded


def network_output(model):
    options = {"sample_sigmas": torch.ones(2), "sigmas": torch.ones(1)}
    with torch.no_grad():
        return model.model.diffusion_model(
            X, torch.tensor([500.0]), TEXT, transformer_options=options, context_latents=[CONTEXT]
        )


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_model_that_is_only_partly_loaded(plain, tmp_path, share):
    """Core's own partial loading, with a LoRA on every layer of ours: nothing of it may be lost on what stays behind."""
    model = loaded(plain, tmp_path)
    names = [name for name in plain if name.endswith((".q.weight", "alpha_1.weight", "more_memory.weight"))]
    patches = {f"diffusion_model.{name}": ("diff", (plain[name] * 0.5,)) for name in names}
    patched = model.clone()
    assert len(patched.add_patches(patches, 1.0)) == len(names)
    expected = network_output(loaded({name: 1.5 * w if name in names else w for name, w in plain.items()}, tmp_path))
    before = network_output(model)
    patched.patch_model(CPU, lowvram_model_memory=max(1, int(share * patched.model_size())))
    try:
        gate = patched.model.diffusion_model.blocks[0].self_attn.alpha_1
        assert patched.model.model_lowvram and (share or gate.weight_function)
        assert error(network_output(patched), expected) < 1e-5 < error(before, expected)
    finally:
        patched.unpatch_model(CPU)
    assert torch.equal(network_output(model), before)


def test_a_conversion_to_scaled_fp8_is_half_as_large_and_near(plain, tmp_path):
    half = {name: weight.bfloat16().contiguous() for name, weight in plain.items()}
    half["blocks.0.ffn.0.weight"] = torch.zeros_like(half["blocks.0.ffn.0.weight"])
    save_file(half, tmp_path / "plain.safetensors", core_metadata({name: weight.shape for name, weight in half.items()}))
    convert_checkpoint(tmp_path / "plain.safetensors", tmp_path / "small.safetensors", "fp8")
    stored = load_file(tmp_path / "small.safetensors")
    small = {name for name, weight in stored.items() if weight.dtype == E4M3 and weight.numel() > 2}
    assert small == {name for name in matrices(half) if name.startswith("blocks.") and "alpha" not in name}
    assert all(stored[name.removesuffix("weight") + "scale_weight"].dtype == torch.float32 for name in small)
    reference = load_diffusion_model(str(tmp_path / "plain.safetensors"), "default")
    model = load_diffusion_model(str(tmp_path / "small.safetensors"), "default")
    assert 0 < error(sample(model), sample(reference)) < 0.05
    assert_same_with_isa_as_without(model)
    read = Unscaled(open_checkpoint(tmp_path / "small.safetensors"))
    assert {*read.shapes} == {*half}
    for name in small:
        assert error(read.tensor(name), half[name].float()) < 0.04 or not half[name].any() and not read.tensor(name).any()
    with pytest.raises(CheckpointError, match="quantised already"):
        convert_checkpoint(tmp_path / "small.safetensors", tmp_path / "again.safetensors", "fp8")
    with pytest.raises(CheckpointError, match="ComfyUI's alone"):
        convert_checkpoint(tmp_path / "plain.safetensors", tmp_path / "x.safetensors", "fp8", names={"head.head.bias": "b"})
    assert {path.name for path in tmp_path.iterdir()} == {"plain.safetensors", "small.safetensors"}


def assert_same_with_isa_as_without(model):
    whole, _ = attached(model, ISAConfig(keep_ratio=1, dense_query_ratio=1))
    assert error(sample(whole), sample(model)) < 1e-5
