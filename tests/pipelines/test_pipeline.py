"""LIVEditor in diffusers makes what it makes in ComfyUI, and does what diffusers' pipelines do."""

import re
from fractions import Fraction
from functools import partial

import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from liveditor_isa.checkpoint.included import path_of
from liveditor_isa.comfyui.architecture import register
from liveditor_isa.comfyui.loaders import load_text_encoder, load_vae
from liveditor_isa.comfyui.vae_encode import encode_groups
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.pipelines.attention import attach_isa
from liveditor_isa.pipelines.pipeline import LIVEditorPipeline
from liveditor_isa.pipelines.steps import simple_sigmas
from liveditor_isa.runtime.live import LiveSettings, Settings
from liveditor_isa.runtime.schedule import Schedule
from liveditor_isa.video.clip import open_clip
from liveditor_isa.video.geometry import fit_frames, latent_groups, size_within
from liveditor_isa.video.source import FileSource
from PIL import Image
from plain_tiny import plain_tiny
from safetensors.torch import save_file

WIDTH, HEIGHT, FRAMES, STEPS, GUIDANCE, SEED = 96, 64, 7, 3, 1.5, 7
PROMPT, NEGATIVE = "Make the video look like sunset", "night"
ISA = ISAConfig(keep_ratio=0.5, block_size=16)


@pytest.fixture(scope="module")
def frames(sample_video):
    """[F, H, W, 3], a little wider than the edit."""
    clip = open_clip(FileSource(str(sample_video)), FRAMES, 0)
    return torch.cat([fit_frames(chunk, WIDTH + 16, HEIGHT)[0] for chunk in clip.chunks()])


@pytest.fixture(scope="module")
def comfyui():
    """MODEL, CLIP and VAE of ComfyUI, all in fp32."""
    register()
    weights, metadata = plain_tiny()
    model = comfy.sd.load_diffusion_model_state_dict(weights, {"dtype": torch.float32}, metadata)
    return model, load_text_encoder(path_of("text_encoder")), load_vae(path_of("vae"))


def in_comfyui(parts, videos, patch=lambda model: model):
    """The latent that ComfyUI's nodes make, as its network sees latents."""
    model, clip, vae = parts
    context = [encode_groups(vae, partial(latent_groups, [video])) for video in videos]
    positive, negative = (
        [[clip.encode_from_tokens(clip.tokenize(text)), {"context_latents": context}]] for text in (PROMPT, NEGATIVE)
    )
    empty = torch.zeros_like(context[0])
    noise = comfy.sample.prepare_noise(empty, SEED)
    latent = comfy.sample.sample(
        patch(model), noise, STEPS, GUIDANCE, "euler", "simple", positive, negative, empty, seed=SEED, disable_pbar=True
    )
    return model.model.process_latent_in(latent)


def edited(pipe, video, output_type="latent", prompt=PROMPT, **changed):
    """The frames, [F, H, W, 3], or a video in a form of its own."""
    video = video.movedim(-1, 1) if isinstance(video, torch.Tensor) and video.shape[-1] == 3 else video
    options = {"negative_prompt": NEGATIVE, "width": WIDTH, "height": HEIGHT, "num_inference_steps": STEPS}
    options |= {"guidance_scale": GUIDANCE, "generator": torch.Generator().manual_seed(SEED)}
    return pipe(video, prompt, **{**options, **changed}, output_type=output_type).frames


def difference(one, other) -> float:
    return ((one - other).norm() / one.norm()).item()


@pytest.fixture(scope="module")
def usual(pipe, frames):
    return edited(pipe, frames)


# What ComfyUI makes.


@pytest.mark.slow
def test_the_same_latents_as_in_comfyui(pipe, frames, comfyui, usual):
    """From the same frames, words and seed: through text encoder, VAE, network and sampler."""
    fitted = fit_frames(frames, WIDTH, HEIGHT)[0]
    assert difference(in_comfyui(comfyui, [fitted]), usual) < 1e-4
    assert difference(usual, edited(pipe, frames, generator=torch.Generator().manual_seed(8))) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("context_refresh", [0, 2])
