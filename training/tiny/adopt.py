"""An editor goes on with another VAE: what reads and writes latents is turned to the new ones, by least squares on clips that both VAEs encode.

What words mean and where to look is learnt already; from nothing it takes most of the training.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from ...comfyui.network import LIVEditorModel
from .latents import encode_clips

SIDE = 2
"""Latents to a token, in height and in width."""


@torch.no_grad()
def adopt(network: LIVEditorModel, old, new, clips: Iterable[torch.Tensor]) -> None:
    """Change a network that knows the latents of the VAE `old` into one for those of `new`.

    clips: batches [B, 3, 4n+1, H, W] in 0..1, H and W multiples of 16.
    """
    to_old, to_new = _fitted([[patches(encode_clips(vae, batch)) for vae in (new, old)] for batch in clips])
    for embedding in (network.patch_embedding, network.source_video_embedding_more_memory):
        weight = embedding.weight.flatten(1)
        embedding.bias += weight @ to_old[-1]
        embedding.weight.copy_((weight @ to_old[:-1].T).view_as(embedding.weight))
    head = network.head.head
    # Of what the network predicts, noise less the clip, the shift has the clip's sign.
    weight, bias = to_new[:-1].T @ _as_patches(head.weight), to_new[:-1].T @ _as_patches(head.bias) - to_new[-1]
    head.weight.copy_(_as_head(weight))
    head.bias.copy_(_as_head(bias))


def patches(latents: torch.Tensor) -> torch.Tensor:
    """[B, C, T, h, w] -> [tokens, 4 C] fp64, in the order of the patch embedding's weights: channel, row, column."""
    frames = latents.transpose(1, 2).flatten(0, 1).double()
    return F.pixel_unshuffle(frames, SIDE).flatten(2).transpose(1, 2).flatten(0, 1)


def _fitted(pairs: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """Of batches of (new, old) patches: [4 C + 1, 4 C] from the new to the old, and back; the last row is the shift."""
    whole = [torch.cat(side) for side in zip(*pairs)]
    extended = [torch.cat([side, side.new_ones(len(side), 1)], dim=1) for side in whole]
    found = zip(extended, reversed(whole))
    return [torch.linalg.lstsq(given.T @ given, given.T @ wanted).solution.float() for given, wanted in found]


def _as_patches(rows: torch.Tensor) -> torch.Tensor:
    """The head's rows, which are in the order row, column, channel, in that of `patches`."""
    return rows.unflatten(0, (SIDE, SIDE, -1)).movedim(2, 0).flatten(0, 2)


def _as_head(rows: torch.Tensor) -> torch.Tensor:
    """The inverse."""
    return rows.unflatten(0, (-1, SIDE, SIDE)).movedim(0, 2).flatten(0, 2)
