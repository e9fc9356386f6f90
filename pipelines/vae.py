"""The Wan 2.1 VAE in diffusers, from ComfyUI's files too; encoding and decoding a video a few frames at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from inspect import signature
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.torch_utils import get_module_execution_device

from ..checkpoint.keys import CheckpointError
from ..checkpoint.opening import open_checkpoint
from ..video.geometry import FRAMES_AT_A_TIME, latent_groups
from .folders import load_part

CHANNELS = 16

NARROW = 96
"""Channels. Convolutions of fewer go through oneDNN on a CPU; Wan's own VAE has hardly any."""


def load_vae(path: str | Path, dtype: torch.dtype | None = torch.float32) -> AutoencoderKLWan:
    """The Wan 2.1 VAE of any width.

    path: wan_2.1_vae.safetensors in its original names (ComfyUI's) or diffusers', or a folder in diffusers' layout: a whole
    pipeline's, or the VAE's own.
    dtype: None as in a file.
    Raises CheckpointError for anything else or a damaged file, OSError where there is none.
    """
    path = Path(path)
    vae = load_part(AutoencoderKLWan, path, "vae", dtype) if path.is_dir() else _from_file(path, dtype)
    if (vae.config.z_dim, vae.config.in_channels, vae.config.out_channels) != (CHANNELS, 3, 3):
        raise _another(path)
    return through_onednn(vae)


def through_onednn(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """The same, whose narrow convolutions are `_Narrow`: up to three times as fast on a CPU, for small videos."""
    for module in vae.modules():
        if type(module) is WanCausalConv3d and module.in_channels < NARROW:
            module.__class__ = _Narrow
    return vae


class _Narrow(WanCausalConv3d):
    """On a CPU by oneDNN. PyTorch 2.11 chooses its own code there for small or narrow volumes, which takes up to seven times as long."""

    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
            return super()._conv_forward(x, weight, bias)
        return F.conv3d(x.to_mkldnn(), weight, bias, self.stride, self.padding, self.dilation, self.groups).to_dense()


def _from_file(path: Path, dtype: torch.dtype | None) -> AutoencoderKLWan:
    checkpoint = open_checkpoint(path)
    shapes = convert_wan_vae_to_diffusers(checkpoint.shapes)
    widths = [shapes.get(name, ())[:1] for name in ("encoder.conv_in.weight", "decoder.norm_out.gamma")]
    if shapes.get("post_quant_conv.weight", ())[:1] != (CHANNELS,) or not all(width > (0,) for width in widths):
        raise _another(path)
    with torch.device("meta"):
        vae = AutoencoderKLWan(base_dim=widths[0][0], decoder_base_dim=widths[1][0])
    expected = {name: tuple(weight.shape) for name, weight in vae.state_dict().items()}
    if shapes != expected or len(shapes) != len(checkpoint.shapes):
        wrong = [name for name in {**expected, **shapes} if shapes.get(name) != expected.get(name)]
        raise CheckpointError(
            f"{path.name} is damaged, or no Wan 2.1 VAE: {len(wrong)} weights are missing, unknown or misshapen"
            f"{', ' + wrong[0] + ' for one' if wrong else ''}. Download wan_2.1_vae.safetensors again."
        )
    weights = convert_wan_vae_to_diffusers(checkpoint.tensors())
    vae.load_state_dict({name: weight.to(dtype) for name, weight in weights.items()}, assign=True)
    return vae.eval().requires_grad_(False)


def _another(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path.name} is not a Wan 2.1 VAE, which has {CHANNELS} channels over time: pick wan_2.1_vae.safetensors."
    )


@torch.no_grad()
def encode_video(vae: AutoencoderKLWan, frames: torch.Tensor | Iterable[torch.Tensor]) -> torch.Tensor:
    """Normalised latents, [1, 16, T, H/8, W/8] in fp32, the mean of the VAE's distribution, as the network takes them.

    frames: [F, H, W, 3] in 0..1, or an iterable of such chunks, which are read as they are needed. H and W are multiples of
    8. The last frame is repeated to 4(T-1) + 1 frames.

    Memory does not grow with the number of frames, beyond what is returned; with `vae.enable_tiling()` it does: tiles are
    encoded over all of time.
    """
    chunks = [frames] if isinstance(frames, torch.Tensor) else frames
    device = _ready(vae)
    groups = (_pixels(group).to(device, vae.dtype) for group in latent_groups(chunks))
    if vae.use_tiling:
        mean = vae.encode(torch.cat([*groups], 2)).latent_dist.mode()
    else:
        cache = _cache(vae.encoder)
        encoded = [vae.encoder(group, feat_cache=cache, feat_idx=[0]) for group in groups]
        mean, _ = vae.quant_conv(torch.cat(encoded, 2)).chunk(2, 1)
    shift, scale = _normalisation(vae, device)
    return (mean.float() - shift) / scale


@torch.no_grad()
def decode_video(vae: AutoencoderKLWan, latents: torch.Tensor) -> Iterator[torch.Tensor]:
    """Chunks of frames, [f, H, W, 3] in 0..1, fp32 on the CPU, of normalised latents, [1, 16, T, h, w]; 4(T-1) + 1 in all.

    Memory does not grow with the number of frames; with `vae.enable_tiling()` it does: tiles are decoded over all of time.
    """
    device = _ready(vae)
    shift, scale = _normalisation(vae, device)
    latents = (latents.to(device).float() * scale + shift).to(vae.dtype)
    if vae.use_tiling:
        yield from _frames(vae.decode(latents, return_dict=False)[0]).split(FRAMES_AT_A_TIME)
        return
    cache = _cache(vae.decoder)
    for latent in latents.split(1, 2):
        yield _frames(vae.decoder(vae.post_quant_conv(latent), feat_cache=cache, feat_idx=[0]))


def without_normalisation(latents: torch.Tensor) -> torch.Tensor:
    """Normalised latents, [B, 16, T, h, w], as Wan 2.1's VAE gives them, which is what ComfyUI's nodes hold; fp32."""
    usual = signature(AutoencoderKLWan.__init__).parameters
    mean, deviation = (torch.tensor(usual[name].default).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    return latents.float() * deviation + mean


# `vae.encode` and `vae.decode` process a video in the same steps, latent frame by latent frame, but hold all of it at once.
# They have no public way to return one step at a time.


def _cache(network: torch.nn.Module) -> list:
    """The feature cache of encoder or decoder: one entry for each of their convolutions over time."""
    return [None] * sum(isinstance(module, WanCausalConv3d) for module in network.modules())


@apply_forward_hook
def _ready(vae: AutoencoderKLWan) -> torch.device:
    """The device of computation. The decorator makes accelerate's offloading load the VAE, as for `vae.encode`."""
    return get_module_execution_device(vae)


def _normalisation(vae: AutoencoderKLWan, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of latents, [1, 16, 1, 1, 1]."""
    return tuple(
        torch.tensor(values, device=device).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
    )


def _pixels(frames: torch.Tensor) -> torch.Tensor:
    """[f, H, W, 3] in 0..1 -> [1, 3, f, H, W] in -1..1."""
    return frames.movedim(-1, 0)[None] * 2 - 1


def _frames(pixels: torch.Tensor) -> torch.Tensor:
    """[1, 3, f, H, W] in -1..1 -> [f, H, W, 3] in 0..1."""
    return ((pixels[0].float().clamp(-1, 1) + 1) / 2).movedim(0, -1).cpu()