def test_the_same_with_a_reference_and_isa(pipe, frames, comfyui, context_refresh):
    """The same blocks are kept, the same ones are sharp, and the same steps compute the context."""
    from liveditor_isa.comfyui.attach import attach_isa as attach_to_comfyui

    picture = Image.fromarray((frames[3].numpy() * 255).astype("uint8"))
    size = size_within(*picture.size, max(WIDTH, HEIGHT))
    small = fit_frames(torch.from_numpy(np.array(picture))[None] / 255, *size)[0]
    shown = []
    live, schedule = LiveSettings(Settings(ISA, context_refresh=context_refresh)), Schedule()
    expected = in_comfyui(
        comfyui,
        [fit_frames(frames, WIDTH, HEIGHT)[0], small],
        lambda model: attach_to_comfyui(model, live, schedule, "torch", shown.append),
    )
    isa = attach_isa(pipe.transformer, ISA, min_tokens=0, context_refresh=context_refresh)
    try:
        found = edited(pipe, frames, references=[picture])
    finally:
        isa.detach()
    told = isa.report()
    assert difference(expected, found) < 1e-3
    assert cost(told) == cost(shown[0]) and refreshed(told) == refreshed(shown[0])
    assert refreshed(told) == (Fraction(2, 3) if context_refresh else None)
    assert difference(expected, edited(pipe, frames, references=[picture])) > 1e-2, "ISA has no effect"


def cost(summary: str) -> list[str]:
    """What of full attention's work was done, in words."""
    return re.findall(r"[\d.]+%", summary.splitlines()[0])


def refreshed(summary: str) -> Fraction | None:
    """Share of the model calls that computed the context; ComfyUI makes one call of both passes of guidance."""
    told = re.search(r"The context was computed in (\d+) of (\d+)", summary)
    return told and Fraction(*map(int, told.groups()))


@pytest.mark.slow
def test_a_lora_of_comfyui_does_the_same(pipe, frames, comfyui, usual, tmp_path):
    weights, names = {}, ("blocks.0.self_attn.q", "blocks.3.ffn.0", "blocks.9.cross_attn.v")
    shapes = {name: comfyui[0].model.diffusion_model.get_submodule(name).weight.shape for name in names}
    for seed, (name, (rows, columns)) in enumerate(shapes.items()):
        generator = torch.Generator().manual_seed(seed)
        weights[f"diffusion_model.{name}.lora_A.weight"] = torch.randn(4, columns, generator=generator) * 0.3
        weights[f"diffusion_model.{name}.lora_B.weight"] = torch.randn(rows, 4, generator=generator) * 0.3
    save_file(weights, tmp_path / "lora.safetensors")
    fitted = fit_frames(frames, WIDTH, HEIGHT)[0]
    expected = in_comfyui(comfyui, [fitted], lambda model: comfy.sd.load_lora_for_models(model, None, weights, 1.0, 0)[0])
    pipe.load_lora_weights(str(tmp_path / "lora.safetensors"))
    try:
        assert difference(expected, edited(pipe, frames)) < 1e-4
        assert difference(expected, edited(pipe, frames, attention_kwargs={"scale": 0.5})) > 1e-2
    finally:
        pipe.unload_lora_weights()
    assert difference(expected, usual) > 1e-2 and torch.equal(edited(pipe, frames), usual)


@pytest.mark.parametrize("steps", [1, 7, 12, 32])
def test_the_schedule_is_comfyuis_simple_one(comfyui, steps):
    sampling = comfyui[0].model.model_sampling
    scheduler = FlowMatchEulerDiscreteScheduler(shift=6.0)
    scheduler.set_timesteps(sigmas=simple_sigmas(steps))
    expected = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
    assert torch.allclose(scheduler.sigmas, expected, atol=1e-6)


