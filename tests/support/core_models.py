"""Core's in-context networks at a small size with random weights, and short runs of them. Needs ComfyUI."""

from collections.abc import Callable
from dataclasses import dataclass

import comfy.model_patcher
import comfy.nested_tensor
import comfy.sample
import comfy.supported_models
import torch


@dataclass
class Case:
    """A model and a run of it.

    attentions: in-context ones of a model call. layout: what it must be, (kind, tokens) in memory order. parts: grids of the target and
    of every context; latents: of the contexts, None where a conditioning does not hold it.
    """

    model: Callable[[], object]
    noise: object
    condition: dict
    text: torch.Tensor
    attentions: int
    layout: list[tuple[str, int]]
    parts: list[tuple[int, int, int]]
    latents: list
    mask: object = None


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def built(kind: str, config: dict):
    """Core's architecture `kind` with random weights in fp32."""
    with torch.device("cpu"):
        torch.manual_seed(0)
        settings = getattr(comfy.supported_models, kind)(dict(config))
        settings.set_inference_dtype(torch.float32, None)
        base = settings.get_model({}, "")
    generator = torch.Generator().manual_seed(0)
    for name, weight in [*base.diffusion_model.named_parameters(), *base.diffusion_model.named_buffers()]:
        if not weight.is_floating_point():
            continue
        with torch.no_grad():
            if "inv_freq" in name:
                weight.copy_(10000 ** -torch.linspace(0, 1, len(weight)))
            elif weight.ndim < 2:
                weight.copy_(
                    (1.0 if "weight" in name or "scale" in name else 0.0) + 0.1 * torch.randn(weight.shape, generator=generator)
                )
            else:
                weight.normal_(std=weight[0].numel() ** -0.5, generator=generator)
    base.diffusion_model.eval().requires_grad_(False)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(base, cpu, cpu)


SCAIL2 = {"image_model": "wan2.1", "model_type": "scail2", "dim": 64, "num_heads": 2, "num_layers": 2, "ffn_dim": 64, "in_dim": 20,
          "out_dim": 16, "text_dim": 64, "freq_dim": 32, "patch_size": (1, 2, 2)}  # fmt: skip
MINIMAX = {"image_model": "minimax_h3", "hidden_size": 64, "num_layers": 2, "token_refiner_num_layers": 1, "num_attention_heads": 2,
           "attention_head_dim": 32, "ffn_hidden_size": 64, "text_dim": 48, "timestep_input_dim": 32, "time_embed_hidden_size": 32,
           "time_embed_dim": 32, "rope_inv_freq_len": 4}  # fmt: skip
LTX = {"image_model": "ltxv", "attention_head_dim": 32, "num_attention_heads": 2, "num_layers": 2, "cross_attention_dim": 64,
       "caption_channels": 48, "in_channels": 16}  # fmt: skip
LTX_WITH_SOUND = {"image_model": "ltxav", "attention_head_dim": 32, "num_attention_heads": 2, "audio_attention_head_dim": 16,
                  "audio_num_attention_heads": 2, "num_layers": 2, "cross_attention_dim": 64, "audio_cross_attention_dim": 32,
                  "caption_channels": 48, "in_channels": 16, "connector_attention_head_dim": 24, "connector_num_attention_heads": 2,
                  "connector_num_layers": 1}  # fmt: skip
FLUX = {"image_model": "flux", "guidance_embed": False, "in_channels": 16, "out_channels": 16, "vec_in_dim": 8, "context_in_dim": 32,
        "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 2, "axes_dim": [8, 12, 12],
        "theta": 10000, "patch_size": 2, "qkv_bias": True, "txt_ids_dims": [], "yak_mlp": False, "global_modulation": False,
        "ops_bias": True, "default_ref_method": "offset", "mlp_silu_act": False, "txt_norm": False}  # fmt: skip


def scail2() -> Case:
    """A reference of one frame, three frames of the target, a pose of half the size."""
    condition = {"reference_latents": [drawn(1, 16, 1, 8, 12, seed=1)], "pose_video_latent": drawn(1, 16, 3, 4, 6, seed=2)}
    return Case(
        lambda: built("WAN21_SCAIL2", SCAIL2), drawn(1, 16, 3, 8, 12, seed=3), condition, drawn(1, 9, 64, seed=4), 2,
        [("context", 24), ("target", 72), ("context", 18)], [(3, 4, 6), (1, 4, 6), (3, 2, 3)], [*condition["reference_latents"], condition["pose_video_latent"]],
    )  # fmt: skip


