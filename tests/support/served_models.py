"""Core's in-context models for a real server: files with random weights, and prompts that run them by core's own nodes. Needs ComfyUI."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE
from comfy.taesd.taesd import TAESD
from comfy.text_encoders.t5 import T5
from core_models import FLUX, LTX, LTX_WITH_SOUND, MINIMAX, SCAIL2, built, drawn
from make_tiny_model import ENCODER_CONFIG, PLAIN_WAN, random_like, tokenizer
from safetensors.torch import save_file

TEXT, TEXT_DIM = 512, ENCODER_CONFIG["d_model"]
"""Tokens of a short text, and numbers of each, by the tiny text encoder, which stands in for each model's own: core fixes the
sizes of those."""


@dataclass
class Served:
    """
    save: given the models folder and the input folder, writes the files that the server does not have. file: of the network.
    nodes: of a prompt. The sampler takes `positive`, `negative`, `latent`, of the node `guided` unless others are named, and the
    model of the node `patched`.
    calls: in-context attentions of a model call. grids: of the target and of every context. exact: tokens of text and sound
    that stay exact. pictures: width and height of the sheet of frames under each part's heat map, None for none.
    """

    save: Callable[[Path, Path], None]
    file: str
    nodes: dict
    calls: int
    grids: list[tuple[int, int, int]]
    pictures: list[tuple[int, int] | None]
    positive: tuple[str, int] = ("guided", 0)
    negative: tuple[str, int] = ("guided", 1)
    latent: tuple[str, int] = ("guided", 2)
    patched: str = "unet"
    encoder: str = "umt5_tiny.safetensors"
    with_sound: bool = False
    steps: int = 2
    exact: int = 0


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def image(width: int, height: int, frames: int = 1, color: int = 0x40A0FF) -> dict:
    return node("EmptyImage", width=width, height=height, batch_size=frames, color=color)


def save(weights: dict, path: Path, **metadata):
    path.parent.mkdir(exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, path, metadata)


def network(kind: str, config: dict, told: tuple[str, ...] = (), dtype=torch.float32):
    """Saves core's architecture `kind`. told: what core reads in the file's metadata, not off its weights."""

    def write(models: Path, file: str):
        weights = built(kind, config).model.diffusion_model.state_dict()
        metadata = json.dumps({"transformer": {name: config[name] for name in told}})
        save({name: weight.to(dtype) for name, weight in weights.items()}, models / "diffusion_models" / file, config=metadata)

    return write


def like(module: torch.nn.Module) -> dict:
    """Random weights for a module."""
    return random_like({name: tuple(weight.shape) for name, weight in module.state_dict().items()}, seed=3)


def bernini() -> Served:
    """Core's plain Wan; a video to edit and a picture of another shape."""
    nodes = {
        "source": image(128, 64, frames=9),
        "picture": image(96, 64, color=0x201000),
        "guided": node(
            "BerniniConditioning", positive=["text", 0], negative=["text", 0], vae=["load", 2], width=128, height=64, length=9,
            batch_size=1, source_video=["source", 0], **{"reference_images.reference_image_0": ["picture", 0]},
        ),
    }  # fmt: skip
    grids = [(3, 4, 8), (3, 4, 8), (1, 4, 6)]
    return Served(lambda *_: None, Path(PLAIN_WAN).name, nodes, 4, grids, [(32, 16), (32, 16), (12, 8)])


def scail2() -> Served:
    nodes = {
        "reference": image(128, 64),
        "pose": image(128, 64, frames=9, color=0x201000),
        "guided": node(
            "WanSCAILToVideo", positive=["text", 0], negative=["text", 0], vae=["load", 2], width=128, height=64, length=9,
            batch_size=1, pose_video=["pose", 0], pose_strength=1.0, pose_start=0.0, pose_end=1.0, reference_image=["reference", 0],
            video_frame_offset=0, previous_frame_count=5, replacement_mode=False,
        ),
    }  # fmt: skip
    write = network("WAN21_SCAIL2", SCAIL2 | {"text_dim": TEXT_DIM}, told=("num_heads", "text_dim", "freq_dim"))
    file, grids = "scail2_small.safetensors", [(3, 4, 8), (1, 4, 8), (3, 2, 4)]
    return Served(lambda models, _: write(models, file), file, nodes, 2, grids, [(16, 8), (16, 8), (16, 8)])


