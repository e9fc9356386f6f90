"""The names under which networks describe an in-context self-attention to the hosts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..isa_core import TokenLayout

CONTEXT_LATENTS = "context_latents"
"""Core's conditioning key, and keyword of a network: the latents [B, C, T, h, w] of the video to edit and of every reference."""

CALL = "liveditor_isa.call"
"""Key in ComfyUI's `transformer_options`: the ModelCall of the whole model call."""

BLOCK = "liveditor_isa.block"
"""Key in `transformer_options`: (number of the transformer block, how many there are), for networks that core leaves without."""

IN_CONTEXT = "liveditor_isa.in_context"
"""Key in `transformer_options`: the InContextCall of the attention it was passed to."""


@dataclass
class InContextCall:
    """One self-attention over target and context tokens. Valid for that attention only.

    layout: token groups of q, k and v.
    coarse_gate: [B, S, 1, 1] factor of LIVEditor's coarse residual, None for a model without one.
    residual_added: set by an override that already added the residual, which its routing computes anyway.
    """

    layout: TokenLayout
    coarse_gate: torch.Tensor | None = None
    residual_added: bool = False


class InContextNetwork:
    """Marks a network whose self-attention publishes its InContextCall itself."""
