"""Qwen-Image-Edit: [text | target | reference images]. Text stays exact."""

from __future__ import annotations

from .flux import layout, parts

__all__ = ["blocks", "layout", "parts"]


def blocks(network) -> list[tuple[str, int]]:
    return [("double_block", number) for number in range(len(network.transformer_blocks))]
