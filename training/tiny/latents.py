"""Edits in the form of the editor's inputs: latents of both clips, the edited region and the instruction's tokens, kept on the GPU.

Drawing and encoding a clip takes longer than a training step of it, so each one is used several times, with other noise.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from comfy.latent_formats import Wan21

from ...data.procedural.stream import EditBatch, EditStream
from ...data.procedural.tensors import upload
from .text import LENGTH, Tokenizer
from .vae_network import encode

CHUNK = 32
"""Number of clips that the VAE encodes at a time."""


class LatentBatch(NamedTuple):
    """source, target [B, 16, n+1, h, w] as the editor takes them; region [B, 1, n+1, h, w] in 0..1; tokens [B, L]."""

    source: torch.Tensor
    target: torch.Tensor
    region: torch.Tensor
    tokens: torch.Tensor


class LatentPool:
    """A ring of encoded batches of one size, from which smaller batches are drawn at random.

    Deterministic: what `draw(step)` gives depends on the step alone, so a resumed run goes on with the same numbers. Steps
    must ascend; the first call, wherever it starts, fills the ring.
    """

    def __init__(self, network, stream: EditStream, tokenizer: Tokenizer, edits: int, batches: int = 24, every: int = 150):
        """network: the VAE; edits: how many to draw; batches: how many the ring holds; every: steps in which one is replaced."""
        self.network, self.stream, self.tokenizer = network, stream, tokenizer
        self.edits, self.batches, self.every = edits, batches, every
        self.ring: LatentBatch | None = None
        self.next = 0
        """Number of the next batch to encode."""

    def draw(self, step: int) -> LatentBatch:
        wanted = self.batches + step // self.every
        if self.ring is None:
            self.next = wanted - self.batches
        while self.next < wanted:
            self._put(encode_edits(self.network, self.tokenizer, self.stream[self.next]))
        generator = torch.Generator().manual_seed(self.stream.seed + 7919 * step)
        chosen = torch.randint(self.batches * self.stream.batch, (self.edits,), generator=generator)
        return LatentBatch(*(field[upload(chosen, field.device)] for field in self.ring))

    def _put(self, batch: LatentBatch):
        if self.ring is None:
            self.ring = LatentBatch(*(field.repeat(self.batches, *[1] * (field.ndim - 1)) for field in batch))
        slot = self.next % self.batches * self.stream.batch
        for held, field in zip(self.ring, batch):
            held[slot : slot + len(field)] = field
        self.next += 1


@torch.no_grad()
def encode_edits(network, tokenizer: Tokenizer, batch: EditBatch) -> LatentBatch:
    """network: a VAE as it was exported. Instructions longer than LENGTH tokens are cut; the stream has none."""
    clips = encode_clips(network, torch.cat([batch.source, batch.target]))
    frames, height, width = clips.shape[2:]
    # The first frame has a latent of its own, every later one stands for four frames.
    region = F.pad(batch.region.float(), (0, 0, 0, 0, 3, 0), mode="replicate")
    region = F.adaptive_max_pool3d(region, (frames, height, width))
    tokens = upload(tokenizer(batch.instructions)[:, :LENGTH], clips.device)
    return LatentBatch(*clips.chunk(2), region.to(clips.dtype), tokens)


@torch.no_grad()
def encode_clips(network, clips: torch.Tensor) -> torch.Tensor:
    """[B, 3, 4n+1, H, W] in 0..1 -> latents [B, 16, n+1, H/8, W/8] as the editor takes them, bf16 on a GPU."""
    with eager_half(clips.device):
        parts = [
            encode(network, (2 * part - 1).contiguous(memory_format=torch.channels_last_3d)) for part in clips.split(CHUNK)
        ]
    latents = Wan21().process_in(torch.cat(parts).float())
    return latents.bfloat16() if clips.is_cuda else latents


@contextmanager
def eager_half(device: torch.device):
    """For calls of the VAE at many sizes: bf16 on a GPU, without compilation, which would be repeated for every size."""
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"), torch.compiler.set_stance("force_eager"):
        yield
