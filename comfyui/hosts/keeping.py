"""How a network's context is found and measured, and left out of a call, where its keys and values are kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch

from ...isa_core.exact_rows import rows_of

Spans = Sequence[tuple[int, int]]


def positions_of(args: dict, spans: Spans) -> dict:
    """Where positions are `pe`, [1 or B, S, ...] or [1 or B, 1, S, ...]."""
    pe = args["pe"]
    return {"pe": rows_of(pe[:, 0], spans)[:, None] if pe.shape[1] == 1 else rows_of(pe, spans)}


class Keeps(NamedTuple):
    """
    of_call, of_condition: the latents of the contexts, from a call's arguments by name, and from a conditioning.
    patch: network -> frames, rows and columns of a latent that are one token.
    placed_by: a call's arguments by name -> what the contexts' positions depend on beside the shapes of the latents.
    width: network -> (numbers of a token's key in one block, in one head).
    left_out: the argument without which the network runs the other tokens alone; None where each block has to be given these.
    of_block: (a block's arguments, the (first, count) of the tokens that run) -> those arguments changed that are of single tokens, but `img`.
    """

    of_call: Callable[[dict], list[torch.Tensor]]
    of_condition: Callable[[dict], list[torch.Tensor]]
    patch: Callable[[torch.nn.Module], tuple[int, ...]]
    width: Callable[[torch.nn.Module], tuple[int, int]]
    placed_by: Callable[[dict], Hashable] = lambda inputs: None
    left_out: str | None = None
    of_block: Callable[[dict, Spans], dict] = positions_of