# What diffusers' pipelines do.


@pytest.mark.slow
@pytest.mark.parametrize("output_type", ["np", "pt", "pil"])
def test_frames_come_as_asked(pipe, frames, output_type):
    """As many as went in, though the model makes 4n+1; at the size of the edit."""
    found = edited(pipe, frames, output_type, num_inference_steps=1)
    if output_type == "pil":
        assert len(found[0]) == FRAMES and found[0][0].size == (WIDTH, HEIGHT)
        return
    shape = (1, FRAMES, HEIGHT, WIDTH, 3) if output_type == "np" else (1, FRAMES, 3, HEIGHT, WIDTH)
    assert found.shape == shape and 0 <= found.min() < found.max() <= 1


@pytest.mark.slow
def test_videos_come_in_any_form(pipe, frames, usual):
    pictures = [Image.fromarray((frame.numpy() * 255).round().astype("uint8")) for frame in frames]
    for form in (frames.numpy(), list(frames.movedim(-1, 1)), frames.movedim(-1, 1)[None]):
        assert torch.equal(edited(pipe, form), usual)
    assert difference(usual, edited(pipe, pictures)) < 0.05


def test_several_prompts_are_several_edits(pipe, frames, usual):
    generators = [torch.Generator().manual_seed(SEED) for _ in range(2)]
    both = edited(pipe, frames, prompt=[PROMPT, "Make it night"], negative_prompt=[NEGATIVE, NEGATIVE], generator=generators)
    assert difference(usual, both[:1]) < 1e-4 and difference(usual, both[1:]) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("encoded_before", [False, True])
def test_texts_of_unlike_length_leave_each_other_as_they_are(pipe, frames, usual, encoded_before):
    """One is longer than the model's own length, to which the other is padded, alone as in the batch."""
    long = "Make the rabbit blue, then let it snow and rain. " * 2
    assert len(pipe.tokenizer(long).input_ids) > pipe.tokenizer.model_max_length > len(pipe.tokenizer(PROMPT).input_ids)
    texts = {"prompt": [PROMPT, long], "negative_prompt": [long, NEGATIVE]}
    if encoded_before:
        given = zip(("prompt_embeds", "negative_prompt_embeds"), pipe.encode_prompt(*texts.values()))
        texts = {"prompt": None, **dict(given)}
    generators = [torch.Generator().manual_seed(SEED) for _ in range(2)]
    both = edited(pipe, frames, **texts, generator=generators)
    for one, prompt, negative in zip(both, (PROMPT, long), (long, NEGATIVE)):
        alone = edited(pipe, frames, prompt=prompt, negative_prompt=negative)
        assert difference(alone, one[None]) < 1e-5


def test_texts_may_be_encoded_before(pipe, frames, usual):
    texts = dict(zip(("prompt_embeds", "negative_prompt_embeds"), pipe.encode_prompt(PROMPT, NEGATIVE)))
    assert torch.equal(edited(pipe, frames, prompt=None, **texts), usual)


def test_callbacks_see_and_change_each_step(pipe, frames, usual):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, round(timestep.item())))
        if step == 1:
            pipe._interrupt = True
        return {"latents": tensors["latents"]}

    found = edited(pipe, frames, callback_on_step_end=callback)
    assert seen == [(0, 1000), (1, 923)] and difference(usual, found) > 0.1


@pytest.mark.slow
def test_callbacks_change_the_texts(pipe, frames, usual):
    """Either one by itself."""
    for name in ("prompt_embeds", "negative_prompt_embeds"):

        def callback(pipe, step, timestep, tensors, name=name):
            return {name: torch.zeros_like(tensors[name])}

        changed = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": [name]}
        assert difference(usual, edited(pipe, frames, **changed)) > 1e-5, name


