"""The VAE and the text encoder without ComfyUI: from ComfyUI's files into diffusers and transformers, and the same numbers."""

import io
import json
import logging
import pickle
import sys
import unicodedata
import weakref

import comfy.latent_formats
import comfy.sd
import pytest
import sentencepiece
import torch
from comfy_headless import ROOT
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from hypothesis import example, given, settings
from hypothesis import strategies as st
from liveditor_isa.checkpoint.keys import CheckpointError
from liveditor_isa.checkpoint.opening import Checkpoint
from liveditor_isa.comfyui import loaders
from liveditor_isa.pipelines import text_encoder
from liveditor_isa.pipelines.checkpoint import diffusers_names
from liveditor_isa.pipelines.text_encoder import load_text_encoder, text_length, unknown_to
from liveditor_isa.pipelines.transformer import LIVEditorTransformer3DModel
from liveditor_isa.pipelines.vae import decode_video, encode_video, load_vae
from liveditor_isa.pipelines.weights import save_for_diffusers
from liveditor_isa.training.editor import start
from liveditor_isa.training.editor.settings import Model
from liveditor_isa.video.geometry import latent_groups
from make_tiny_model import ENCODER, INSTRUCTIONS, VAE, random_like, tokenizer
from plain_tiny import plain_tiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from setup import MODELS

VAES = {"included": ROOT / "weights/wan_tiny_vae.safetensors", "stand-in": MODELS / VAE}
ENCODERS = {"included": ROOT / "weights/umt5_tiny.safetensors", "stand-in": MODELS / ENCODER}
WAN = comfy.latent_formats.Wan21()


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def error(out, reference) -> float:
    return float((out - reference).norm() / reference.norm())


