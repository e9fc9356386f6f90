"""Trains a small video VAE in Wan 2.1's format, which ComfyUI's own VAE loader opens.

    python -m liveditor_isa.training.tiny.vae --out FOLDER --minutes 5

Call it again to go on where it stopped. FOLDER gets wan_tiny_vae.safetensors, reconstructions.png, a log and a checkpoint.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from comfy.cli_args import args as core_options
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

# Core looks for a GPU when it is imported, and fails without one unless told that there is none.
core_options.cpu |= not torch.cuda.is_available()
import comfy.sd  # noqa: E402
from comfy.latent_formats import Wan21  # noqa: E402
from comfy.ldm.wan.vae import Resample, ResidualBlock, WanVAE  # noqa: E402

from ...data.procedural.stream import EditStream  # noqa: E402
from ...data.procedural.tensors import upload  # noqa: E402
from ..graph import Pass  # noqa: E402
from ..processes import join, leave, own_seed, rank  # noqa: E402
from ..run import descend, half_cosine, log_line, replace_file, run_until  # noqa: E402

EXPORT, CHECKPOINT, LOG, SHEET = "wan_tiny_vae.safetensors", "vae_checkpoint.pt", "vae_log.jsonl", "reconstructions.png"
LATENT_CHANNELS = 16
CAUSAL = (0, 0, 0, 0, 2, 0)
"""Padding in front of a causal convolution over three frames, in F.pad's order."""


@dataclass(frozen=True)
class VAESettings:
    """What is trained, and how."""

    dim: int = 16
    """Channels at full resolution; Wan's own has 96."""
    steps: int = 7000
    """Length of the learning rate's schedule; a finished run does not go on."""
    clips: int = 4
    """A step."""
    frames: int = 17
    size: int = 128
    """Height and width in pixels."""
    learning_rate: float = 7e-4
    warm_up: int = 100
    noise: float = 0.1
    """Standard deviation of what is added to the normalised latents, so that near latents decode alike."""
    anchor: float = 0.2
    """Weight of the first three latent channels' being the mean colour. Without it a whole axis of colour can stay unlearnt:
    while neither half of the network knows it, neither has a reason to learn it."""
    ema: float = 0.999
    seed: int = 0


# The network ----------------------------------------------------------------------------------------------------------


def new_network(dim: int, seed: int = 0) -> WanVAE:
    """Core's network with random weights that let much of the picture through: residual branches are silent at first, and
    all other convolutions hand on what they see where they are. From plain noise, colours alone take hundreds of steps.
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
    """Add an orthogonal matrix of channels at the tap that sees the output's own place, or the mean over those that do."""
    out, into = weight.shape[:2]
    down, in_time = "downsamples" in name, "time_conv" in name
    # Upwards in time, one frame becomes two: the same twice.
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
    """The network itself, its weights laid out as cuDNN's bf16 kernels want them: others it transposes at every call."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in network.parameters():
        if weight.ndim in formats:
            weight.data = weight.data.contiguous(memory_format=formats[weight.ndim])
    return network


def encode(network: WanVAE, video: torch.Tensor) -> torch.Tensor:
    """`WanVAE.encode` with all frames at once instead of two at a time: one launch where it has many.

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


# In one kernel: at few channels, reading and writing takes longer than computing. Six shapes, a few seconds each.
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
    """Of `encode`'s answer for a video."""
    batch, _, frames, height, width = video.shape
    return batch, LATENT_CHANNELS, (frames + 3) // 4, height // 8, width // 8


def normalise(latents: torch.Tensor, statistics: tuple[torch.Tensor, torch.Tensor], momentum: torch.Tensor) -> torch.Tensor:
    """Every channel to about mean 0 and variance 1, by running statistics ([16] each), which are brought up to date.

    Not by the batch's own: of so few clips they would take the colour away.
    """
    with torch.no_grad():
        variance, mean = torch.var_mean(latents.float(), dim=(0, 2, 3, 4))
        for running, seen in zip(statistics, (mean, variance)):
            running.lerp_(seen, momentum)
    return F.batch_norm(latents.float(), *statistics, training=False)


