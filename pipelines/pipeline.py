"""LIVEditorPipeline: a video and an instruction in, the edited video out, as a diffusers pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline
from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from ..checkpoint.included import path_of
from ..errors import NotFiniteError
from ..runtime.windows import TIME, Windows, cut
from ..video.clip import SourceClip
from ..video.geometry import closest_bucket, crop_box, first_frames, fit_frames, size_within
from ..video.region import FEATHER, box_list
from ..video.result import Result
from .context_reuse import SamplingRun, sampling_run
from .inputs import clip_of, frames_of, mask_of
from .lora import load_lora, unload_differences
from .steps import set_timesteps, solves_flows
from .text_encoder import embedded_lengths, load_text_encoder, own_length, text_length, unknown_to
from .transformer import TRAIN_TIMESTEPS, LIVEditorTransformer3DModel
from .vae import decode_video, encode_video, load_vae, through_onednn

CODE = "liveditor_pipeline"
"""Name of the module in a saved folder that leads diffusers to this class."""

OUTPUT_TYPES = ("np", "pt", "pil", "latent")
SHIFT = 6.0

VAE_OVERFLOW = "use dtype fp32"
"""Advice for a VAE that decodes NaN."""

NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，"
    "画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
"""Wan's standard negative prompt."""


class LIVEditorPipeline(WanPipeline):
    """Edits videos by instruction, as the nodes do: the same weights, seed and sampler make the same latents.

    What works on diffusers' pipelines works on this: progress bar, callbacks, `enable_model_cpu_offload`,
    `transformer.enable_layerwise_casting`, `load_lora_weights` (also of files in ComfyUI's names), `save_pretrained`.
    `attach_isa(pipe.transformer)` makes it fast.

    num_inference_steps, guidance_scale, negative_prompt: of a call that does not say.
    longest_side: of such a call's size, in pixels; None for the trained size of LIVEditor-14B that is nearest in shape.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components = []

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: UMT5EncoderModel,
        vae: AutoencoderKLWan,
        scheduler: UniPCMultistepScheduler | FlowMatchEulerDiscreteScheduler,
        transformer: LIVEditorTransformer3DModel,
        num_inference_steps: int = 32,
        guidance_scale: float = 2.5,
        negative_prompt: str = NEGATIVE_PROMPT,
        longest_side: int | None = None,
    ):
        super(WanPipeline, self).__init__()  # Wan's own would register its second transformer
        if isinstance(vae, torch.nn.Module):
            through_onednn(vae)  # also of a folder that diffusers has opened
        self.register_modules(
            tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, scheduler=scheduler, transformer=transformer
        )
        self.register_to_config(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            longest_side=longest_side,
        )
        # Frames are passed on unchanged; `fit_frames` resizes them.
        self.video_processor = VideoProcessor(do_resize=False, do_normalize=False)

    @classmethod
    def from_files(
        cls, model: str | Path, text_encoder: str | Path, vae: str | Path, torch_dtype=torch.bfloat16, transformer=None
    ):
        """From the files that ComfyUI's users have: LIVEditor's `.bin` or safetensors, UMT5-XXL, the Wan 2.1 VAE.

        transformer: the network in place of `model`, which is then not opened.
        Raises CheckpointError or ValueError naming what is wrong with a file.
        """
        tokenizer, encoder = load_text_encoder(text_encoder, torch_dtype)
        if transformer is None:
            transformer = LIVEditorTransformer3DModel.from_single_file(model, torch_dtype)
        return cls.of_parts(tokenizer, encoder, load_vae(vae, torch_dtype), transformer)

    @classmethod
    def of_parts(cls, tokenizer, text_encoder, vae, transformer):
        """With the sampler of LIVEditor-14B."""
        scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT)
        return cls(tokenizer, text_encoder, vae, scheduler, transformer)

    @classmethod
    def included(cls, torch_dtype=torch.float32, transformer=None):
        """LIVEditor-tiny, which comes with this package (weights/README.md). transformer: a network in place of its own."""
        tokenizer, encoder = load_text_encoder(path_of("text_encoder"), torch_dtype)
        if transformer is None:
            transformer = LIVEditorTransformer3DModel.from_single_file(path_of("diffusion_model"), torch_dtype)
        return cls(
            tokenizer, encoder, load_vae(path_of("vae"), torch_dtype), FlowMatchEulerDiscreteScheduler(shift=SHIFT), transformer,
            num_inference_steps=12, guidance_scale=1.5, negative_prompt="",
            longest_side=320,
        )  # fmt: skip

    @torch.no_grad()
    def __call__(
        self,
        video,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        references: Sequence = (),
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sigmas: list[float] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        attention_kwargs: dict | None = None,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        max_sequence_length: int | None = None,
        window: int = 0,
        window_overlap: int | None = None,
        mask=None,
        boxes: Sequence[Sequence[float]] = (),
        feather: int = FEATHER,
        whole_frame: bool = False,
        match_colors: bool = False,
    ) -> WanPipelineOutput | tuple:
        """Edit `video` as `prompt` says; a list of prompts makes a batch of edits of it, each as by its prompt alone.

        video: frames in whatever form diffusers takes a video: a list of PIL images, an array [F, H, W, 3] or a tensor
            [F, 3, H, W] in 0..1; or a `video.clip.Clip`, which is read a few frames at a time. Any number; the model's 4n+1 are
            filled up with the last and cut off again.
        references: images or videos the edit may refer to, in the same forms; each becomes a context group of its own.
        height, width: multiples of 16; `size_for` the video if neither is given. Frames are resized keeping
            their aspect and centre-cropped.
        sigmas: before the scheduler's shift, from 1 down; ComfyUI's `simple` schedule where not given.
        output_type: "np", "pt", "pil" or "latent".
        max_sequence_length: cuts longer texts off; without it none is.
        window, window_overlap: frames; a longer video is edited in such windows (`runtime.windows`), 0 at once; with an overlap of
            half a window if none is given. Noise is the same as in ComfyUI's windows, but for `latents`, which stay as they are.
        mask: where the edit shows, [h, w] or [M, h, w] in 0..1, an array, a tensor, a PIL image or a list of them; boxes: (x, y, width,
            height) each, in pixels of the video. feather, whole_frame, match_colors: as in `video.result.Result`. They act on
            the decoded frames, which get the video's own size where there is a mask, a box or `whole_frame`; not on "latent".
        The rest as in diffusers' WanPipeline.

        Raises ValueError for bad input, and NotFiniteError, which is one, where the result holds NaN or infinity.
        """
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        negative_prompt = self.config.negative_prompt if negative_prompt is None else negative_prompt
        self._guidance_scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        self._attention_kwargs, self._current_timestep, self._interrupt = attention_kwargs, None, False
        windows = Windows.of_frames(window, window_overlap)
        clip = clip_of(video, self.video_processor)
        if (height is None) != (width is None):
            raise ValueError("Give both height and width, or neither.")
        if height is None:
            width, height = self.size_for(*clip.shown_size)
        callback_tensors = list(getattr(callback_on_step_end, "tensor_inputs", callback_on_step_end_tensor_inputs))
        self.check_inputs(prompt, prompt_embeds, callback_tensors, steps if sigmas is None else len(sigmas), output_type)
        crop = crop_box(clip.size, width, height, clip.pixel_aspect)
        result = Result(
            SourceClip(clip, crop), (width, height), mask_of(mask), box_list(boxes), feather, whole_frame, match_colors
        )
        device, dtype = self._execution_device, self.transformer.dtype

        prompts = [prompt] if isinstance(prompt, str) else prompt
        prompt_embeds, negative_prompt_embeds = self.encode_prompt(
            prompts,
            negative_prompt,
            self.do_classifier_free_guidance,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            max_sequence_length=max_sequence_length,
            device=device,
        )
        fitted = (fit_frames(chunk, width, height, clip.pixel_aspect)[0] for chunk in clip.chunks())
        context_latents = [encode_video(self.vae, fitted)]
        for reference in references:
            reference = frames_of(reference, "references", self.video_processor)
            size = size_within(reference.shape[2], reference.shape[1], max(width, height))
            context_latents.append(encode_video(self.vae, fit_frames(reference, *size)[0]))
        shape = len(prompt_embeds), *context_latents[0].shape[1:]
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
            if windows is not None:
                each = generator if isinstance(generator, list) else [generator] * shape[0]
                seeds = (torch.initial_seed() if one is None else one.initial_seed() for one in each)
                latents = torch.cat([windows.shuffled(noise, seed) for noise, seed in zip(latents.split(1), seeds)])
        elif latents.shape != shape:
            raise ValueError(f"latents must be {[*shape]} for this video at {width}×{height}; got {[*latents.shape]}.")
        latents = latents.to(device, torch.float32)
        context_latents = [latent.to(device, dtype).expand(shape[0], *latent.shape[1:]) for latent in context_latents]

        timesteps = set_timesteps(self.scheduler, steps, sigmas, device)
        self._num_timesteps = len(timesteps)
        levels = (timesteps / TRAIN_TIMESTEPS).tolist()
        with sampling_run(levels) as run, self.progress_bar(total=len(timesteps)) as bar:
            for index, timestep in enumerate(timesteps):
                if self.interrupt:
                    continue
                self._current_timestep = timestep
                velocity_of = partial(self._velocity, run, windows, index, latents, timestep, context_latents)
                velocity = velocity_of(prompt_embeds, "cond")
                if self.do_classifier_free_guidance:
                    without = velocity_of(negative_prompt_embeds, "uncond")
                    velocity = without + self.guidance_scale * (velocity - without)
                latents = self.scheduler.step(velocity.float(), timestep, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    known = dict(zip(self._callback_tensor_inputs, (latents, prompt_embeds, negative_prompt_embeds)))
                    tensors = {name: known[name] for name in callback_tensors}
                    changed = callback_on_step_end(self, index, timestep, tensors) or {}
                    latents = changed.pop("latents", latents)
                    prompt_embeds = changed.pop("prompt_embeds", prompt_embeds)
                    negative_prompt_embeds = changed.pop("negative_prompt_embeds", negative_prompt_embeds)
                bar.update()
        self._current_timestep = None

        if not torch.isfinite(latents).all():
            raise NotFiniteError(
                "The latent holds NaN or infinity, the video would be black: use bf16 or fp32 instead of fp16, lower the "
                "guidance, or remove LoRAs one by one."
            )
        frames = latents if output_type == "latent" else self._decoded(latents, clip.frames, result, output_type)
        self.maybe_free_model_hooks()
        return WanPipelineOutput(frames=frames) if return_dict else (frames,)

    @classmethod
    def load_config(cls, *args, **kwargs):
        """As in diffusers, but this class needs no code of a folder."""
        loaded = super().load_config(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)["_class_name"] = cls.__name__
        return loaded

    def save_config(self, save_directory: str | Path, **options):
        """Also writes the file by which `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` finds this class."""
        super().save_config(save_directory, **options)
        index, kind = Path(save_directory, self.config_name), type(self)
        named = json.loads(index.read_text(encoding="utf-8")) | {"_class_name": [CODE, kind.__name__]}
        index.write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")
        code = f"from {kind.__module__} import {kind.__name__}  # noqa: F401  pip install liveditor-isa[diffusers]\n"
        Path(save_directory, f"{CODE}.py").write_text(code, encoding="utf-8")

    def load_lora_weights(self, pretrained_model_name_or_path_or_dict, adapter_name: str | None = None, **options):
        """As in diffusers, in every naming that LoRAs for Wan have; see `lora.load_lora`.

        Differences of whole weights and biases (`diff`, `diff_b`) act in full, whatever the adapter's weight or scale.
        Raises CheckpointError for what holds no LoRA for this model.
        """
        load_lora(self, pretrained_model_name_or_path_or_dict, adapter_name, **options)

    def unload_lora_weights(self):
        super().unload_lora_weights()
        unload_differences(self.transformer)

    def encode_prompt(self, prompt, *args, max_sequence_length: int | None = None, **kwargs):
        """As in Wan, but without `max_sequence_length` texts are as long as in ComfyUI."""
        return super().encode_prompt(prompt, *args, max_sequence_length=max_sequence_length, **kwargs)

    def _get_t5_prompt_embeds(self, prompt=None, num_videos_per_prompt=1, max_sequence_length=None, device=None, dtype=None):
        texts = [prompt_clean(text) for text in ([prompt] if isinstance(prompt, str) else prompt)]
        for text in texts:
            unknown_to(self.text_encoder, text)
        length = max_sequence_length or max(text_length(self.tokenizer, text) for text in texts)
        return super()._get_t5_prompt_embeds(texts, num_videos_per_prompt, length, device, dtype)

    def check_inputs(self, prompt, prompt_embeds, callback_tensors, steps, output_type):
        """Raises ValueError for errors that `encode_prompt` and `fit_frames` would find late or not at all."""
        if (prompt is None) == (prompt_embeds is None):
            raise ValueError("Give either `prompt`, what to change in the video, or `prompt_embeds`.")
        texts = prompt if isinstance(prompt, list) else [prompt]
        if prompt is not None and not (texts and all(isinstance(text, str) for text in texts)):
            raise ValueError(f"`prompt` must be a text or a list of texts; got {prompt!r:.80}.")
        if steps < 1:
            raise ValueError(f"An edit takes one denoising step at least; got {steps}.")
        if not solves_flows(self.scheduler):
            raise ValueError(
                f"{type(self.scheduler).__name__} as it is set does not solve a flow, the video would be noise: make it with "
                '`prediction_type="flow_prediction", use_flow_sigmas=True`, or take FlowMatchEulerDiscreteScheduler.'
            )
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"`output_type` must be one of {', '.join(OUTPUT_TYPES)}; got {output_type!r}.")
        if unknown := [name for name in callback_tensors if name not in self._callback_tensor_inputs]:
            known = ", ".join(self._callback_tensor_inputs)
            raise ValueError(f"A callback may have {known}, not {', '.join(unknown)}.")

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """Default width and height of the edit for a video of this width and height."""
        longest = self.config.longest_side
        return size_within(width, height, longest) if longest else closest_bucket(width, height)

    def _velocity(
        self, run: SamplingRun, windows: Windows | None, step: int, latents, timestep, context_latents, text, name: str
    ) -> torch.Tensor:
        frames = latents.shape[TIME]
        if windows is None or frames <= windows.length:
            return self._velocity_of_part(latents, timestep, context_latents, text, name)

        def call(window: range) -> torch.Tensor:
            run.part = window
            contexts = [cut(latent, window, frames) for latent in context_latents]
            # diffusers' caches of steps know their states by the name.
            return self._velocity_of_part(cut(latents, window, frames), timestep, contexts, text, f"{name}, {window.start}")

        return windows.fused(step, frames, call)

    def _velocity_of_part(self, latents, timestep, context_latents, text, name: str) -> torch.Tensor:
        dtype, lengths = self.transformer.dtype, embedded_lengths(text, own_length(self.tokenizer))
        with self.transformer.cache_context(name):
            return self.transformer(
                latents.to(dtype),
                timestep.expand(len(latents)),
                text[:, : max(lengths)].to(dtype),
                context_latents,
                text_lengths=lengths if len({*lengths}) > 1 else None,
                attention_kwargs=self.attention_kwargs,
                return_dict=False,
            )[0]

    def _decoded(self, latents: torch.Tensor, frames: int, result: Result, output_type: str):
        chunks = (first_frames(decode_video(self.vae, latent[None]), frames, VAE_OVERFLOW) for latent in latents)
        videos = [torch.cat([*result.frames(of_one)]) for of_one in chunks]
        batch = torch.stack(videos).movedim(-1, 1) * 2 - 1  # as a VAE gives them
        return VideoProcessor().postprocess_video(batch, output_type=output_type)