def refused(load, path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert path.name in message and "\n" not in message and message.endswith(".")
    return message


def without_one_weight(path, name: str):
    weights = load_file(path)
    del weights[name]
    save_file(weights, path, {"format": "pt"})


def video(frames: int = 9) -> torch.Tensor:
    """Colours that change over space and time, not noise alone."""
    t, y, x = torch.meshgrid(torch.arange(frames) / 8, torch.arange(48) / 48, torch.arange(64) / 64, indexing="ij")
    smooth = torch.stack([x * t, (y - t / 2).abs(), (x + y) / 2], -1)
    return (smooth + 0.1 * torch.rand(smooth.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


# The VAE


@pytest.fixture(scope="module", params=VAES)
def vaes(request):
    """Ours and ComfyUI's, of one file."""
    return load_vae(VAES[request.param]), loaders.load_vae(str(VAES[request.param]))


@pytest.mark.slow
def test_a_video_is_encoded_and_decoded_as_by_comfyui(vaes):
    ours, core = vaes
    latents = encode_video(ours, video())
    assert latents.shape == (1, 16, 3, 6, 8) and latents.dtype == torch.float32
    assert error(latents, WAN.process_in(core.encode(video()))) < 1e-5
    decoded = torch.cat([*decode_video(ours, latents)])
    reference = core.decode(WAN.process_out(latents))[0]
    assert decoded.shape == (9, 48, 64, 3) and decoded.min() >= 0 and decoded.max() <= 1
    assert error(decoded - 0.5, reference - 0.5) < 1e-5


@pytest.mark.slow
def test_chunks_of_any_length_are_encoded_padded_as_by_the_node(vaes):
    ours, core = vaes
    whole = torch.cat([*latent_groups([video(7)])])
    assert len(whole) == 9
    for frames in (video(7), video(7).split(3), iter(video(7).split(1))):
        assert error(encode_video(ours, frames), WAN.process_in(core.encode(whole))) < 1e-5
    assert encode_video(ours, video(1)).shape[2] == 1


def test_no_more_is_held_than_a_few_frames(vaes):
    """Frames are asked for when the ones before are encoded; latents are decoded when the frames before are taken."""
    ours, _ = vaes
    events = []

    def chunks():
        for chunk in video(13).split(1):
            events.append("read")
            yield chunk

    hooks = [ours.encoder.register_forward_hook(lambda *_: events.append("encoded"))]
    hooks += [ours.decoder.register_forward_hook(lambda *_: events.append("decoded"))]
    try:
        latents = encode_video(ours, chunks())
        assert events == ["read", "encoded", *(["read"] * 4 + ["encoded"]) * 3]
        events.clear()
        sizes = [(len(chunk), len(events)) for chunk in decode_video(ours, latents)]
    finally:
        [hook.remove() for hook in hooks]
    assert sizes == [(1, 1), (4, 2), (4, 3), (4, 4)]


def test_narrow_convolutions_are_diffusers_own_and_go_through_a_pickle():
    """They run through oneDNN on a CPU."""
    vae = load_vae(VAES["included"])
    again = pickle.loads(pickle.dumps(vae))
    convolution, copied = (each.decoder.up_blocks[-1].resnets[0].conv1 for each in (vae, again))
    assert type(convolution) is type(copied) is not WanCausalConv3d and isinstance(copied, WanCausalConv3d)
    volume = torch.randn(1, convolution.in_channels, 6, 20, 24, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.conv3d(volume, convolution.weight, convolution.bias)
    for each in (convolution, copied):
        assert error(each._conv_forward(volume, each.weight, each.bias), plain) < 1e-5


def test_tiles_are_blended_by_diffusers():
    vae = load_vae(VAES["included"])
    whole = encode_video(vae, video())
    frames = torch.cat([*decode_video(vae, whole)])
    vae.enable_tiling(32, 32, 24, 24)
    latents = encode_video(vae, video().split(4))
    tiled = torch.cat([*decode_video(vae, whole)])
    assert latents.shape == whole.shape and 1e-4 < error(latents, whole) < 0.5
    assert tiled.shape == frames.shape and 1e-4 < error(tiled, frames) < 0.5


def test_offloading_brings_the_vae_where_it_computes():
    from accelerate.hooks import ModelHook, add_hook_to_module

    class Offload(ModelHook):
        brought = 0

        def pre_forward(self, module, *args, **kwargs):
            self.brought += 1
            return args, kwargs

    vae, hook = load_vae(VAES["included"]), Offload()
    add_hook_to_module(vae, hook)
    latents = encode_video(vae, video(1))
    assert hook.brought == 1
    next(decode_video(vae, latents))
    assert hook.brought == 2


@pytest.mark.slow
def test_a_vae_is_saved_and_loaded_in_diffusers_layout(tmp_path):
    vae = load_vae(VAES["included"], torch.bfloat16)
    assert vae.dtype == torch.bfloat16
    vae.save_pretrained(tmp_path / "vae")
    for place in (tmp_path, tmp_path / "vae", tmp_path / "vae/diffusion_pytorch_model.safetensors"):
        again = load_vae(place, torch.bfloat16)
        assert again.config.base_dim == 32 and again.dtype == torch.bfloat16 and not again.training
        assert torch.equal(encode_video(again, video(1)), encode_video(vae, video(1)))
    without_one_weight(tmp_path / "vae/diffusion_pytorch_model.safetensors", "quant_conv.bias")
    assert "(1 weights are missing, unknown or misshapen, quant_conv.bias for one)" in refused(load_vae, tmp_path / "vae")
    (tmp_path / "vae/diffusion_pytorch_model.safetensors").unlink()
    assert "holds no AutoencoderKLWan that can be loaded" in refused(load_vae, tmp_path / "vae")


def test_the_defaults_for_normalising_are_wan_21s():
    config = load_vae(VAES["stand-in"]).config
    assert config.latents_mean == pytest.approx(WAN.latents_mean.flatten().tolist())
    assert config.latents_std == pytest.approx(WAN.latents_std.flatten().tolist())


SPOILED_VAES = {
    "lacks a weight": (lambda w: w.pop("decoder.middle.1.proj.bias"), "1 weights are missing.* decoder.mid_block.attentions.0"),
    "has one more": (lambda w: w.update({"decoder.more.weight": torch.ones(3)}), "1 weights are missing.* decoder.more.weight"),
    "has a misshapen one": (lambda w: w.update({"conv1.bias": torch.ones(31)}), "1 weights are missing.* quant_conv.bias"),
    "has more channels": (lambda w: w.update({"conv2.weight": torch.ones(48, 48, 1, 1, 1)}), "is not a Wan 2.1 VAE"),
    "is of another kind": (lambda w: w.pop("encoder.conv1.weight"), "is not a Wan 2.1 VAE"),
    "holds a number for a matrix": (lambda w: w.update({"encoder.conv1.weight": torch.tensor(1.0)}), "is not a Wan 2.1 VAE"),
}


@pytest.mark.parametrize("how", SPOILED_VAES)
def test_another_or_damaged_vae_is_refused(tmp_path, how):
    weights = load_file(VAES["included"])
    spoil, words = SPOILED_VAES[how]
    spoil(weights)
    save_file(weights, tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match=words):
        load_vae(tmp_path / "vae.safetensors")
    refused(load_vae, tmp_path / "vae.safetensors")


@pytest.mark.parametrize("error", [ImportError("needs protobuf"), NotImplementedError()])
def test_a_librarys_fault_is_not_blamed_on_the_files(tmp_path, monkeypatch, error):
    vae = load_vae(VAES["included"])
    vae.save_pretrained(tmp_path / "vae")

    def broken(*_, **__):
        raise error

    monkeypatch.setattr(type(vae), "from_pretrained", broken)
    monkeypatch.setattr("liveditor_isa.pipelines.text_encoder._tokenizer", broken)
    for load, place in ((load_vae, tmp_path), (load_text_encoder, ENCODERS["included"])):
        with pytest.raises(
            RuntimeError, match=r"^diffusers \S+ and transformers \S+ cannot load .*: update them, or install"
        ) as told:
            load(place)
        assert "download" not in str(told.value) and told.value.__cause__ is error


@pytest.mark.parametrize("load, other", [(load_vae, "text"), (load_text_encoder, "vae")])
def test_files_of_other_kinds_and_truncated_ones_are_refused(tmp_path, load, other):
    model, encoder = ROOT / "weights/liveditor_tiny.safetensors", ENCODERS["included"]
    for path in (model, encoder if other == "text" else VAES["included"]):
        assert " is not a " in refused(load, path)
    right = VAES["included"] if load is load_vae else encoder
    path = tmp_path / "cut.safetensors"
    path.write_bytes(right.read_bytes()[:-1000])
    assert "is truncated" in refused(load, path)
    path.write_bytes(b"no weights at all" * 100)
    refused(load, path)
    (tmp_path / "empty").mkdir()
    assert "that can be loaded" in refused(load, tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing.safetensors")


# The text encoder

LONG = "Make the video look like sunset, and add a red ball behind the big blue box. " * 8
PROMPTS = ["", "add a red ball behind the tree", LONG, "  Turn\nthe sky   GREEN!", "把天空变成粉红色，色调艳丽", "café ½ 🎉 é"]


def embedded(tokenizer, encoder, text: str, length: int = 0) -> torch.Tensor:
    """As diffusers' pipelines of Wan embed a text."""
    from diffusers import WanPipeline

    pipe = WanPipeline(tokenizer, encoder, None, None, None)
    return pipe._get_t5_prompt_embeds(text, max_sequence_length=length or text_length(tokenizer, text))


def same_as_core(ours, core, texts) -> None:
    pieces, encoder = ours
    for text in texts:
        tokens = core.tokenize(text)
        (ids,) = [[token for token, _ in row] for row in tokens["umt5xxl"]]
        assert text_length(pieces, text) == len(ids)
        assert pieces(text, padding="max_length", max_length=len(ids)).input_ids == ids
        text = text.strip()  # as diffusers does; it counts for no token
        assert error(embedded(pieces, encoder, text), core.encode_from_tokens(tokens)) < 1e-5


@pytest.mark.parametrize("which, length", [("included", 32), ("stand-in", 512)])
def test_texts_are_embedded_as_by_comfyui(which, length):
    ours = load_text_encoder(ENCODERS[which], torch.float32)
    assert [text_length(ours[0], text) for text in PROMPTS[:2]] == [length, length]
    same_as_core(ours, loaders.load_text_encoder(str(ENCODERS[which])), PROMPTS)


def xxl_weights() -> tuple[dict, dict]:
    """UMT5-XXL by its names, its layers and the width by which core knows it, all else made small; and what core must be told."""
    config = {"d_ff": 10240, "d_kv": 4, "d_model": 16, "num_heads": 2, "num_layers": 24, "vocab_size": 256}
    shapes = {"shared.weight": (256, 16), "encoder.final_layer_norm.weight": (16,)}
    for block in (f"encoder.block.{index}.layer" for index in range(24)):
        shapes |= {f"{block}.0.SelfAttention.{name}.weight": (8, 16) for name in "qkv"}
        shapes |= {f"{block}.0.SelfAttention.o.weight": (16, 8), f"{block}.1.DenseReluDense.wo.weight": (16, 10240)}
        shapes |= {f"{block}.1.DenseReluDense.wi_{index}.weight": (10240, 16) for index in (0, 1)}
        shapes |= {f"{block}.{index}.layer_norm.weight": (16,) for index in (0, 1)}
        shapes[f"{block}.0.SelfAttention.relative_attention_bias.weight"] = (32, 2)
    weights = random_like(shapes, seed=3, gain=0.5)
    return weights | {"spiece_model": torch.frombuffer(bytearray(tokenizer()), dtype=torch.uint8)}, config


def scaled(weights: dict, ending: str) -> dict:
    """As ComfyUI stores scaled fp8: the linear layers, each with its scale."""
    stored = {}
    for name, weight in weights.items():
        if "bias" not in name and ("SelfAttention" in name or "DenseReluDense" in name):
            scale = weight.abs().max() / torch.finfo(torch.float8_e4m3fn).max
            stored[name], stored[name.removesuffix("weight") + ending] = (weight / scale).to(torch.float8_e4m3fn), scale
            if ending == "weight_scale":
                layout = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
                stored[name.removesuffix("weight") + "comfy_quant"] = layout
        else:
            stored[name] = weight if weight.dtype == torch.uint8 else weight.half()
    return stored | ({"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)} if ending == "scale_weight" else {})


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["fp16", "scale_weight", "weight_scale"])
def test_files_of_xxl_are_read_as_by_comfyui(tmp_path, stored):
    weights, config = xxl_weights()
    path = tmp_path / "umt5_xxl.safetensors"
    if stored == "fp16":
        save_file({name: weight if weight.dtype == torch.uint8 else weight.half() for name, weight in weights.items()}, path)
    else:
        save_file(scaled(weights, stored), path)
    options = {"umt5xxl_model_config": config | {"dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True}}
    options["umt5xxl_model_config"] |= {"model_type": "umt5", "layer_norm_epsilon": 1e-6}
    core = comfy.sd.load_clip([str(path)], clip_type=comfy.sd.CLIPType.WAN, model_options=options)
    ours = load_text_encoder(path, torch.float32)
    assert text_length(ours[0], "") == 512
    expected = core.encode_from_tokens(core.tokenize(PROMPTS[1], min_length=24))  # for speed
    assert expected.shape[1] == 24 and error(embedded(*ours, PROMPTS[1], 24), expected) < 1e-5


def test_fp8_weights_are_put_back_one_by_one(tmp_path, monkeypatch):
    """A file of 6 GB must not take its own size beside the weights in memory."""
    weights, _ = xxl_weights()
    save_file(scaled(weights, "scale_weight"), tmp_path / "umt5_xxl.safetensors")
    given, read = Checkpoint.tensor, []

    def tensor(self, name):
        assert sum(ref() is not None for ref in read) <= 1  # a weight, while its scale is read
        read.append(weakref.ref(found := given(self, name)))
        return found

    monkeypatch.setattr(Checkpoint, "tensor", tensor)
    _, encoder = load_text_encoder(tmp_path / "umt5_xxl.safetensors", torch.bfloat16)
    assert len(read) > 300 and {weight.dtype for weight in encoder.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("ending", ["scale_weight", "weight_scale"])
def test_a_network_in_comfyuis_scaled_fp8_is_read_converted_and_trained_as_its_plain_numbers(tmp_path, ending):
    (plain, _), stored = plain_tiny(), {}
    for name, weight in plain.items():
        stored[name] = weight
        if weight.ndim == 2 and name.startswith("blocks.") and "alpha" not in name:
            scale = weight.float().abs().max() / torch.finfo(torch.float8_e4m3fn).max
            stored[name] = (weight.float() / scale).to(torch.float8_e4m3fn)
            stored[name.removesuffix("weight") + ending] = scale
            plain[name] = stored[name].float() * scale
    if ending == "scale_weight":
        stored["scaled_fp8"] = torch.empty(2, dtype=torch.float8_e4m3fn)
    with safe_open(ROOT / "weights/liveditor_tiny.safetensors", "pt") as file:
        save_file(stored, tmp_path / "scaled.safetensors", file.metadata())
    network = LIVEditorTransformer3DModel.from_single_file(tmp_path / "scaled.safetensors", torch.float32)
    names = diffusers_names(network)
    assert all(torch.equal(network.state_dict()[name], plain[official].float()) for official, name in names.items())
    save_for_diffusers(tmp_path / "scaled.safetensors", tmp_path / "folder", "fp32")
    again = LIVEditorTransformer3DModel.from_pretrained(tmp_path / "folder")
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in network.state_dict().items())
    trained = start.load(Model(str(tmp_path / "scaled.safetensors"), trains="lora"), torch.float32)
    assert all(torch.equal(weight, trained.state_dict()[name]) for name, weight in network.state_dict().items())


def test_half_precision_keeps_in_fp32_what_transformers_keeps():
    _, encoder = load_text_encoder(ENCODERS["included"], torch.float16)
    wide = {name for name, weight in encoder.named_parameters() if weight.dtype == torch.float32}
    assert wide == {f"encoder.block.{index}.layer.1.DenseReluDense.wo.weight" for index in range(3)}
    assert encoder.dtype == torch.float16


def test_a_text_encoder_is_saved_and_loaded_in_diffusers_layout(tmp_path):
    pieces, encoder = load_text_encoder(ENCODERS["included"], torch.float32)
    expected = embedded(pieces, encoder, PROMPTS[1])
    for name in ("a pipeline's", "one"):
        folders = [tmp_path / name / part if name != "one" else tmp_path / name for part in ("text_encoder", "tokenizer")]
        encoder.save_pretrained(folders[0])
        pieces.save_pretrained(folders[1])
        again = load_text_encoder(tmp_path / name, torch.float32)
        assert torch.equal(embedded(*again, PROMPTS[1]), expected)
        assert text_length(again[0], "") == 32 and unknown_to(again[1], "a red zebra") == ["zebra"]
    norm = "encoder.final_layer_norm.weight"
    without_one_weight(tmp_path / "a pipeline's/text_encoder/model.safetensors", norm)
    with pytest.raises(CheckpointError, match=rf"a pipeline's/text_encoder holds no UMT5EncoderModel .*\(1 weights.*{norm}"):
        load_text_encoder(tmp_path / "a pipeline's")
    (tmp_path / "one/tokenizer.json").write_text("{")
    assert "holds no tokenizer" in refused(load_text_encoder, tmp_path / "one")


def test_words_that_a_small_encoder_was_never_taught_are_logged(caplog):
    _, encoder = load_text_encoder(ENCODERS["included"])
    assert unknown_to(encoder, "Add a zebra behind the red unicorn, a Zebra!") == ["zebra", "unicorn"]
    assert [line.getMessage() for line in caplog.records] == ["The text encoder was never taught: zebra, unicorn"]
    caplog.clear()
    assert unknown_to(encoder, "add a red ball") == [] and not caplog.records
    assert unknown_to(load_text_encoder(ENCODERS["stand-in"])[1], "zebra") == []


# Its tokenizer: sentencepiece's own ids.


def trained(**options) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(INSTRUCTIONS.split("\n")), model_writer=model, hard_vocab_limit=False, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, num_threads=1, minloglevel=2, **options,
    )  # fmt: skip
    return model.getvalue()


@pytest.fixture(scope="module")
def pairs():
    """Ours and sentencepiece, of models of several settings; UMT5's own falls back to bytes and has pieces made by hand."""
    models = [
        bytes(load_file(ENCODERS["included"])["spiece_model"].numpy()),
        trained(vocab_size=256),
        trained(vocab_size=700, byte_fallback=True, user_defined_symbols=["<extra_id_0>", "<extra_id_1>"]),
        trained(vocab_size=700, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False),
    ]
    return [
        (text_encoder._tokenizer(each, 512), sentencepiece.SentencePieceProcessor(model_proto=each, add_eos=True))
        for each in models
    ]


ALPHABET = st.characters(exclude_categories=["Cs", "Cn", "Co", "Cc", "Mn", "Mc", "Me"])


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.sampled_from(INSTRUCTIONS.split()) | st.text(ALPHABET, max_size=6), max_size=8),
    st.sampled_from([" ", "", "\n"]),
)
@example(["<extra_id_0>", "a", "<extra_id_1>b"], " ")
@example(["Đổi", "xe", "हिन्दी", "में", "ประเทศ", "👩🏽‍🚀", "\r\n\tthe", "cafe\u0301"], "  ")
def test_the_tokenizer_gives_sentencepieces_ids(pairs, words, space):
    text = space.join(words)
    for ours, reference in pairs:
        assert ours(text).input_ids == reference.encode(text)


@pytest.mark.parametrize(
    "text", ["Đổi chiếc xe thành màu xanh, thêm mặt trời lặn", "하늘을 분홍색으로 바꿔 줘", "añade un balón"]
)
def test_decomposed_letters_are_none_the_less_the_same(pairs, text):
    """As they come from file names on Apple's computers."""
    text = unicodedata.normalize("NFD", text)
    for ours, reference in pairs[:3]:
        assert ours(text).input_ids == reference.encode(text)


def test_diffusers_call_gets_its_mask(pairs):
    pieces, _ = pairs[0]
    out = pieces(
        ["add a red ball", LONG], padding="max_length", max_length=24, truncation=True, add_special_tokens=True,
        return_attention_mask=True, return_tensors="pt",
    )  # fmt: skip
    assert out.input_ids.shape == out.attention_mask.shape == (2, 24)
    used = int(out.attention_mask[0].sum())
    assert out.input_ids[0, used - 1] == 1 and not out.input_ids[0, used:].any() and out.input_ids[1, -1] == 1


@pytest.mark.parametrize("missing", ["sentencepiece", "google.protobuf"])
def test_what_reads_the_tokenizer_may_be_missing(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(RuntimeError, match=f"^{missing.split('.')[-1]} (is missing|cannot be imported)"):
        load_text_encoder(ENCODERS["included"])


def with_metadata(**texts):
    return {"config": json.dumps({"text_encoder": texts})}


SPOILED_ENCODERS = {
    "lacks its tokenizer": (
        lambda w: w.pop("spiece_model"),
        {},
        "not a UMT5 text encoder with its tokenizer inside: pick umt5",
    ),
    "has a damaged tokenizer": (lambda w: w.update(spiece_model=w["spiece_model"][1000:]), {}, "does not fit"),
    "lacks a weight": (lambda w: w.pop("encoder.block.2.layer.0.layer_norm.weight"), {}, "1 weights are missing.*layer_norm"),
    "has one more": (lambda w: w.update({"more.weight": torch.ones(3)}), {}, "1 weights are missing.* more.weight"),
    "is T5": (
        lambda w: [w.pop(f"encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight") for i in (1, 2)],
        {},
        "2 weights are missing.*relative_attention_bias",
    ),
    "embeds too few tokens": (lambda w: w.update({"shared.weight": w["shared.weight"][:300]}), {}, "embeds 300 of the [0-9]+"),
    "is quantised otherwise": (
        lambda w: w.update({"shared.weight": torch.zeros(512, 256, dtype=torch.int8), "shared.weight_scale": torch.ones(512)}),
        {},
        "quantised in a way that only ComfyUI reads: pick umt5_xxl_fp8_e4m3fn_scaled",
    ),
    "has a scale for each row": (
        lambda w: w.update({"shared.weight_scale": torch.ones(512)}),
        {},
        "quantised in a way that only ComfyUI reads",
    ),
    "says nonsense of its length": (lambda w: None, with_metadata(min_length=10**9), "nonsense of its texts"),
    "says nonsense of its words": (lambda w: None, with_metadata(words=[1]), "nonsense of its texts"),
    "says nonsense": (lambda w: None, {"config": "{"}, "does not fit"),
    "says something else": (lambda w: None, {"config": "[]"}, "does not fit"),
}


@pytest.mark.parametrize("how", SPOILED_ENCODERS)
def test_another_or_damaged_text_encoder_is_refused(tmp_path, how, caplog):
    weights = load_file(ENCODERS["included"])
    spoil, metadata, words = SPOILED_ENCODERS[how]
    spoil(weights)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, tmp_path / "text.safetensors", metadata)
    with caplog.at_level(logging.CRITICAL), pytest.raises(CheckpointError, match=words):
        load_text_encoder(tmp_path / "text.safetensors")
    refused(load_text_encoder, tmp_path / "text.safetensors")