def fold_statistics(weights: dict[str, torch.Tensor], mean: torch.Tensor, std: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weights whose latents have the statistics that core takes for granted in Wan 2.1's.

    weights: of a network that decodes `(encode(video) - mean) / std`. mean, std: [16].
    The result decodes its own latents, and core's `process_in` makes them what the decoder was trained on. Both affine maps
    go into the two 1×1×1 convolutions at the latents, so nothing else changes.
    """
    core = Wan21()
    core_mean, core_std = (value.flatten().to(mean) for value in (core.latents_mean, core.latents_std))
    # conv1 has the mean's channels in front of the log variance's, which nobody reads.
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


# Training -------------------------------------------------------------------------------------------------------------


def reconstruction_loss(output: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
    """Both [B, 3, T, H, W] in -1..1. Differences in colour, in edges at three scales, and in what moves."""
    error = output.float() - video
    loss = (error.square() + 1e-6).sqrt().mean()
    if error.shape[2] > 1:
        loss = loss + 0.5 * error.diff(dim=2).abs().mean()
    for _ in range(3):
        loss = loss + 0.5 * (error.diff(dim=3).abs().mean() + error.diff(dim=4).abs().mean())
        error = F.avg_pool3d(error, (1, 2, 2))
    return loss + error.abs().mean()


def mean_colours(video: torch.Tensor) -> torch.Tensor:
    """[B, 3, 4n+1, 8h, 8w] -> [B, 3, n+1, h, w]: lightness, orange to blue and green to magenta of what each latent stands for."""
    padded = F.pad(video.float(), (0, 0, 0, 0, 3, 0), mode="replicate")
    return torch.einsum("ac,bcthw->bathw", _axes(video.device), F.avg_pool3d(padded, (4, 8, 8)))


@lru_cache
def _axes(device: torch.device) -> torch.Tensor:
    return torch.tensor([[0.6, 0.6, 0.6], [2.0, 0.0, -2.0], [-1.2, 2.4, -1.2]], device=device)


def psnr(output: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
    """Of clips [B, 3, T, H, W] in -1..1, in dB, averaged over the clips."""
    error = (output.float().clamp(-1, 1) - video).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error).mean()


class VAETrainer:
    """A training run: `step` it, `save` it, `load` it into a new one, and that goes on with the same numbers.

    clips: step -> [B, 3, T, H, W] in 0..1 on the device.
    """

    def __init__(self, settings: VAESettings, clips: Callable[[int], torch.Tensor], device: torch.device | str):
        self.settings, self.clips, self.device = settings, clips, torch.device(device)
        self.network = channels_last(new_network(settings.dim, settings.seed).to(self.device))
        self.weights = list(self.network.parameters())
        self.averaged = [weight.detach().clone() for weight in self.weights]
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=self.device.type == "cuda"
        )
        self.gradients = Pass(self.loss, self.weights)
        self.statistics = torch.zeros(LATENT_CHANNELS, device=device), torch.ones(LATENT_CHANNELS, device=device)
        """Running mean and variance of the latents."""
        self.done = 0
        """Steps so far."""

    def step(self) -> dict[str, torch.Tensor]:
        """One step; loss and PSNR of its batch, still on the device."""
        video = self.video(self.done)
        generator = torch.Generator(self.device).manual_seed(own_seed(self.settings.seed) + 1_000_003 * self.done)
        noise = torch.randn(latent_shape(video), device=self.device, generator=generator)
        # As slow as the average over all steps at the start.
        momentum = torch.tensor(max(0.01, 1 / (1 + self.done)))
        loss, quality = self.gradients(video.shape, video, noise, upload(momentum, self.device))
        descend(self, self.done + 1)
        return {"loss": loss, "psnr": quality}

    def loss(self, video: torch.Tensor, noise: torch.Tensor, momentum: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(what is minimised, PSNR) for a batch, and what is added to its latents."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            raw = encode(self.network, video)
            latents = normalise(raw, self.statistics, momentum)
            output = decode(self.network, latents + self.settings.noise * noise)
        anchored = (raw[:, :3].float() - mean_colours(video)).square().mean()
        return reconstruction_loss(output, video) + self.settings.anchor * anchored, psnr(output.detach(), video)

    def video(self, index: int) -> torch.Tensor:
        """A batch of clips, [B, 3, T, H, W] in -1..1."""
        video = 2 * self.clips(index) - 1
        return video.contiguous(memory_format=torch.channels_last_3d)

    @property
    def learning_rate(self) -> float:
        """For the next step: linear warm-up, then half a cosine down to a hundredth."""
        settings = self.settings
        warm = min(1.0, (self.done + 1) / settings.warm_up)
        return warm * half_cosine(settings.learning_rate, 0.01 * settings.learning_rate, self.done / settings.steps)

    def save(self, path: Path):
        state = {
            "dim": self.settings.dim,
            "done": self.done,
            "network": self.network.state_dict(),
            "averaged": self.averaged,
            "statistics": self.statistics,
            "optimizer": self.optimizer.state_dict(),
        }
        replace_file(path, lambda partial: torch.save(state, partial))

    def load(self, path: Path):
        """Raises ValueError for a checkpoint of another width. The other settings may differ from those it was made with."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["dim"] != self.settings.dim:
            raise ValueError(f"{path} is of a network of dim {state['dim']}, not {self.settings.dim}: use another folder.")
        self.network.load_state_dict(state["network"])
        self.averaged = state["averaged"]
        for running, saved in zip(self.statistics, state["statistics"]):
            running.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["done"]

    @torch.no_grad()
    def export(self, path: Path, batches: int = 24):
        """Write the averaged weights in fp16, in Wan 2.1's names and with its latents' statistics."""
        network = new_network(self.settings.dim).to(self.device)
        for weight, averaged in zip(network.parameters(), self.averaged):
            weight.copy_(averaged)
        latents = [network.encode(self.video(index)).double().transpose(0, 1).flatten(1) for index in range(batches)]
        std, mean = torch.std_mean(torch.cat(latents, dim=1), dim=1)
        folded = fold_statistics(network.state_dict(), mean.float(), std.float())
        halves = {name: weight.half().cpu().contiguous() for name, weight in folded.items()}
        replace_file(path, lambda partial: save_file(halves, partial, {"format": "pt", "steps": str(self.done)}))


# A whole run ----------------------------------------------------------------------------------------------------------


def train_vae(
    folder: Path, minutes: float, device: torch.device | str = "cuda", settings: VAESettings | None = None
) -> dict[str, float]:
    """Train until the steps are done or the minutes over, export, and look at clips that training never sees.

    folder: goes on from a checkpoint there. minutes: of this call, kernels being compiled counted in, the export not.
    Returns what `evaluate` measures, and the steps done.
    """
    settings, folder = settings or VAESettings(), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = VAETrainer(settings, Clips(settings, device), device)
    if (folder / CHECKPOINT).exists():
        trainer.load(folder / CHECKPOINT)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        run_until(trainer, "VAE", folder / CHECKPOINT, folder / LOG, minutes)
    if rank():
        return {"steps": trainer.done}
    trainer.export(folder / EXPORT)
    result = {"steps": trainer.done, **evaluate_held_out(folder / EXPORT, settings, device, folder / SHEET)}
    log_line(folder / LOG, result)
    return result


def is_finished(folder: Path, settings: VAESettings) -> bool:
    """Whether the folder holds the export of a run that took all its steps."""
    return (folder / EXPORT).exists() and steps_done(folder / EXPORT) >= settings.steps


def steps_done(export: Path) -> int:
    """What an exported VAE was trained for, before its decoder alone."""
    with safe_open(export, "pt") as file:
        return int((file.metadata() or {}).get("steps", 0))


def load_export(path: Path, device: torch.device | str) -> WanVAE:
    """The network of an exported file, for `encode` and `decode`, without gradients."""
    weights = load_file(path)
    network = new_network(weights["decoder.head.0.gamma"].shape[0])
    network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return channels_last(network.requires_grad_(False).to(device))


class Clips:
    """Training clips by step, of the settings' seed, size and number: drawing many at once takes the CPU hardly longer than one."""

    def __init__(self, settings, device, pairs: int = 8):
        self.stream = EditStream(own_seed(settings.seed), pairs, settings.frames, settings.size, settings.size, device)
        self.parts = 2 * pairs // settings.clips
        self.drawn = (-1, None)

    def __call__(self, step: int) -> torch.Tensor:
        """[clips, 3, T, H, W] in 0..1."""
        number, part = divmod(step, self.parts)
        if self.drawn[0] != number:
            self.drawn = number, _both(self.stream[number])
        return self.drawn[1][part :: self.parts]


def _both(batch) -> torch.Tensor:
    return torch.cat([batch.source, batch.target])


def evaluate_held_out(file: Path, settings, device, sheet: Path) -> dict[str, float]:
    """`evaluate` with clips that training never sees, of the settings' size."""
    clips = EditStream(0, 4, settings.frames, settings.size, settings.size, device, split="held-out")[0]
    return evaluate(file, _both(clips), sheet)


@torch.no_grad()
def evaluate(file: Path, clips: torch.Tensor, sheet: Path | None = None) -> dict[str, float]:
    """PSNR in dB and statistics of the latents, all through core's own loader and code.

    clips: [B, 3, T, H, W] in 0..1. sheet: where to write an image, first, middle and last frames over their reconstructions.
    """
    vae = comfy.sd.VAE(sd=load_file(file))
    pixels = clips.movedim(1, -1).float().cpu()
    # One by one: of a batch of videos, core crops the frames to a multiple of 8.
    latents = torch.cat([vae.encode(video) for video in pixels])
    output = vae.decode(latents).to(pixels)
    normalised = Wan21().process_in(latents.float().cpu())
    if sheet:
        rows = [video[:, [0, video.shape[1] // 2, -1]].flatten(0, 1) for video in (pixels, output)]
        picture = torch.stack(rows).permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
        Image.fromarray((255 * picture.clamp(0, 1)).round().byte().numpy()).save(sheet)
    return {
        "psnr": psnr(*(2 * video.movedim(-1, 1) - 1 for video in (output, pixels))).item(),
        "latent_mean": normalised.mean().item(),
        "latent_std": normalised.std().item(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--device", default="cuda")
    for name, default in asdict(VAESettings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args())
    folder, minutes, device = (options.pop(name) for name in ("out", "minutes", "device"))
    print(json.dumps(train_vae(folder, minutes, join(device), VAESettings(**options))))
    leave()


if __name__ == "__main__":
    main()
