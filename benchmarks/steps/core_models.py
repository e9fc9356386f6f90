"""Steps of core's in-context networks at their real width, a few blocks each: full attention and ISA, and the memory they take.

    python -m liveditor_isa.benchmarks.steps.core_models
    python -m liveditor_isa.benchmarks.steps.core_models --models minimax scail2 --blocks 4 --turns 3

Random weights in bf16, sampled by ComfyUI with guidance 1, each with a context as users give it: MiniMax H3 a video to edit, SCAIL-2 a pose and a
reference, LTX a guide of the video's size, FLUX Kontext and Qwen-Image-Edit two pictures. Steps are timed between the sampler's own calls,
the GPU waited for; variants take turns. With context reuse it is the mean step of a run of 28. `--small` is a network of little width over few tokens, to see that everything runs.
Needs ComfyUI in COMFYUI_PATH, and but for `--small` a GPU.
"""

# ruff: noqa: E402  ComfyUI is found, and told of the GPU, before its modules are imported.
from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from pathlib import Path

from ..machine import gpu_slug, heading, result_file, use_comfyui

use_comfyui()

import comfy.model_management
import comfy.model_patcher
import comfy.nested_tensor
import comfy.sample
import comfy.supported_models
import torch

from ...comfyui.attach import attach_isa
from ...comfyui.hosts import keeps_of
from ...isa_core import ISAConfig, dense_attention
from ...runtime.core_attention import OVERRIDE
from ...runtime.live import LiveSettings, Settings
from ...runtime.schedule import Schedule

