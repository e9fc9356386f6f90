"""Trains the VAE's decoder further, alone: better pictures of the same latents, so that an editor trained on them stays valid."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from comfy.latent_formats import Wan21
from safetensors import safe_open
from safetensors.torch import save_file

from ..graph import Pass
from ..processes import own_seed, rank, wait
from ..run import descend, half_cosine, log_line, replace_file, run_until
from . import vae
from .clips import Clips, Sources
from .losses import PictureLoss, frames_for
from .vae_network import decode, encode, latent_shape

CHECKPOINT, LOG, STEPS = "decoder_checkpoint.pt", "decoder_log.jsonl", "decoder_steps"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecoderSettings:
    """Settings of the training."""

    steps: int = 13_400
    clips: int = 8
    """A step, of each process."""
    frames: int = 17
    size: int = 128
    """Height and width in pixels."""
    learning_rate: float = 4e-4
    warm_up: int = 300
    perceptual: float = 0.5
    """Weight of `perceptual.py`'s distance, where there are weights for it."""
    noise: float = 0.04
    """Standard deviation of noise added to the normalised latents, so that similar latents decode alike. Less than the
    VAE's training has, so that the decoder keeps fine texture."""
    ema: float = 0.9995
    seed: int = 1
    """Differs from the VAE's seed, for other clips."""


class DecoderTrainer:
    """A training run of an exported VAE's decoder: `step` it, `save` it, `load` it into a new one, and that goes on alike.

    clips: step -> [B, 3, T, H, W] in 0..1 on the device.
    """

    def __init__(
        self,
        settings: DecoderSettings,
        export: Path,
        clips: Callable[[int], torch.Tensor],
        device: torch.device | str,
        vgg: Path | None = None,
    ):
        """vgg: weights for `Perceptual`."""
        self.settings, self.clips, self.device = settings, clips, torch.device(device)
        self.network = vae.load_export(export, device)
        # In core's network the middle and the upward half, and the convolution that leads there.
        self.weights = [*self.network.decoder.parameters(), *self.network.conv2.parameters()]
        for weight in self.weights:
            weight.requires_grad_(True)
        self.averaged = [weight.detach().clone() for weight in self.weights]
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=self.device.type == "cuda"
        )
        self.picture_loss = PictureLoss(settings.perceptual, vgg, self.device)
        self.gradients = Pass(self.loss, self.weights)
        self.deviation = Wan21().latents_std[0].to(self.device)
        """Standard deviation of each latent channel, [16, 1, 1, 1], the unit of the noise."""
        self.done = self.started = steps_done(export)
        """Steps so far, and the step at which the optimiser began."""
        self.vae_steps = vae.steps_done(export)

    def step(self) -> dict[str, torch.Tensor]:
        """One step; loss and PSNR of its batch, still on the device."""
        video = 2 * self.clips(self.done) - 1
        video = video.contiguous(memory_format=torch.channels_last_3d)
        generator = torch.Generator(self.device).manual_seed(own_seed(self.settings.seed) + 1_000_003 * self.done)
        noise = torch.randn(latent_shape(video), device=self.device, generator=generator)
        loss, quality = self.gradients(video.shape, video, noise, frames_for(self.done, video.shape[2], self.device))
        descend(self, self.done + 1 - self.started)
        return {"loss": loss, "psnr": quality}

    def loss(self, video: torch.Tensor, noise: torch.Tensor, looked_at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, PSNR) of a batch, with `noise` added to its latents. looked_at: of `frames_for`."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            with torch.no_grad():
                latents = encode(self.network, video).float()
            output = decode(self.network, latents + self.settings.noise * self.deviation * noise)
            loss = self.picture_loss(output, video, looked_at)
        return loss, vae.psnr(output.detach(), video)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step: linear warm-up, then half a cosine down to a hundredth."""
        settings = self.settings
        warm = min(1.0, (self.done - self.started + 1) / settings.warm_up)
        return warm * half_cosine(settings.learning_rate, 0.01 * settings.learning_rate, self.done / settings.steps)

    def save(self, path: Path):
        state = {
            "vae_steps": self.vae_steps,
            "done": self.done,
            "started": self.started,
            "weights": [weight.detach() for weight in self.weights],
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
        }
        replace_file(path, lambda partial: torch.save(state, partial))

    @torch.no_grad()
    def load(self, path: Path):
        """Ignores, with a log line, a checkpoint trained on a VAE of another step, because its decoder knows other latents."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state.get("vae_steps") != self.vae_steps:
            log.warning("%s is of another VAE than this one of %d steps: the decoder starts anew.", path, self.vae_steps)
            return
        for weight, saved in zip(self.weights, state["weights"]):
            weight.copy_(saved)
        self.averaged = state["averaged"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.done, self.started = state["done"], state["started"]

    @torch.no_grad()
    def export(self, path: Path):
        """Write the whole VAE again, with the averaged decoder, in fp16."""
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        averaged = dict(zip(map(id, self.weights), self.averaged))
        tensors = {
            name: averaged.get(id(weight), weight).half().cpu().contiguous() for name, weight in self.network.named_parameters()
        }
        replace_file(path, lambda partial: save_file(tensors, partial, metadata | {STEPS: str(self.done)}))


def steps_done(export: Path) -> int:
    """Steps for which an exported VAE's decoder was trained alone."""
    with safe_open(export, "pt") as file:
        return int(file.metadata().get(STEPS, 0))


def train_decoder(
    folder: Path, minutes: float, device: torch.device | str, settings: DecoderSettings, sources: Sources = Sources()
):
    """Train until the steps are done or the minutes over. Once they are done, export, and look at clips that training never sees.

    folder: holds the export of a finished VAE; goes on from a checkpoint there.
    """
    export = folder / vae.EXPORT
    trainer = DecoderTrainer(settings, export, Clips(settings, device, sources.pictures), device, sources.vgg)
    if (folder / CHECKPOINT).exists():
        trainer.load(folder / CHECKPOINT)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        finished = run_until(trainer, "decoder", folder / CHECKPOINT, folder / LOG, minutes)
    # All processes have read the file before it is replaced.
    wait()
    if rank() or not finished:
        return
    trainer.export(export)
    log_line(folder / LOG, {"steps": trainer.done, **vae.evaluate_held_out(export, settings, device, folder / vae.SHEET)})
