"""Which context a model call of ComfyUI may reuse: `runtime.context_reuse` by core's names."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import zip_longest
from types import MethodType

import torch

from ..isa_core import TokenLayout
from ..runtime import decisions
from ..runtime.context_reuse import Passes, digest, number_among
from ..runtime.finite import tensors_of
from ..runtime.in_context import InContextNetwork
from ..runtime.kept_context import ONE, Reuse
from .hosts.keeping import Keeps
from .sampling_run import SamplingRun

ADDED = ("ref_mask_latents", "sam_latents")
"""Tensors that SCAIL-2 adds to its contexts' tokens, by core's names."""

ALSO_GIVEN = ("clip_fea", "y", "guidance", *ADDED)
"""Tensors beside text and contexts by which passes may differ."""

POSITIVE = 0
"""In core's `cond_or_uncond`."""

MOST_PATCHES = 4
"""How many different sets of other nodes' patches may keep contexts in one run. A node that makes new functions at every step has more."""

PLAIN = (str, bytes, bool, int, float, type(None), MethodType)
"""Types of values that may be compared without an error, and that some make anew for the same thing."""


def sequence_of(
    run: SamplingRun, network, layout: TokenLayout | None, inputs: dict, keeps: Keeps
) -> tuple[Hashable, Passes] | str:
    """What identifies the sequence of a model call within its run, and its passes of guidance: two calls may share a context
    where both are equal, or the first alone if one copy serves all passes. A sentence where the context must be computed.

    layout: of all tokens, None for a network that publishes its own. inputs: the call's arguments by core's names.
    """
    latents = keeps.of_call(inputs)
    (x, *others), text, options = tensors_of(inputs["x"]), inputs["context"], inputs["transformer_options"]
    if "sigmas" not in options:
        return decisions.NO_NOISE_LEVEL
    if torch.is_grad_enabled():
        return decisions.GRADIENTS
    if not isinstance(network, InContextNetwork):
        if layout is None:
            return decisions.NOT_UNDERSTOOD
        if not layout.exact and layout.target == text.shape[1]:  # where the text is no part of the sequence
            return decisions.text_as_long_as_target(layout.target)
    if inputs.get("control") is not None:  # which may begin and end at any step
        return decisions.CONTROLLED
    # Their strength may change with the step, and with it the weights.
    if getattr(run.guider.model_patcher, "current_hooks", None):
        return decisions.HOOKED_WEIGHTS
    kinds, window = tuple(options.get("cond_or_uncond", ())), options.get("context_window")
    # Guidance may run another pass with a condition's name, but another text, context or network.
    given = [each for each in (text, *latents, *map(inputs.get, ALSO_GIVEN)) if each is not None]
    patches = number_among(run.patches_seen, _patches(options), MOST_PATCHES)
    if patches is None:
        return decisions.CHANGING_PATCHES
    content = digest(given), patches
    names = tuple((*name, content) for name in zip_longest(kinds, options.get("uuids", ()))) or ((content,),)
    passes = Passes(names, kinds.index(POSITIVE) if POSITIVE in kinds else None if kinds else 0)
    shapes = (len(x) // len(names), *(tuple(each.shape[1:]) for each in (x, *others, *latents)))
    sequence = (id(network), x.device, shapes, keeps.placed_by(inputs), tuple(getattr(window, "index_list", ())))
    if run.owner.keeping.copies == ONE:
        masks = [each for name in ADDED if (each := inputs.get(name)) is not None]
        context = _fingerprint([*latents, *masks], len(x), len(names))
        # Passes with contexts of their own keep them, as one.
        return ((*sequence, names), Passes()) if context is None else ((*sequence, context), passes)
    return sequence, passes


class _Same:
    """A value that equals itself, and another one only if both are plain. Most other types cannot be asked: tensors raise."""

    __hash__ = None

    def __init__(self, value):
        self.value = value

    def __eq__(self, other) -> bool:
        if not isinstance(other, _Same):
            return NotImplemented
        one, another = self.value, other.value
        return one is another or (type(one) is type(another) and isinstance(one, PLAIN) and one == another)


def _patches(options: dict) -> list[tuple]:
    """Functions of others that act within the network, as core holds them, and their places: to be compared."""
    found: list[tuple] = []

    def collect(value, place: tuple):
        if isinstance(value, dict):
            for name, each in value.items():
                collect(each, (*place, name))
        elif isinstance(value, (list, tuple)):
            for number, each in enumerate(value):
                collect(each, (*place, number))
        else:
            found.append((place, _Same(value)))

    collect([options.get(name, {}) for name in ("patches", "patches_replace")], ())
    return found


def _fingerprint(latents: Sequence[torch.Tensor], batch: int, passes: int) -> int | None:
    """Of the context that all passes of a call have; None where they have different ones. latents: [batch or 1, C, T, h, w] each."""
    parts = [latent.chunk(passes) if len(latent) == batch else [latent] * passes for latent in latents]
    found = {digest(of_pass) for of_pass in zip(*parts)}
    return found.pop() if len(found) == 1 else None


def with_context_reuse(run: SamplingRun, sequence: Hashable, passes: Passes, sigmas: torch.Tensor, call) -> torch.Tensor:
    """`call(contexts)`, the result of a model call: with a kept context where it is recent enough, else with one to keep.

    Where a patch goes past the attention or the blocks, nothing can be kept or a reuse is wrong: such passes, as of a guidance that
    skips layers, are computed whole for the rest of the run. So are all passes where memory has no room. Where a cache of steps answers, nothing is kept, and nothing is wrong.
    """
    level, change = float(sigmas.max()), run.settings.context_refresh
    if reason := run.contexts.why_left_out(sequence, passes):
        run.recomputed(reason)
        run.contexts.free_due(level, change)
        return call(None)
    contexts = run.contexts.begin(sequence, level, change, run.owner.keeping, passes=passes)
    out, reused = call(contexts), isinstance(contexts, Reuse)
    if contexts.skipped:
        return out
    if run.contexts.end(contexts):
        run.context_call(reused)
        return out
    no_room = None if isinstance(contexts, Reuse) else contexts.refused
    reason = no_room or contexts.passed_by or decisions.PARTS_LEFT_OUT
    if no_room:
        run.contexts.give_up(reason)
    else:
        run.contexts.leave_out(sequence, passes, reason)
    run.recomputed(reason)
    return call(None) if reused else out