GB = 1e9
FULL = "full attention, cuDNN"
REUSE, STEPS_WITH_REUSE = "ISA, context reuse", 28


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def scail2(small: bool, blocks: int):
    """81 frames of 832×480, a pose of half the size, a reference."""
    config = {
        "image_model": "wan2.1",
        "model_type": "scail2",
        "num_layers": blocks,
        "in_dim": 20,
        "out_dim": 16,
        "patch_size": (1, 2, 2),
    }
    config |= (
        {"dim": 64, "num_heads": 2, "ffn_dim": 64, "text_dim": 64}
        if small
        else {"dim": 5120, "num_heads": 40, "ffn_dim": 13824, "text_dim": 4096}
    )
    frames, height, width = (3, 8, 12) if small else (21, 60, 104)
    condition = {
        "reference_latents": [drawn(1, 16, 1, height, width)],
        "pose_video_latent": drawn(1, 16, frames, height // 2, width // 2),
    }
    return (
        "WAN21_SCAIL2",
        config,
        drawn(1, 16, frames, height, width),
        condition,
        drawn(1, 9 if small else 512, config["text_dim"]),
        None,
    )


def minimax(small: bool, blocks: int):
    """124 frames of 1280×704 and their sound, with a video to edit as reference."""
    config = {"image_model": "minimax_h3", "num_layers": blocks}
    if small:
        config |= {"hidden_size": 64, "token_refiner_num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 32, "ffn_hidden_size": 64,
                   "text_dim": 48, "timestep_input_dim": 32, "time_embed_hidden_size": 32, "time_embed_dim": 32, "rope_inv_freq_len": 4}  # fmt: skip
    frames, height, width = (3, 6, 8) if small else (37, 44, 80)
    reference = {"kind": "video", "latent_t": frames, "latent_h": height, "latent_w": width, "ref_audio_t": 0,
                 "latent": drawn(1, 24, frames, height, width)}  # fmt: skip
    noise = comfy.nested_tensor.NestedTensor([drawn(1, 24, frames, height, width), drawn(1, 32, 2, 7 if small else 207)])
    return (
        "MiniMaxH3",
        config,
        noise,
        {"minimax_refs": [reference]},
        drawn(1, 9 if small else 256, config.get("text_dim", 5120)),
        None,
    )


def ltx(small: bool, blocks: int):
    """257 frames of 1216×704 and their sound, with a guide of the same size."""
    config = {"image_model": "ltxav", "num_layers": blocks, "in_channels": 16 if small else 128}
    if small:
        config |= {"attention_head_dim": 32, "num_attention_heads": 2, "audio_attention_head_dim": 16, "audio_num_attention_heads": 2,
                   "cross_attention_dim": 64, "audio_cross_attention_dim": 32, "caption_channels": 48, "connector_attention_head_dim": 24,
                   "connector_num_attention_heads": 2, "connector_num_layers": 1}  # fmt: skip
    else:
        config |= {"attention_head_dim": 128, "num_attention_heads": 32, "audio_attention_head_dim": 64, "audio_num_attention_heads": 32,
                   "cross_attention_dim": 4096, "audio_cross_attention_dim": 2048, "caption_channels": 3840}  # fmt: skip
    frames, height, width = (3, 4, 6) if small else (33, 22, 38)
    grid = torch.stack(torch.meshgrid(*map(torch.arange, (frames, height, width)), indexing="ij")).flatten(1).float()
    scale = torch.tensor([[8.0], [32.0], [32.0]])
    places = torch.stack([grid * scale, (grid + 1) * scale], dim=-1)[None]
    entry = {"pre_filter_count": grid.shape[1], "strength": 1.0, "pixel_mask": None, "latent_shape": [frames, height, width]}
    mask, sound = torch.ones(1, 1, 2 * frames, height, width), drawn(1, 8, 10 if small else 268, 16)
    mask[:, :, frames:] = 0
    video = drawn(1, config["in_channels"], 2 * frames, height, width)
    noise = comfy.nested_tensor.NestedTensor([video, sound])
    masks = comfy.nested_tensor.NestedTensor([mask, torch.ones(1, 1, *sound.shape[2:])])
    condition = {"keyframe_idxs": places, "guide_attention_entries": [entry], "frame_rate": 25}
    return "LTXAV", config, noise, condition, drawn(1, 9 if small else 256, 2 * config["caption_channels"]), masks


def flux(small: bool, blocks: int):
    """2048×2048, two pictures of the same size."""
    config = {"image_model": "flux", "guidance_embed": not small, "in_channels": 16, "out_channels": 16, "mlp_ratio": 4.0, "depth": blocks,
              "depth_single_blocks": blocks, "theta": 10000, "patch_size": 2, "qkv_bias": True, "txt_ids_dims": [], "yak_mlp": False,
              "global_modulation": False, "ops_bias": True, "default_ref_method": "offset", "mlp_silu_act": False, "txt_norm": False}  # fmt: skip
    if small:
        config |= {"vec_in_dim": 8, "context_in_dim": 32, "hidden_size": 64, "num_heads": 2, "axes_dim": [8, 12, 12]}
    else:
        config |= {"vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072, "num_heads": 24, "axes_dim": [16, 56, 56]}
    side = 16 if small else 256
    condition = {"reference_latents": [drawn(1, 16, side, side)] * 2, "pooled_output": drawn(1, config["vec_in_dim"])}
    return "Flux", config, drawn(1, 16, side, side), condition, drawn(1, 9 if small else 512, config["context_in_dim"]), None


def qwen(small: bool, blocks: int):
    """2048×2048, two pictures of the same size."""
    config = {"image_model": "qwen_image", "num_layers": blocks, "in_channels": 64, "out_channels": 16}
    if small:
        config |= {"attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 32, "axes_dims_rope": (8, 12, 12)}
    side = 16 if small else 256
    condition = {"reference_latents": [drawn(1, 16, 1, side, side)] * 2}
    text = drawn(1, 9 if small else 512, config.get("joint_attention_dim", 3584))
    return "QwenImage", config, drawn(1, 16, 1, side, side), condition, text, None


MODELS = {each.__name__: each for each in (scail2, minimax, ltx, flux, qwen)}


def by_cudnn(func, q, k, v, heads, mask=None, **kwargs):
    """Core's attention override: PyTorch's attention, cuDNN's first, in self-attention."""
    if mask is not None or q.shape != k.shape or kwargs.get("skip_output_reshape"):
        return func(q, k, v, heads, mask=mask, **kwargs)
    split = (x.transpose(1, 2) if kwargs.get("skip_reshape") else x.unflatten(2, (heads, -1)) for x in (q, k, v))
    return dense_attention(*split).flatten(2)


def built(kind: str, config: dict, device: torch.device, dtype: torch.dtype):
    """Core's architecture `kind` with random weights."""
    settings = getattr(comfy.supported_models, kind)(config)
    settings.set_inference_dtype(dtype, None)
    base = settings.get_model({}, "", device=device).to(device)
    torch.manual_seed(0)
    for weight in [*base.diffusion_model.parameters(), *base.diffusion_model.buffers()]:
        if weight.is_floating_point():
            weight.data.normal_(std=weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1)
    return comfy.model_patcher.ModelPatcher(base.eval().requires_grad_(False), device, device)


def sampled(patcher, noise, condition: dict, text: torch.Tensor, masks, steps: int = 3) -> list[float]:
    """Seconds between the sampler's calls."""
    words, moments, on_gpu = [[text, dict(condition)]], [], patcher.load_device.type == "cuda"

    def callback(*_):
        if on_gpu:
            torch.cuda.synchronize()
        moments.append(time.perf_counter())

    comfy.sample.sample(
        patcher,
        noise,
        steps,
        1.0,
        "euler",
        "simple",
        words,
        words,
        noise * 0,
        noise_mask=masks,
        seed=1,
        disable_pbar=True,
        callback=callback,
    )
    return [later - earlier for earlier, later in zip(moments, moments[1:])]


def attached(patcher, config: ISAConfig, refresh: float, told):
    return attach_isa(patcher, LiveSettings(Settings(config, context_refresh=refresh)), Schedule(), "auto", told)


def measure(name: str, small: bool, blocks: int, turns: int, config: ISAConfig) -> list[dict]:
    device = torch.device("cpu" if small else "cuda")
    kind, settings, *run = MODELS[name](small, blocks)
    patcher, told = built(kind, settings, device, torch.float32 if small else torch.bfloat16), []
    cudnn = patcher.clone()
    cudnn.model_options["transformer_options"][OVERRIDE] = by_cudnn
    variants = {
        FULL: cudnn,
        "full attention, ComfyUI's default": patcher,
        "ISA": attached(patcher, config, 0.0, told.append),
    }
    if keeps_of(patcher.model.diffusion_model):
        variants[REUSE] = attached(patcher, config, 1.0, lambda said: None)
    rows, times = {}, {variant: [] for variant in variants}
    for variant, each in variants.items():
        if not small:
            torch.cuda.reset_peak_memory_stats()
        sampled(each, *run)  # compiles and loads
        rows[variant] = {"model": name, "blocks": blocks, "variant": variant}
        if not small:
            rows[variant]["peak_gb"] = round(torch.cuda.max_memory_allocated() / GB, 2)
    for _ in range(turns):
        for variant, each in variants.items():
            steps = sampled(each, *run, steps=STEPS_WITH_REUSE) if variant == REUSE else sampled(each, *run)
            times[variant] += [statistics.mean(steps)] if variant == REUSE else steps
    for variant, held in times.items():
        rows[variant]["seconds_per_step"] = round(statistics.median(held), 4)
        rows[variant]["range"] = [round(min(held), 4), round(max(held), 4)]
    rows["ISA"]["report"] = told[-1].splitlines()[0]
    for variant in {"ISA", REUSE} & times.keys():
        rows[variant]["vs_cudnn"] = round(statistics.median(times[FULL]) / statistics.median(times[variant]), 3)
    return list(rows.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        sys.exit("benchmarks/steps/core_models.py needs a GPU, or --small.")
    result = {**heading(__spec__.name, "cpu" if options.small else "cuda"), "rows": []}
    path = options.out or (None if options.small else result_file(f"core-models-{gpu_slug(torch.cuda.get_device_name())}"))
    for name in options.models:
        for row in measure(name, options.small, options.blocks, options.turns, ISAConfig()):
            print(row, flush=True)
            result["rows"].append(row)
        if path:
            path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        gc.collect()
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()


if __name__ == "__main__":
    main()
