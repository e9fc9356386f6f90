"""One call of a network of core's as its wrappers get it: by name, whatever the order of this network's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache

import torch

from ..isa_core import TokenLayout
from ..isa_core.exact_rows import rows_of
from ..isa_core.layout import EXACT, TARGET
from ..runtime.in_context import BLOCK
from ..runtime.kept_context import Refresh, Reuse
from .core_nodes import SPARSE, node_of


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

    _in_place_of(options, blocks, numbered)


def leave_blocks_their_attention(options: dict, blocks: list[tuple[str, int]]):
    """Take the attention back that core's *Model Sparse Attention* gives to a block of MiniMax H3 from the block's place, past any override."""

    def left(place: int, number: int, earlier):
        def block(args, extra):
            def original(given):
                own = node_of(given.get("attention")) != SPARSE
                return extra["original_block"]({name: each for name, each in given.items() if own or name != "attention"})

            return earlier(args, {**extra, "original_block": original}) if earlier else original(args)

        return block

    _in_place_of(options, blocks, left)


def run_blocks_without_context(options: dict, blocks: list[tuple[str, int]], layout: TokenLayout, of_block: Callable):
    """Give each block only its tokens that are no context's. Functions between the blocks, and other nodes' in a block's place, see all.

    layout: of all tokens; some blocks are given text apart. of_block: as in `hosts.keeping.Keeps`.
    """
    of_images = TokenLayout.of(*(segment for segment in layout.in_memory if segment.kind != EXACT))
    running = {each.total: sorted(each.spans(TARGET, EXACT)) for each in (of_images, layout)}

    def shortened(place: int, number: int, earlier):
        def block(args, extra):
            def original(given):
                """The network's block, which a function in its place calls with all tokens."""
                x = given["img"] if given["img"].ndim == 3 else given["img"][None]
                if x.shape[1] not in running:  # something added tokens: the attention refuses them
                    return extra["original_block"](given)
                spans, options = running[x.shape[1]], dict(given["transformer_options"])
                part = rows_of(x, spans).reshape(*given["img"].shape[:-2], -1, x.shape[2])
                # Other nodes' functions read here where the pictures lie behind the target.
                options["reference_image_num_tokens"] = []
                if "img_slice" in options and x.shape[1] == layout.total:
                    options["img_slice"] = [options["img_slice"][0], part.shape[-2]]
                own = {**given, "img": part, "transformer_options": options, **of_block(given, running[layout.total])}
                out = extra["original_block"](own)
                whole = x.clone()
                rows = out["img"].reshape(len(x), -1, x.shape[2])
                for (start, tokens), found in zip(spans, rows.split([tokens for _, tokens in spans], dim=1)):
                    whole[:, start : start + tokens] = found
                return {**out, "img": whole.reshape(given["img"].shape)}

            return earlier(args, {**extra, "original_block": original}) if earlier else original(args)

        return block

    _in_place_of(options, blocks, shortened)


def mark_when_running(options: dict, blocks: list[tuple[str, int]], contexts: Refresh | Reuse):
    """Set `contexts.ran` when the first block runs. Some networks write into copies of `transformer_options`, so that the caller cannot see
    there whether they ran."""

    def marking(place: int, number: int, earlier):
        def block(args, extra):
            contexts.ran = True
            return earlier(args, extra) if earlier else extra["original_block"](args)

        return block

    _in_place_of(options, blocks[:1], marking)


def _in_place_of(options: dict, blocks: list[tuple[str, int]], replaced):
    """By core's way of putting something in a block's place: `replaced(place among all, number, what was there)` for each."""
    replacements = options.get("patches_replace", {})
    earlier = replacements.get("dit", {})
    own = {(kind, number): replaced(place, number, earlier.get((kind, number))) for place, (kind, number) in enumerate(blocks)}
    options["patches_replace"] = {**replacements, "dit": {**earlier, **own}}