def test_diffusers_caches_tell_the_passes_of_guidance_apart(pipe, frames, usual):
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    try:
        assert difference(usual, edited(pipe, frames)) < 1e-4
    finally:
        pipe.transformer.disable_cache()


def test_progress_is_shown(pipe, frames, capsys):
    pipe.set_progress_bar_config(disable=False)
    edited(pipe, frames, num_inference_steps=2, guidance_scale=1.0)
    pipe.set_progress_bar_config(disable=True)
    assert "2/2" in capsys.readouterr().err


def test_it_is_saved_and_loaded(pipe, frames, usual, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = LIVEditorPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(edited(again, frames), usual)
    assert again.config.guidance_scale == 1.5 and again.size_for(1280, 720) == (320, 176)


@pytest.mark.slow
def test_weights_kept_in_8_bits_are_computed_in_more(frames, usual):
    pipe = LIVEditorPipeline.included(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    kept = {name: weight.dtype for name, weight in pipe.transformer.named_parameters()}
    assert kept["blocks.0.ffn.net.2.weight"] == torch.float8_e4m3fn
    assert kept["blocks.0.attn1.alpha_1.weight"] == torch.float32
    assert kept["source_video_embedding_more_memory.weight"] == torch.float32
    assert 1e-3 < difference(usual, edited(pipe, frames)) < 0.1


# Bad input.


@pytest.mark.parametrize(
    "options, told",
    [
        ({"prompt": None}, "Give either `prompt`"),
        ({"prompt": 7}, "`prompt` must be a text or a list of texts; got 7"),
        ({"prompt": []}, "`prompt` must be a text or a list of texts; got []"),
        ({"num_inference_steps": 0}, "An edit takes one denoising step at least; got 0"),
        ({"sigmas": []}, "An edit takes one denoising step at least; got 0"),
        ({"output_type": "mp4"}, "`output_type` must be one of np, pt, pil, latent; got 'mp4'"),
        ({"video": []}, "`video` holds no frame"),
        ({"video": torch.full((5, 3, 64, 96), 255, dtype=torch.uint8)}, "`video` must be in 0..1; got 255 to 255"),
        ({"references": ["hat.png"]}, "`references` is frames, not a path"),
        ({"video": "holiday.mp4"}, "`video` is frames, not a path"),
        ({"video": torch.rand(2, 5, 3, 16, 16)}, "`video` must be one video"),
        ({"width": 96}, "Give both height and width"),
        ({"width": 100, "height": 64}, "multiples of 16; got 100×64"),
        ({"latents": torch.zeros(1, 16, 1, 2, 2)}, "latents must be [1, 16, 2, 8, 12]"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "not noise"),
    ],
)
def test_bad_input_gets_a_sentence(pipe, options, told):
    options = {"video": torch.rand(5, 3, 64, 96), "prompt": PROMPT, "num_inference_steps": 1} | options
    if "latents" in options:
        options |= {"width": 96, "height": 64}
    with pytest.raises(ValueError) as caught:
        pipe(**options)
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{}, {"prediction_type": "flow_prediction"}, {"use_flow_sigmas": True}])
def test_samplers_of_other_models_are_refused(pipe, frames, settings):
    """They would run, and make noise."""
    own, pipe.scheduler = pipe.scheduler, UniPCMultistepScheduler(**settings)
    try:
        with pytest.raises(ValueError, match="UniPCMultistepScheduler as it is set does not solve a flow"):
            edited(pipe, frames)
    finally:
        pipe.scheduler = own


def test_a_black_video_is_not_made(pipe, frames):
    latents = torch.full((1, 16, 3, 8, 12), torch.nan)
    with pytest.raises(ValueError, match="The latent holds NaN or infinity"):
        edited(pipe, frames, latents=latents, num_inference_steps=1)


def test_words_it_was_never_taught_are_told(pipe, frames, caplog):
    edited(pipe, frames, prompt="Make the rabbit blue", num_inference_steps=1)
    assert "never taught: rabbit" in caplog.text
