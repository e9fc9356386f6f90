"""How a network's context is found, measured and left out of a call, where its keys and values are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ...isa_core import TokenLayout


class Keeps(NamedTuple):
    """
    inputs, condition: the keyword of a call, and the key of a conditioning, that hold the latents of the contexts.
    patch: network -> frames, rows and columns of a latent that are one token.
    width: network -> (numbers of a token's key in one block, in one head).
    left_out: (the call's own `transformer_options`, layout of all tokens) -> changed keywords by which the network runs without the contexts.
    """

    inputs: str
    condition: str
    patch: Callable[[torch.nn.Module], tuple[int, ...]]
    width: Callable[[torch.nn.Module], tuple[int, int]]
    left_out: Callable[[dict, TokenLayout | None], dict]
