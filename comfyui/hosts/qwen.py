"""Qwen-Image-Edit: [text | target | reference images]. Text stays exact."""

from __future__ import annotations

from . import flux
from .flux import layout, parts

__all__ = ["KEEPS", "blocks", "layout", "parts"]

KEEPS = flux.KEEPS._replace(
    width=lambda network: (network.inner_dim, network.inner_dim // network.transformer_blocks[0].num_attention_heads)
)


def blocks(network) -> list[tuple[str, int]]:
    return [("double_block", number) for number in range(len(network.transformer_blocks))]
