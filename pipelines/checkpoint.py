"""A LIVEditor checkpoint for diffusers: supported weights, the network's configuration, names of weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from ..checkpoint.keys import block_count, check_keys, official_names
from ..checkpoint.opening import Checkpoint, open_checkpoint
from ..checkpoint.scaled import Unscaled

HEAD_DIM = 128


def open_liveditor(path: str | Path) -> Checkpoint:
    """A checked checkpoint that diffusers can represent: fp8 weights with a scale are read as plain numbers.

    Raises CheckpointError, or OSError where there is none.
    """
    checkpoint = Unscaled(open_checkpoint(path))
    check_keys(checkpoint.shapes)
    return checkpoint


def configuration(checkpoint: Checkpoint) -> dict:
    """The transformer's configuration, derived from the weights' shapes."""
    dim = checkpoint.shapes["head.modulation"][-1]
    return {
        "num_attention_heads": dim // HEAD_DIM,
        "attention_head_dim": HEAD_DIM,
        "ffn_dim": checkpoint.shapes["blocks.0.ffn.0.weight"][0],
        "text_dim": checkpoint.shapes["text_embedding.0.weight"][1],
        "num_layers": block_count(checkpoint.shapes),
    }


def diffusers_names(model: Iterable[str] | torch.nn.Module) -> dict[str, str]:
    """{official name: name in the diffusers model}, of a model or of the names of its weights."""
    return official_names(model.state_dict() if isinstance(model, torch.nn.Module) else model)[0]