def minimax() -> Served:
    """A picture, a video with sound, the target's sound."""
    nodes = {
        "vae": node("StandInVAE"),
        "picture": image(128, 96),
        "video": image(128, 128, frames=22, color=0x201000),
        "heard": node("EmptyAudio", duration=0.9, sample_rate=32000, channels=2),
        "guided": node(
            "MiniMaxH3ReferenceToVideo", clip=["load", 1], vae=["vae", 0], audio_vae=["vae", 0], prompt="a dancing man", width=256,
            height=128, length=22, ref_image_size="match", **{
                "ref_images.ref_image_0": ["picture", 0],
                "ref_videos.ref_video_0": ["video", 0],
                "ref_video_audios.ref_video_audio_0": ["heard", 0],
            },
        ),
    }  # fmt: skip
    write = network("MiniMaxH3", MINIMAX | {"text_dim": TEXT_DIM})
    file, grids = "minimax_h3_small.safetensors", [(7, 4, 8), (1, 3, 4), (7, 4, 4)]
    return Served(
        lambda models, _: write(models, file), file, nodes, 2, grids, [(24, 24), (8, 6), (24, 24)],
        negative=("guided", 0), latent=("guided", 1), with_sound=True,
        exact=TEXT + 2 * (36 + 37),
    )  # fmt: skip


def ltx() -> Served:
    """A guide at half the size, as its IC-LoRA's file asks for."""
    found = _ltx("LTXV", "ltx_small.safetensors", LTX | {"in_channels": 128, "caption_channels": TEXT_DIM})
    found.nodes["masked"] = node("StandInTextMask", conditioning=["text", 0])
    found.nodes["timed"]["inputs"] |= {"positive": ["masked", 0], "negative": ["masked", 0]}
    return found


