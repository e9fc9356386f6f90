"""Decides when a self-attention stays full, with a sentence for the user. All hosts use it; no other module decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..isa_core import TokenLayout
from .live import Settings
from .schedule import Schedule

if TYPE_CHECKING:
    from .finite import FiniteGuard

OUTSIDE_SCHEDULE = "outside start_percent to end_percent"
SWITCHED_OFF = "switched off"
MASKED = "it has a mask, which ISA does not know"
NOT_PLAIN = (
    "it is causal, with keys for groups of heads, scaled by a factor of its own or with dropout, which ISA does not know"
)
NO_NOISE_LEVEL = "the model was called without its noise level, so start_percent and end_percent cannot be told"

FROM_NODES = "connect In-Context References to the sampler"
FROM_ARGUMENTS = "give the call the video or the images to edit"


def no_context(cure: str = FROM_NODES) -> str:
    """cure: where the host's users give context."""
    return f"no context tokens: {cure}"


def text_as_long(tokens: int) -> str:
    return (
        f"the text has {tokens} tokens, as many as target and context have, so self-attention cannot be told from "
        "cross-attention: choose another size or number of frames"
    )


def text_as_long_as_target(tokens: int) -> str:
    return (
        f"the text has {tokens} tokens, as many as the target, so without its context self-attention cannot be told from "
        "cross-attention: choose another size or number of frames"
    )


GUIDES_MASKED = (
    "its guides have a strength other than 1 or a mask, for which the model masks its attention, which ISA does not know: set "
    "the strength to 1 and remove the mask"
)


def unknown_form(model: str) -> str:
    """model: the network's class, whose arguments are not as ISA knows them."""
    return f"this ComfyUI calls {model} in a way that ISA does not know: update LIVEditor · ISA"


def other_as_long(tokens: int) -> str:
    return (
        f"text or sound have {tokens} tokens, as many as target and context, so the video's self-attention cannot be told from "
        "theirs: choose another size or number of frames"
    )


HOOKED_WEIGHTS = "a hook changes the model's weights, and with them what the context becomes: load LoRAs without hooks"

CONTROLLED = "a ControlNet acts, which may begin and end at any step, so all tokens must run"

GRADIENTS = "gradients are recorded, for which all tokens must run"

PARTS_LEFT_OUT = (
    "another node's patch answered for some transformer blocks or their attention, so the context cannot be kept: remove it, "
    "or set context_refresh to 0"
)

NO_ROOM = (
    "neither the GPU nor main memory would have 15 % free beside it: keep it in 8 bits (context_dtype int8) or in one copy "
    "for all passes (context_copies one), edit fewer frames or a smaller size, or set context_refresh to 0"
)

NO_REUSE = "ISA cannot keep the context of this model yet: context_refresh has no part in it"

NO_RUN = "nobody said where the sampling run begins and ends: call the pipeline within `with sampling_run():`"

HOOKED_TRANSFORMER = (
    "a hook of diffusers changes what the transformer computes, such as a cache of steps or a guidance that skips layers"
)

CHANGING_PASSES = "the text or the pictures change from step to step, and what the context becomes with them"

CHANGING_PATCHES = "another node patches the model anew at every step, so its context cannot be kept: remove that node, or set context_refresh to 0"

PARTS_NOT_SEEN = "some of the transformer's attentions are masked or were replaced: set context_refresh to 0"

UNKNOWN_CONTEXT = "it is not known which arguments bring the context of this transformer, or of a call with control"

SPLIT_BY_DIFFUSERS = "diffusers splits text and pictures over the GPUs, each for itself"

NOT_UNDERSTOOD = "ISA does not act, so target and context cannot be told apart"


def added_frames(name: str) -> str:
    """name: of the network's argument that brings them."""
    return f"{name} adds frames to the target, which ISA does not know: remove the node that adds them"


REFERENCE_LATENT = (
    "this model was given a ReferenceLatent, which is no context for ISA: remove it, and connect In-Context References instead"
)


def other_tokens(found: int, layout: TokenLayout) -> str:
    """found: tokens of a self-attention that is not over the layout's."""
    return f"its {found} tokens are not the {layout.total} of the layout ({layout})"


def taken_over(by: str) -> str:
    """by: what stands in ISA's place."""
    return f"{by} took the attention and passed none on: place Attach ISA after other nodes that replace the attention"


def set_aside(node: str, calls: int) -> str:
    """node: another one that makes attention sparse. calls: of the model, in which it had no part."""
    return (
        f"{node}, which is on this model too, had no part in {calls} model calls, in which ISA acts; in others it does, by its own "
        "settings: remove it to have full attention there"
    )


WITHOUT_WRAPPERS = (
    "the model was called without the wrappers of Attach ISA, by a guider with two models say, so target and context could "
    "not be told apart"
)

ALL_SKIPPED = "the model was not called in any step: a node that reuses earlier steps, a cache say, answered for it"

NO_STEPS = "the sampler had no step to do: look at its steps, start_at_step and end_at_step"


@dataclass(frozen=True)
class Decisions:
    """The decision for all attentions of one model call.

    whole: why all of the call stays full, None where each attention is looked at.
    backend: as `in_context_sparse_attention` takes it.
    guard: of the sampling run, which keeps blocks dense that were not finite. at: the evaluation's number, from 0.
    careful: whether every sparse attention is to be looked at, because the call was not finite before.
    """

    settings: Settings
    schedule: Schedule = Schedule()
    whole: str | None = None
    backend: str = "auto"
    guard: FiniteGuard | None = field(default=None, compare=False)
    at: int = 0
    careful: bool = False

    def reason_for_full(self, layout: TokenLayout, block: int, of_blocks: int, cure: str = FROM_NODES) -> str | None:
        """Why the self-attention of transformer block `block` stays full; None where ISA acts."""
        if not layout.context:
            return no_context(cure)
        if reason := self.reason_for_call():
            return reason
        if layout.total < self.schedule.min_tokens:
            return f"{layout.total} tokens are fewer than min_tokens {self.schedule.min_tokens}"
        if self.schedule.is_dense_block(block, of_blocks):
            return f"dense_blocks {self.schedule.dense_blocks}"
        return self.guard.reason(block) if self.guard else None

    def reason_for_call(self) -> str | None:
        """Why all self-attentions of the call stay full, whatever their layout; None where each is looked at."""
        return self.whole if self.settings.enabled else SWITCHED_OFF
