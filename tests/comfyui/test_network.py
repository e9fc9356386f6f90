"""The LIVEditor model class on ComfyUI's Wan: what it computes, and that core's own machinery works on it."""

import comfy.model_base
import comfy.model_management
import comfy.sample
import comfy.sd
import comfy.utils
import pytest
import torch
from liveditor_isa.checkpoint.keys import CheckpointError
from liveditor_isa.comfyui.architecture import LIVEditor, LIVEditorBase, register
from liveditor_isa.comfyui.loaders import load_diffusion_model
from liveditor_isa.comfyui.network import LIVEditorModel
from make_tiny_model import PLAIN_WAN
from model_reference import reference_forward
from safetensors.torch import save_file

TEXT = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def model(liveditor_file):
    register()
    return load_diffusion_model(str(liveditor_file))


def latent(frames=3, height=8, width=12, seed=0):
    return torch.randn(1, 16, frames, height, width, generator=torch.Generator().manual_seed(seed))


def forward(model, x, contexts, timestep=700.0):
    """One call of the network, without what a LoRA test before may have left patched into its weights."""
    if not model.model.model_lowvram:
        comfy.model_management.load_models_gpu([model])
    network = model.model.diffusion_model
    with torch.no_grad():
        return network(x, torch.tensor([timestep]), context=TEXT, context_latents=contexts, transformer_options={})


def sample(model, contexts, noise=None, steps=2):
    """A short run through core's sampler, which loads, patches and casts as in use."""
    noise = latent(seed=9) if noise is None else noise
    positive = [[TEXT, {"context_latents": contexts}]]
    negative = [[TEXT * 0, {"context_latents": contexts}]]
    return comfy.sample.sample(model, noise, steps, 2.5, "euler", "simple", positive, negative, torch.zeros_like(noise), seed=1)


def relative_error(out, reference):
    return float((out.double() - reference.double()).norm() / reference.double().norm())


CONTEXTS = {
    "one context": [latent(seed=1)],
    "two contexts of other sizes": [latent(seed=1), latent(1, 6, 8, seed=2)],
    "no context": [],
}


@pytest.mark.parametrize("contexts", CONTEXTS.values(), ids=CONTEXTS)
def test_equals_the_reference_network(model, weights, contexts):
    x = latent()
    assert relative_error(forward(model, x, contexts), reference_forward(weights, x, 700.0, TEXT, contexts)) < 2e-5


def test_positions_restart_for_each_group(model, weights, monkeypatch):
    """The oracle with running positions differs, so the test above can tell them apart."""
    import model_reference

    restarting, calls = model_reference.rope_angles, []

    def running(latent):
        calls.append(latent)
        return restarting(latent) + 0.5 * (len(calls) - 1)

    monkeypatch.setattr(model_reference, "rope_angles", running)
    x, contexts = latent(), CONTEXTS["one context"]
    assert relative_error(forward(model, x, contexts), reference_forward(weights, x, 700.0, TEXT, contexts)) > 1e-3


def test_the_gate_matters(model, weights):
    open_gate = {name: 50 * weight if "alpha_1" in name else weight for name, weight in weights.items()}
    x, contexts = latent(), CONTEXTS["one context"]
    assert relative_error(forward(model, x, contexts), reference_forward(open_gate, x, 700.0, TEXT, contexts)) > 1e-3


def test_odd_latents_are_padded_and_cut_back(model):
    x = latent(2, 7, 9)
    out = forward(model, x, [latent(2, 7, 9, seed=3)])
    assert out.shape == x.shape and out.isfinite().all()


def test_batch_elements_do_not_mix(model):
    x, context = torch.cat([latent(seed=0), latent(seed=4)]), torch.cat([latent(seed=1), latent(seed=5)])
    network = model.model.diffusion_model
    with torch.no_grad():
        times, text = torch.tensor([700.0, 300.0]), torch.cat([TEXT, TEXT * 0.5])
        both = network(x, times, context=text, context_latents=[context], transformer_options={})
        second = network(x[1:], times[1:], context=text[1:], context_latents=[context[1:]], transformer_options={})
    assert relative_error(both[1:], second) < 1e-5


def test_core_detects_liveditor_and_plain_wan_stays_plain(liveditor_file, models):
    register()
    assert type(comfy.sd.load_diffusion_model(str(liveditor_file)).model) is LIVEditorBase
    plain = comfy.sd.load_diffusion_model(str(models / PLAIN_WAN))
    assert type(plain.model) is comfy.model_base.WAN21
    assert not isinstance(plain.model.diffusion_model, LIVEditorModel)


def test_registering_twice_leaves_one_entry():
    register()
    register()
    assert [model.__qualname__ for model in comfy.supported_models.models].count(LIVEditor.__qualname__) == 1


def test_a_plain_wan_file_is_refused(models):
    with pytest.raises(CheckpointError, match="plain Wan checkpoint"):
        load_diffusion_model(str(models / PLAIN_WAN))


def test_no_weight_is_left_unloaded(liveditor_file, weights):
    loaded = load_diffusion_model(str(liveditor_file)).model.diffusion_model.state_dict()
    for name, weight in weights.items():
        if ".alpha_2" in name or "cross_attn.alpha" in name:
            assert name not in loaded
        else:
            assert torch.equal(loaded[name].float(), weight), name