def ltx_with_sound() -> Served:
    config = LTX_WITH_SOUND | {"in_channels": 128, "caption_channels": TEXT_DIM // 2}
    found = _ltx("LTXAV", "ltx_with_sound_small.safetensors", config)
    found.nodes["sound"] = node("LoadLatent", latent="sound.latent")
    found.nodes["both"] = node("LTXVConcatAVLatent", video_latent=["guided", 2], audio_latent=["sound", 0])
    found.latent, found.with_sound = ("both", 0), True
    return found


VAE_BLOCKS = [["res_x", 1], *[["compress_all", {}], ["res_x", 1]] * 3]
LTX_VAE = {"dims": 3, "latent_channels": 128, "blocks": VAE_BLOCKS, "encoder_base_channels": 8, "decoder_base_channels": 8,
           "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform"}  # fmt: skip
"""Of LTX's own architecture, which core reads in the file."""


def _ltx(kind: str, file: str, config: dict) -> Served:
    nodes = {
        "vae": node("VAELoader", vae_name="ltx_small_vae.safetensors"),
        "lora": node("LoraLoaderModelOnly", model=["unet", 0], lora_name="ltx_half_size.safetensors", strength_model=1.0),
        "parameters": node("GetICLoRAParameters", iclora_model=["lora", 0]),
        "guide": image(192, 128, frames=17),
        "empty": node("EmptyLTXVLatentVideo", width=384, height=256, length=33, batch_size=1),
        "timed": node("LTXVConditioning", positive=["text", 0], negative=["text", 0], frame_rate=25.0),
        "guided": node(
            "LTXVAddGuide", positive=["timed", 0], negative=["timed", 1], vae=["vae", 0], latent=["empty", 0], image=["guide", 0],
            frame_idx=0, strength=1.0, iclora_parameters=["parameters", 0],
        ),
    }  # fmt: skip

    def write(models: Path, inputs: Path):
        network(kind, config, told=tuple(name for name in config if name not in ("image_model", "num_layers")))(models, file)
        statistics = {"std-of-means": torch.ones(128), "mean-of-means": torch.zeros(128)}
        vae = like(VideoVAE(config=LTX_VAE)) | {f"per_channel_statistics.{name}": each for name, each in statistics.items()}
        save(vae, models / "vae/ltx_small_vae.safetensors", config=json.dumps({"vae": LTX_VAE}))
        query = "diffusion_model.transformer_blocks.0.attn1.to_q"
        lora = {f"{query}.lora_A.weight": drawn(4, 64, seed=1), f"{query}.lora_B.weight": drawn(64, 4, seed=2) / 64}
        save(lora, models / "loras/ltx_half_size.safetensors", reference_downscale_factor="2")
        sound = {"latent_tensor": drawn(1, 8, 10, 16), "latent_format_version_0": torch.zeros(0)}
        save(sound, inputs / "sound.latent")

    return Served(write, file, nodes, 2, [(5, 8, 12), (3, 4, 6)], [None, None], patched="lora")


def flux() -> Served:
    """Two pictures, in the VAE of FLUX's latents that core has at a small size, TAEF1."""
    nodes = _two_pictures(["vae", 0]) | {
        "vae": node("VAELoader", vae_name="taef1_random.safetensors"),
        "guided": node("FluxGuidance", conditioning=["second", 0], guidance=2.5),
    }
    config = FLUX | {
        "guidance_embed": True,
        "context_in_dim": TEXT_DIM,
        "hidden_size": 256,
        "mlp_ratio": 4.0,
        "axes_dim": [16, 56, 56],
    }
    file = "flux_small.safetensors"

    def write(models: Path, _):
        network("Flux", config)(models, file)
        scale = {"vae_scale": torch.ones(()), "vae_shift": torch.zeros(())}
        save(like(TAESD(latent_channels=16)) | scale, models / "vae/taef1_random.safetensors")

    grids, pictures = [(1, 8, 12), (1, 8, 16), (1, 6, 8)], [(32, 16), (32, 16), (16, 12)]
    return Served(write, file, nodes, 3, grids, pictures, negative=("guided", 0), latent=("empty", 0), exact=TEXT)


def qwen() -> Served:
    """One block at the real width, which core does not read off the weights, and a text encoder as wide as it has to be."""
    config = {"image_model": "qwen_image", "in_channels": 64, "num_layers": 1}
    encoder = ENCODER_CONFIG | {"d_model": 3584, "num_layers": 1, "min_length": 32}
    file = "qwen_one_block.safetensors"

    def write(models: Path, _):
        network("QwenImage", config, dtype=torch.bfloat16)(models, file)
        weights = like(T5(encoder, torch.float32, "meta", torch.nn))
        weights["spiece_model"] = torch.frombuffer(bytearray(tokenizer()), dtype=torch.uint8)
        save(weights, models / "text_encoders/umt5_wide.safetensors", config=json.dumps({"text_encoder": encoder}))

    grids, pictures = [(1, 8, 12), (1, 8, 16), (1, 6, 8)], [(32, 16), (32, 16), (16, 12)]
    return Served(
        write, file, _two_pictures(["load", 2]), 1, grids, pictures, positive=("second", 0), negative=("second", 0),
        latent=("empty", 0), encoder="umt5_wide.safetensors", steps=1, exact=encoder["min_length"],
    )  # fmt: skip


def _two_pictures(vae: list) -> dict:
    """Nodes up to `second`, a conditioning that holds two pictures of unlike shapes."""
    nodes = {"empty": node("EmptySD3LatentImage", width=192, height=128, batch_size=1)}
    before = ["text", 0]
    for name, (width, height) in {"first": (256, 128), "second": (128, 96)}.items():
        nodes[f"{name} picture"] = image(width, height)
        nodes[f"{name} latent"] = node("VAEEncode", pixels=[f"{name} picture", 0], vae=vae)
        nodes[name] = node("ReferenceLatent", conditioning=before, latent=[f"{name} latent", 0])
        before = [name, 0]
    return nodes


MODELS = {each.__name__: each for each in (bernini, scail2, minimax, ltx, ltx_with_sound, flux, qwen)}
