"""What training reads of a pair: latents of its clips and its embedded text, as the pipeline encodes them."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from .vae import encode_video

STORED = torch.bfloat16
"""The type in which they are kept."""


def encoded_clip(pipe, frames: torch.Tensor | Iterable[torch.Tensor]) -> torch.Tensor:
    """frames: [F, H, W, 3] in 0..1, or chunks of them -> [16, T, h, w] on the CPU."""
    return encode_video(pipe.vae, frames)[0].to("cpu", STORED).contiguous()


@torch.no_grad()
def encoded_text(pipe, instruction: str) -> torch.Tensor:
    """[tokens, width] on the CPU, without the zeros behind the text's end; of an empty text what stands for it."""
    embedded = pipe.encode_prompt(instruction, do_classifier_free_guidance=False, device=pipe._execution_device)[0][0]
    used = embedded.ne(0).any(-1).nonzero()
    return embedded[: int(used.max()) + 1 if len(used) else 1].to("cpu", STORED).contiguous()
