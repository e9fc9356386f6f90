"""Trains a small video VAE in Wan 2.1's format, which ComfyUI's own VAE loader opens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import comfy.sd
import torch
import torch.nn.functional as F
from comfy.latent_formats import Wan21
from comfy.ldm.wan.vae import WanVAE
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ...data.procedural.stream import EditStream
from ...data.procedural.tensors import upload
from ..graph import Pass
from ..processes import own_seed, rank
from ..run import descend, half_cosine, log_line, replace_file, run_until
from .clips import Clips, Sources, both
from .losses import PictureLoss, frames_for, reconstruction_loss
from .vae_network import (
    LATENT_CHANNELS,
    channels_last,
    decode,
    encode,
    fold_statistics,
    latent_shape,
    new_network,
    normalise,
)

HALF = (1, 2, 2)
"""Pooling to half the height and width."""
EXPORT, CHECKPOINT, LOG, SHEET = "wan_tiny_vae.safetensors", "vae_checkpoint.pt", "vae_log.jsonl", "reconstructions.png"


@dataclass(frozen=True)
class VAESettings:
    """Settings of the training."""

    dim: int = 32
    """Channels at full resolution; Wan's own has 96."""
    steps: int = 17_600
    """Length of the learning rate's schedule; a finished run cannot be continued."""
    clips: int = 4
    """A step, of each process."""
    frames: int = 17
    size: int = 128
    """Height and width in pixels."""
    learning_rate: float = 6e-4
    warm_up: int = 200
    perceptual: float = 0.3
    """Weight of `perceptual.py`'s distance, where there are weights for it."""
    smaller: float = 0.2
    """Weight of the loss of latents at half the resolution, which shall stand for the video at half the resolution: such
    latents are smoother, and easier for an editor to make (Skorokhodov et al., "Improving the Diffusability of Autoencoders", 2025)."""
    noise: float = 0.07
    """Standard deviation of noise added to the normalised latents, so that similar latents decode alike."""
    anchor: float = 0.2
    """Weight of the first three latent channels' being the mean colour. Without it a whole axis of colour can stay unlearnt:
    while neither half of the network knows it, neither has a reason to learn it."""
    ema: float = 0.999
    seed: int = 0


# Training -------------------------------------------------------------------------------------------------------------


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

    def __init__(
        self, settings: VAESettings, clips: Callable[[int], torch.Tensor], device: torch.device | str, vgg: Path | None = None
    ):
        """vgg: weights for `Perceptual`."""
        self.settings, self.clips, self.device = settings, clips, torch.device(device)
        self.picture_loss = PictureLoss(settings.perceptual, vgg, self.device)
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
        looked_at = frames_for(self.done, video.shape[2], self.device)
        loss, quality = self.gradients(video.shape, video, noise, upload(momentum, self.device), looked_at)
        descend(self, self.done + 1)
        return {"loss": loss, "psnr": quality}

    def loss(
        self, video: torch.Tensor, noise: torch.Tensor, momentum: torch.Tensor, looked_at: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, PSNR) of a batch, with noise added to its latents. looked_at: of `frames_for`."""
        settings = self.settings
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            raw = encode(self.network, video)
            latents = normalise(raw, self.statistics, momentum) + settings.noise * noise
            output = decode(self.network, latents)
            small = decode(self.network, F.avg_pool3d(latents, HALF))
            loss = settings.anchor * (raw[:, :3].float() - mean_colours(video)).square().mean()
            loss = loss + self.picture_loss(output, video, looked_at)
        loss = loss + settings.smaller * reconstruction_loss(small, F.avg_pool3d(video, HALF))
        return loss, psnr(output.detach(), video)

    def video(self, index: int) -> torch.Tensor:
        """A batch of clips, [B, 3, T, H, W] in -1..1."""
        video = 2 * self.clips(index) - 1
        return video.contiguous(memory_format=torch.channels_last_3d)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step: linear warm-up, then half a cosine down to a hundredth."""
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
    folder: Path,
    minutes: float,
    device: torch.device | str = "cuda",
    settings: VAESettings | None = None,
    sources: Sources | None = None,
) -> dict[str, float]:
    """Train until the steps are done or the minutes over. Once they are done, export, and look at clips that training never sees.

    folder: goes on from a checkpoint there. minutes: of this call, kernels being compiled counted in, the export not.
    Returns the steps done, and what `evaluate` measures once all are.
    """
    settings, folder, sources = settings or VAESettings(), Path(folder), sources or Sources()
    folder.mkdir(parents=True, exist_ok=True)
    trainer = VAETrainer(settings, Clips(settings, device, sources.pictures), device, sources.vgg)
    if (folder / CHECKPOINT).exists():
        trainer.load(folder / CHECKPOINT)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        finished = run_until(trainer, "VAE", folder / CHECKPOINT, folder / LOG, minutes)
    if rank() or not finished:
        return {"steps": trainer.done}
    trainer.export(folder / EXPORT)
    result = {"steps": trainer.done, **evaluate_held_out(folder / EXPORT, settings, device, folder / SHEET)}
    log_line(folder / LOG, result)
    return result


def is_finished(folder: Path, settings: VAESettings) -> bool:
    """Whether the folder holds the export of a run that took all its steps."""
    return (folder / EXPORT).exists() and steps_done(folder / EXPORT) >= settings.steps


def steps_done(export: Path) -> int:
    """Steps for which an exported VAE was trained, before its decoder alone."""
    with safe_open(export, "pt") as file:
        return int((file.metadata() or {}).get("steps", 0))


def load_export(path: Path, device: torch.device | str) -> WanVAE:
    """The network of an exported file, for `encode` and `decode`, without gradients."""
    weights = load_file(path)
    network = new_network(weights["decoder.head.0.gamma"].shape[0])
    network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return channels_last(network.requires_grad_(False).to(device))


def evaluate_held_out(file: Path, settings, device, sheet: Path) -> dict[str, float]:
    """`evaluate` with clips that training never sees, of the settings' size."""
    clips = EditStream(0, 4, settings.frames, settings.size, settings.size, device, split="held-out")[0]
    return evaluate(file, both(clips), sheet)


@torch.no_grad()
def evaluate(file: Path, clips: torch.Tensor, sheet: Path | None = None) -> dict[str, float]:
    """PSNR in dB and statistics of the latents, all through core's own loader and code.

    clips: [B, 3, T, H, W] in 0..1. sheet: where to write an image, first, middle and last frames over their reconstructions.
    """
    vae = comfy.sd.VAE(sd=load_file(file))
    pixels = clips.movedim(1, -1).float().cpu()
    # One by one, because core crops the number of frames of a batch of videos to a multiple of 8.
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
