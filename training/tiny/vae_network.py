"""The small VAE's network: core's Wan VAE with initial weights, run over all frames at once."""

from __future__ import annotations

import torch
import torch._dynamo
import torch.nn.functional as F
from comfy.latent_formats import Wan21
from comfy.ldm.wan.vae import Resample, ResidualBlock, WanVAE

from ...video import geometry

LATENT_CHANNELS = 16
CAUSAL = (0, 0, 0, 0, 2, 0)
"""Padding in front of a causal convolution over three frames, in F.pad's order."""


def new_network(dim: int, seed: int = 0) -> WanVAE:
    """Core's network with random weights that let much of the picture through: residual branches start at zero, and
    all other convolutions pass on their input at its position. From plain noise, colours alone take hundreds of steps.
    """
    network = WanVAE(
        dim=dim, z_dim=LATENT_CHANNELS, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True]
    ).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        if name.endswith(("bias", "residual.6.weight", "proj.weight")):
            weight.zero_()
        elif name.endswith("weight"):
            weight.normal_(std=weight[0].numel() ** -0.5, generator=generator)
            if "residual" not in name and "to_qkv" not in name:
                weight *= 0.3
                _hand_on(name, weight, generator)
    return network.requires_grad_(True)


def _hand_on(name: str, weight: torch.Tensor, generator: torch.Generator):
    """Add an orthogonal matrix of channels at the tap at the output's position, or their mean over all such taps."""
    out, into = weight.shape[:2]
    down, in_time = "downsamples" in name, "time_conv" in name
    # Upsampling in time repeats each frame.
    twice = 2 if in_time and not down else 1
    channels = torch.nn.init.orthogonal_(torch.empty(out // twice, into), generator=generator).repeat(twice, 1)
    if down and in_time:
        weight[:, :, 1:] += channels.view(out, into, 1, 1, 1) / 2
    elif down and "resample" in name:
        weight[:, :, :2, :2] += channels.view(out, into, 1, 1) / 4
    else:
        # The last frame of a causal kernel, the middle of a picture.
        weight.view(out, into, -1, *weight.shape[-2:])[:, :, -1, weight.shape[-2] // 2, weight.shape[-1] // 2] += channels


def channels_last(network: WanVAE) -> WanVAE:
    """The network itself, with weights in the memory layout of cuDNN's bf16 kernels, which transpose other layouts at every call."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in network.parameters():
        if weight.ndim in formats:
            weight.data = weight.data.contiguous(memory_format=formats[weight.ndim])
    return network


def encode(network: WanVAE, video: torch.Tensor) -> torch.Tensor:
    """`WanVAE.encode` with all frames at once instead of two at a time: one launch instead of many.

    video: [B, 3, 4n+1, 8h, 8w] in -1..1 -> latents [B, 16, n+1, h, w].
    """
    encoder = network.encoder
    x = _convolve(encoder.conv1, F.pad(video, CAUSAL))
    for layer in (*encoder.downsamples, *encoder.middle):
        x = _run(layer, x)
    return network.conv1(_head(encoder.head, x)).chunk(2, dim=1)[0]


def decode(network: WanVAE, latents: torch.Tensor) -> torch.Tensor:
    """`WanVAE.decode`, likewise: [B, 16, n+1, h, w] -> video [B, 3, 4n+1, 8h, 8w]."""
    decoder = network.decoder
    x = _convolve(decoder.conv1, F.pad(network.conv2(latents), CAUSAL))
    for layer in (*decoder.middle, *decoder.upsamples):
        x = _run(layer, x)
    return _head(decoder.head, x)


def _run(layer, x: torch.Tensor) -> torch.Tensor:
    if isinstance(layer, Resample):
        return _resample(layer, x)
    if isinstance(layer, ResidualBlock):
        norm_1, _, conv_1, norm_2, _, _, conv_2 = layer.residual
        hidden = _convolve(conv_1, _activate(x, norm_1.gamma))
        return _convolve(conv_2, _activate(hidden, norm_2.gamma)) + layer.shortcut(x)
    return layer(x)


def _head(head, x: torch.Tensor) -> torch.Tensor:
    norm, _, conv = head
    return _convolve(conv, _activate(x, norm.gamma))


def _convolve(conv, x: torch.Tensor) -> torch.Tensor:
    """x comes with its causal padding."""
    return F.conv3d(x, conv.weight, conv.bias, conv.stride, conv.padding)


torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)


# In one kernel: at few channels, reading and writing takes longer than computing. A few seconds for each shape.
@torch.compile(dynamic=False, disable=not torch.cuda.is_available())
def _activate(x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """RMS norm over the channels, SiLU, causal padding: [B, C, T, H, W] -> [B, C, 2+T, H, W]."""
    normed = F.normalize(x.float(), dim=1) * x.shape[1] ** 0.5 * gamma
    return F.pad(F.silu(normed).to(x.dtype), CAUSAL)


def _resample(layer: Resample, x: torch.Tensor) -> torch.Tensor:
    """The first frame stands for itself, before and after; every other one is a half, or becomes two."""
    frames = x.shape[2]
    if layer.mode == "upsample3d" and frames > 1:
        pairs = _convolve(layer.time_conv, F.pad(x[:, :, 1:], CAUSAL)).unflatten(1, (2, x.shape[1]))
        x = torch.cat([x[:, :, :1], pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)], dim=2)
    images = layer.resample(x.transpose(1, 2).flatten(0, 1))
    x = images.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
    if layer.mode == "downsample3d" and frames > 1:
        x = torch.cat([x[:, :, :1], _convolve(layer.time_conv, x)], dim=2)
    return x


def latent_shape(video: torch.Tensor) -> tuple[int, ...]:
    """Of `encode`'s answer for a video, [B, 3, 4n+1, 8h, 8w]."""
    batch, _, frames, height, width = video.shape
    return batch, LATENT_CHANNELS, *geometry.latent_shape(frames, width, height)


def normalise(latents: torch.Tensor, statistics: tuple[torch.Tensor, torch.Tensor], momentum: torch.Tensor) -> torch.Tensor:
    """Normalises every channel to about mean 0 and variance 1 by running statistics ([16] each), and updates these.

    Not by the batch's statistics: with so few clips that would remove the colour.
    """
    with torch.no_grad():
        variance, mean = torch.var_mean(latents.float(), dim=(0, 2, 3, 4))
        for running, seen in zip(statistics, (mean, variance)):
            running.lerp_(seen, momentum)
    return F.batch_norm(latents.float(), *statistics, training=False)


def fold_statistics(weights: dict[str, torch.Tensor], mean: torch.Tensor, std: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weights whose latents have the statistics that core assumes for Wan 2.1.

    weights: of a network that decodes `(encode(video) - mean) / std`. mean, std: [16].
    The result decodes its own latents, and core's `process_in` makes them what the decoder was trained on. Both affine maps
    go into the two 1×1×1 convolutions at the latents, so nothing else changes.
    """
    core = Wan21()
    core_mean, core_std = (value.flatten().to(mean) for value in (core.latents_mean, core.latents_std))
    # conv1 has the mean's channels in front of the log variance's, which are not used.
    weight, bias = weights["conv1.weight"].clone(), weights["conv1.bias"].clone()
    weight[:LATENT_CHANNELS] *= (core_std / std).view(-1, 1, 1, 1, 1)
    bias[:LATENT_CHANNELS] = (bias[:LATENT_CHANNELS] - mean) * core_std / std + core_mean
    inverse = weights["conv2.weight"] / core_std.view(1, -1, 1, 1, 1)
    return weights | {
        "conv1.weight": weight,
        "conv1.bias": bias,
        "conv2.weight": inverse,
        "conv2.bias": weights["conv2.bias"] - inverse.flatten(1) @ core_mean,
    }
