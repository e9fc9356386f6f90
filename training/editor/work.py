"""How much a training step computes, and which share of the GPU's peak that is."""

from __future__ import annotations

import torch

from ...isa_core import TokenLayout, estimate_cost
from .settings import FULL, Stage

PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
"""Dense bf16 operations a second with fp32 sums, by a part of the GPU's name: NVIDIA's data sheets."""


def peak_of(device: torch.device) -> float | None:
    """None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def example_flops(config, target: int, context: int, text: int, trains: str, stage: Stage) -> float:
    """Floating-point operations of one example's forward and backward pass, two for each product; what checkpointing repeats does not count.

    config: of the network. target, context, text: tokens. Of layers that are frozen the backward pass has the inputs' gradients alone.
    """
    tokens, width = target + context, config.num_attention_heads * config.attention_head_dim
    passes = 3 if trains == FULL else 2
    # Of self-attention four projections, of cross-attention two over the video and two over the text, and the feed-forward.
    linear = tokens * (6 * width**2 + 2 * width * config.ffn_dim) + text * 2 * width**2
    share = 1.0
    if stage.sparse and context and tokens >= stage.min_tokens:
        share = estimate_cost(TokenLayout(target, (context,)), stage.sparse)[1]
    attention = 2 * width * (tokens**2 * share + tokens * text)
    return 2.0 * config.num_layers * (passes * linear + 3 * attention)