def test_defaults_are_the_releases(model):
    """bf16, in which it was trained; on this machine's CPU core runs everything in fp32."""
    assert LIVEditor.supported_inference_dtypes[0] == torch.bfloat16
    assert model.get_model_object("model_sampling").shift == 6.0


def test_memory_estimate_counts_the_context(model):
    base, x, contexts = model.model, latent(), [latent(seed=1), latent(seed=2)]
    shapes = base.extra_conds_shapes(context_latents=contexts)
    alone = base.memory_required(x.shape)
    with_context = base.memory_required(x.shape, {name: [shape] for name, shape in shapes.items()})
    assert with_context == pytest.approx(3 * alone)


@pytest.mark.parametrize("weight_dtype, error", [("fp8_e4m3fn", 0.2), ("fp8_e5m2", 0.4), ("fp8_e4m3fn_fast", 0.2)])
def test_fp8_weights(liveditor_file, model, weight_dtype, error):
    small = load_diffusion_model(str(liveditor_file), weight_dtype)
    assert small.model.diffusion_model.blocks[0].ffn[0].weight.dtype.itemsize == 1
    contexts = CONTEXTS["one context"]
    assert 0 < relative_error(sample(small, contexts), sample(model, contexts)) < error


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_files(models, model, tmp_path, dtype):
    from liveditor_isa.checkpoint.convert import convert_checkpoint
    from make_tiny_model import MODEL

    convert_checkpoint(models / MODEL, tmp_path / "half.safetensors", dtype)
    half = load_diffusion_model(str(tmp_path / "half.safetensors"))
    contexts = CONTEXTS["one context"]
    assert 0 < relative_error(sample(half, contexts), sample(model, contexts)) < 0.03


def test_lora_equals_merged_weights(weights, model, tmp_path):
    generator = torch.Generator().manual_seed(3)
    name = "blocks.1.self_attn.q"
    up, down = (torch.randn(shape, generator=generator) * 0.1 for shape in ((256, 4), (4, 256)))
    lora = {f"diffusion_model.{name}.lora_A.weight": down, f"diffusion_model.{name}.lora_B.weight": up}
    with_lora, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.7, 0)

    merged = {**weights, f"{name}.weight": weights[f"{name}.weight"] + 0.7 * up @ down}
    save_file(merged, tmp_path / "merged.safetensors", {"config": '{"transformer": {"text_dim": 64}}'})
    contexts = CONTEXTS["one context"]
    plain, patched = sample(model, contexts), sample(with_lora, contexts)
    assert relative_error(patched, sample(load_diffusion_model(str(tmp_path / "merged.safetensors")), contexts)) < 1e-5
    assert relative_error(patched, plain) > 1e-4


def test_weights_kept_off_the_device_are_cast_when_used(liveditor_file, model):
    """Core's low-VRAM mode: only the small parts are loaded, everything else is cast call by call."""
    tight = load_diffusion_model(str(liveditor_file), disable_dynamic=True)
    tight.load(torch.device("cpu"), lowvram_model_memory=100_000)
    assert tight.model.model_lowvram
    contexts = CONTEXTS["one context"]
    assert relative_error(forward(tight, latent(), contexts), forward(model, latent(), contexts)) < 1e-6


def test_core_can_make_fresh_copies(model):
    factory, arguments = model.cached_patcher_init
    copy = factory(*arguments, disable_dynamic=True)
    contexts = CONTEXTS["one context"]
    assert torch.equal(forward(copy, latent(), contexts), forward(model, latent(), contexts))


def test_damaged_weights_stop_the_run_and_are_named(weights, tmp_path):
    damaged = {**weights, "blocks.2.ffn.0.weight": weights["blocks.2.ffn.0.weight"] * float("nan")}
    save_file(damaged, tmp_path / "damaged.safetensors", {"config": '{"transformer": {"text_dim": 64}}'})
    model = load_diffusion_model(str(tmp_path / "damaged.safetensors"))
    with pytest.raises(ValueError, match=r"blocks\.2\.ffn\.0\.weight holds NaN"):
        forward(model, latent(), [])


def test_an_overflow_is_not_blamed_on_the_weights(model):
    model = model.clone()
    model.set_model_patch(lambda args: {"img": args["img"] * float("inf")}, "double_block")
    with pytest.raises(ValueError, match="not finite although its weights are"):
        sample(model, [])


def test_a_latent_that_is_not_finite_is_not_blamed_on_the_model(model):
    with pytest.raises(ValueError, match="sampler gave to the model is not finite"):
        forward(model, latent() * float("inf"), [])


def test_block_replacement_and_probes_of_other_nodes_run(model):
    """What core and other packs hang on a Wan block is called on LIVEditor's too."""
    seen = []

    def replace(args, extra):
        seen.append(("replace", args["transformer_options"]["block_index"]))
        return extra["original_block"](args)

    def probe(args):
        seen.append(("attn1", tuple(args["q"].shape)))
        return args["x"]

    options = {"patches_replace": {"dit": {("double_block", 1): replace}}, "patches": {"attn1_patch": [probe]}}
    x, contexts = latent(), CONTEXTS["one context"]
    with torch.no_grad():
        patched = model.model.diffusion_model(
            x, torch.tensor([700.0]), context=TEXT, context_latents=contexts, transformer_options=options
        )
    assert torch.equal(patched, forward(model, x, contexts))
    assert ("replace", 1) in seen and seen.count(("attn1", (1, 144, 2, 128))) == 4
