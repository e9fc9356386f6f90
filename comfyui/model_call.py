"""One call of a network of core's as its wrappers get it: by name, whatever the order of this network's arguments."""

from __future__ import annotations

import inspect
from functools import lru_cache

import torch

from ..runtime.in_context import BLOCK


@torch.compiler.disable
@lru_cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(inspect.signature(kind._forward).parameters)[1:]


class Arguments:
    """Of one call. by_name: {"x", "context", "transformer_options", ...}, of which core calls `timesteps` what others call `timestep`."""

    def __init__(self, network, args: tuple, kwargs: dict):
        self._names = _names(type(network))[: len(args)]
        self.by_name = dict(zip(self._names, args)) | kwargs

    def passed(self, executor, **changed):
        """`executor` called as core calls it, with some arguments changed, or left out where they are None and were no positional ones."""
        given = self.by_name | changed
        left_out = {name for name, value in changed.items() if value is None}
        others = {name: value for name, value in given.items() if name not in self._names and name not in left_out}
        return executor(*(given[name] for name in self._names), **others)


def give_blocks_their_numbers(options: dict, blocks: list[tuple[str, int]]):
    """Put each block's number into the `transformer_options` that it gets, by core's way of putting something in a block's place.

    For networks that do not say it, or count two kinds of block each for itself. And for gradient checkpointing: core writes a
    number into one dict for all, where a block that runs again, in backward, would find the last one's.
    """

    def numbered(place: int, number: int, earlier):
        def block(args, extra):
            own = {**args["transformer_options"], "block_index": number, BLOCK: (place, len(blocks))}
            args = {**args, "transformer_options": own}
            return earlier(args, extra) if earlier else extra["original_block"](args)

        return block

    replacements = options.get("patches_replace", {})
    earlier = replacements.get("dit", {})
    own = {(kind, number): numbered(place, number, earlier.get((kind, number))) for place, (kind, number) in enumerate(blocks)}
    options["patches_replace"] = {**replacements, "dit": {**earlier, **own}}
