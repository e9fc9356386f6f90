"""The editor's two exported files, which *Load LIVEditor* takes, opened again."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ...checkpoint.opening import open_checkpoint
from ...checkpoint.scaled import Unscaled
from .text import saved_vocabulary, without_vocabulary

EDITOR, ENCODER = "liveditor_tiny.safetensors", "umt5_tiny.safetensors"
"""Their names in a run's folder."""


class Export(NamedTuple):
    """network, encoder: {name: weight}, as they are stored, but fp32 of scaled fp8. vocabulary: a sentencepiece model.

    steps: that the network was trained for. dim, ffn_dim, blocks: its size.
    """

    network: dict[str, torch.Tensor]
    encoder: dict[str, torch.Tensor]
    vocabulary: bytes
    steps: int
    dim: int
    ffn_dim: int
    blocks: int


def open_export(editor: Path, encoder: Path) -> Export:
    """Raises OSError where a file is missing, SafetensorError or KeyError for one that no run exported."""
    with safe_open(editor, "pt") as file:
        steps = int((file.metadata() or {}).get("steps", 0))
    weights, words = Unscaled(open_checkpoint(editor)).tensors(), load_file(encoder)
    ffn_dim, dim = weights["blocks.0.ffn.0.weight"].shape
    blocks = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    return Export(weights, without_vocabulary(words), saved_vocabulary(words), steps, dim, ffn_dim, blocks)
