"""Makes a tiny random model in LIVEditor's real formats, so that every line of the loading code runs for real.

    python scripts/make_tiny_model.py MODELS_FOLDER

For tests: it comes in every wrapping of the official checkpoint. Its edits mean nothing. Deterministic.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from pathlib import Path

import sentencepiece
import torch
from liveditor_isa.checkpoint.files import replacing
from liveditor_isa.checkpoint.keys import MEMORY, expected_shapes
from safetensors.torch import save_file

DIM, FFN_DIM, TEXT_DIM, BLOCKS = 256, 512, 64, 4
MODEL = "diffusion_models/liveditor_tiny.bin"
PLAIN_WAN = "diffusion_models/wan_tiny.safetensors"
ENCODER = "text_encoders/umt5_tiny.safetensors"
VAE = "vae/wan_tiny_vae.safetensors"

ENCODER_CONFIG = {
    "d_ff": 128, "d_kv": 16, "d_model": TEXT_DIM, "dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True,
    "layer_norm_epsilon": 1e-06, "model_type": "umt5", "num_heads": 4, "num_layers": 2, "vocab_size": 256,
}  # fmt: skip

INSTRUCTIONS = """Add a red ball to the meadow. Remove the man on the left. Replace the dog with a cat.
Change the colour of the car to blue. Turn the video into a watercolour painting. Make the sky look like sunset.
Put the rabbit on a snowy mountain. Let it rain. Give the woman a green hat. Make the butterfly glow in gold.
Turn the scene into pencil sketch, keep everything else as it is. Brighten the background and blur the trees."""


def main(folder: Path):
    for name in (MODEL, PLAIN_WAN, ENCODER, VAE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    torch.save(bin_variants()["module"], folder / MODEL)
    plain = {name: weight for name, weight in diffusion_weights().items() if MEMORY not in name and ".alpha_" not in name}
    save(plain, folder / PLAIN_WAN, {"config": json.dumps({"transformer": {"text_dim": TEXT_DIM}})})
    save(encoder_weights(), folder / ENCODER, {"config": json.dumps({"text_encoder": ENCODER_CONFIG})})
    save(vae_weights(), folder / VAE, {})


def save(weights: dict, path: Path, metadata: dict):
    with replacing(path) as partial:
        save_file({name: weight.contiguous() for name, weight in weights.items()}, partial, {"format": "pt", **metadata})


def random_like(shapes: dict[str, tuple[int, ...]], seed: int, gain: float = 1.0) -> dict[str, torch.Tensor]:
    """Weights that keep activations near 1: matrices scaled by fan-in, norms at 1, biases small."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight") or name.endswith("gamma"):
            weights[name] = 1 + 0.02 * noise
        elif name.endswith("bias") or "modulation" in name:
            weights[name] = 0.02 * noise
        else:
            weights[name] = gain * noise / math.sqrt(math.prod(shape[1:]))
    return weights


def diffusion_weights() -> dict[str, torch.Tensor]:
    shapes = expected_shapes(DIM, FFN_DIM, TEXT_DIM, BLOCKS)
    for block in range(BLOCKS):
        for gate in ("self_attn.alpha_2", "cross_attn.alpha_1", "cross_attn.alpha_2"):
            shapes[f"blocks.{block}.{gate}.weight"] = (1, DIM)
    return random_like(shapes, seed=0)


def bin_variants() -> dict[str, dict]:
    """The wrappings in which official checkpoints come, by name; every one holds `diffusion_weights`."""
    weights = diffusion_weights()
    prefix = "wanx_unimodel.guidance_model.feedforward_model."
    noise = {"vae.decoder.weight": torch.ones(3), "optimizer.state": torch.ones(3), "lr_scheduler.step": torch.ones(1)}
    outdated = {f"model.{name}": torch.zeros_like(weight) for name, weight in weights.items()}
    return {
        "bare": weights,
        "state_dict": {"state_dict": weights, "epoch": 3},
        "module": {"module": {prefix + name: weight for name, weight in weights.items()} | noise},
        "weights": {"weights": {"state_dict": {f"model.diffusion_model.{name}": weight for name, weight in weights.items()}}},
        "ema": outdated | {f"model_ema.{name}": weight for name, weight in weights.items()},
    }


def encoder_weights() -> dict[str, torch.Tensor]:
    import comfy.ops
    from comfy.text_encoders.t5 import T5

    with torch.device("meta"):
        network = T5(ENCODER_CONFIG, torch.float32, "meta", comfy.ops.disable_weight_init)
    weights = random_like({name: tuple(weight.shape) for name, weight in network.state_dict().items()}, seed=1)
    return weights | {"spiece_model": torch.frombuffer(bytearray(tokenizer()), dtype=torch.uint8)}


def tokenizer() -> bytes:
    """A sentencepiece model with UMT5's special tokens: pad 0, end 1, unknown 2, no beginning."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(INSTRUCTIONS.split("\n")), model_writer=model, vocab_size=ENCODER_CONFIG["vocab_size"],
        hard_vocab_limit=False, byte_fallback=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def vae_weights() -> dict[str, torch.Tensor]:
    from comfy.ldm.wan.vae import WanVAE

    with torch.device("meta"):
        network = WanVAE(dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True])
    return random_like({name: tuple(weight.shape) for name, weight in network.state_dict().items()}, seed=2, gain=0.7)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="MODELS_FOLDER")
    options = parser.parse_args()
    from comfy_headless import import_comfy

    import_comfy()
    main(options.folder)