def minimax() -> Case:
    """Text, an image, a video with sound, the target's sound, the target."""
    image, video = drawn(1, 24, 1, 6, 8, seed=1), drawn(1, 24, 3, 6, 8, seed=2)
    references = [
        {"kind": "image", "latent_h": 6, "latent_w": 8, "latent": image},
        {"kind": "video_audio", "latent_t": 3, "latent_h": 6, "latent_w": 8, "ref_audio_t": 5, "latent": video,
         "audio_latent": drawn(1, 32, 2, 5, seed=3)},
    ]  # fmt: skip
    noise = comfy.nested_tensor.NestedTensor([drawn(1, 24, 3, 6, 8, seed=4), drawn(1, 32, 2, 7, seed=5)])
    layout = [("exact", 9), ("context", 12), ("exact", 10), ("context", 36), ("exact", 14), ("target", 36)]
    return Case(
        lambda: built("MiniMaxH3", MINIMAX), noise, {"minimax_refs": references}, drawn(1, 9, 48, seed=6), 2, layout,
        [(3, 3, 4), (1, 3, 4), (3, 3, 4)], [image, video],
    )  # fmt: skip


def ltx() -> Case:
    """Four frames of the target and two of a guide behind them, of which every second token is left out."""
    condition, mask = _guide()
    return Case(
        lambda: built("LTXV", LTX), drawn(1, 16, 6, 4, 6, seed=3), condition | {"attention_mask": torch.ones(1, 9)},
        drawn(1, 9, 48, seed=4), 2, [("target", 96), ("context", 24)], [(4, 4, 6), (2, 4, 3)], [None], mask,
    )  # fmt: skip


def ltx_with_sound() -> Case:
    """The same, and sound, which has an attention of its own."""
    condition, mask = _guide()
    noise = comfy.nested_tensor.NestedTensor([drawn(1, 16, 6, 4, 6, seed=3), drawn(1, 8, 10, 16, seed=5)])
    return Case(
        lambda: built("LTXAV", LTX_WITH_SOUND), noise, condition, drawn(1, 9, 96, seed=4), 2, [("target", 96), ("context", 24)],
        [(4, 4, 6), (2, 4, 3)], [None], comfy.nested_tensor.NestedTensor([mask, torch.ones(1, 1, 10, 16)]),
    )  # fmt: skip


def _guide():
    """(a conditioning, a noise mask) for a guide of two frames, of which every second column is left out."""
    mask = torch.ones(1, 1, 6, 4, 6)
    mask[:, :, 4:] = 0
    mask[:, :, 4:, :, ::2] = -1
    places = torch.zeros(1, 3, 48, 2)
    grid = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(4), torch.arange(6), indexing="ij")).reshape(3, 48)
    places[..., 0], places[..., 1] = grid * torch.tensor([[8], [32], [32]]), (grid + 1) * torch.tensor([[8], [32], [32]])
    entries = [{"pre_filter_count": 48, "strength": 1.0, "pixel_mask": None, "latent_shape": [2, 4, 3]}]
    return {"keyframe_idxs": places, "guide_attention_entries": entries, "frame_rate": 25}, mask


def flux(**changed) -> Case:
    """Text, the target, two pictures. changed: of the configuration."""
    return Case(
        lambda: built("Flux", FLUX | changed), drawn(1, 16, 12, 16), {"reference_latents": _pictures(4), "pooled_output": drawn(1, 8)},
        drawn(1, 9, 32, seed=4), 3, [("exact", 9), ("target", 48), ("context", 48), ("context", 24)],
        [(1, 6, 8), (1, 6, 8), (1, 4, 6)], _pictures(4),
    )  # fmt: skip


def qwen() -> Case:
    config = {"image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 2, "attention_head_dim": 32,
              "num_attention_heads": 2, "joint_attention_dim": 32, "axes_dims_rope": (8, 12, 12)}  # fmt: skip
    return Case(
        lambda: built("QwenImage", config), drawn(1, 16, 1, 12, 16), {"reference_latents": _pictures(5)}, drawn(1, 9, 32, seed=4), 2,
        [("exact", 9), ("target", 48), ("context", 48), ("context", 24)], [(1, 6, 8), (1, 6, 8), (1, 4, 6)], _pictures(5),
    )  # fmt: skip


def _pictures(dimensions: int):
    return [drawn(1, 16, *[1] * (dimensions - 4), *sides, seed=seed) for seed, sides in ((1, (12, 16)), (2, (8, 12)))]


def run(model, case: Case, steps: int = 2, condition: dict | None = None):
    """The sample of `case`, one tensor or those of video and sound."""
    words = [[case.text, dict(case.condition if condition is None else condition)]]
    latent = case.noise * 0
    return comfy.sample.sample(
        model, case.noise, steps, 1.0, "euler", "simple", words, words, latent, noise_mask=case.mask, seed=1
    )


def flat(sample) -> torch.Tensor:
    parts = sample.unbind() if getattr(sample, "is_nested", False) else [sample]
    return torch.cat([part.flatten() for part in parts])


CASES = {each.__name__: each for each in (scail2, minimax, ltx, ltx_with_sound, flux, qwen)}
FLUX2 = {"flux2": lambda: flux(global_modulation=True, vec_in_dim=None)}
"""Its blocks share their modulation."""
