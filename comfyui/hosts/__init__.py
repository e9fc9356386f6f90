"""In-context networks of ComfyUI's own, one file each: how this model's tokens lie, read off the call that runs.

Networks are told by the name of their class, so that a core without one, or with it elsewhere, is no error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from ...isa_core import TokenLayout
from ...runtime import decisions
from ...runtime.in_context import InContextNetwork
from . import bernini, flux, ltx, minimax, qwen, scail
from .keeping import Keeps
from .parts import Part

logger = logging.getLogger(__name__)

Key = tuple[str, int]


class Host(NamedTuple):
    """How ISA sees one kind of network.

    layout: (network, the call's arguments by name) -> the layout of its self-attention, or a sentence why ISA cannot act.
    parts: (core's model, a conditioning, shapes of the latents that are sampled) -> the targets and contexts in the order of their
        blocks, for heat maps; [] where there is no picture of them.
    blocks: the network's transformer blocks by core's names, in order.
    numbered: whether core tells its attention which block it is.
    keeps: how its context is kept; None where it cannot be yet.
    """

    layout: Callable[[torch.nn.Module, dict], TokenLayout | str]
    parts: Callable[[object, dict, Sequence], list[Part]]
    blocks: Callable[[torch.nn.Module], list[Key]]
    numbered: bool = True
    keeps: Keeps | None = None


def _double(network) -> list[Key]:
    return [("double_block", number) for number in range(len(network.blocks))]


BERNINI = Host(bernini.layout, bernini.parts, _double, keeps=bernini.KEEPS)

HOSTS = {
    "comfy.ldm.wan.model.SCAIL2WanModel": Host(scail.layout, scail.parts, _double, keeps=scail.KEEPS),
    "comfy.ldm.wan.model.SCAILWanModel": Host(scail.layout, scail.parts, _double, keeps=scail.KEEPS),
    "comfy.ldm.minimax.model.MiniMaxH3Model": Host(minimax.layout, minimax.parts, _double, numbered=False, keeps=minimax.KEEPS),
    "comfy.ldm.lightricks.model.LTXVModel": Host(ltx.layout, ltx.parts, ltx.blocks, numbered=False),
    "comfy.ldm.lightricks.av_model.LTXAVModel": Host(ltx.layout, ltx.parts, ltx.blocks, numbered=False),
    "comfy.ldm.flux.model.Flux": Host(flux.layout, flux.parts, flux.blocks, numbered=False, keeps=flux.KEEPS),
    "comfy.ldm.qwen_image.model.QwenImageTransformer2DModel": Host(qwen.layout, qwen.parts, qwen.blocks, keeps=qwen.KEEPS),
}
"""By the network's class."""


def host_of(network) -> Host | None:
    """None for a network without in-context attention that ISA knows, and for one that publishes its layout itself."""
    if isinstance(network, InContextNetwork):
        return None
    kind = type(network)
    return BERNINI if bernini.serves(network) else HOSTS.get(f"{kind.__module__}.{kind.__qualname__}")


@torch.compiler.disable
def layout_of(host: Host, network, arguments: dict) -> TokenLayout | str:
    """Of the self-attention of a call with these arguments, or a sentence why ISA cannot act."""
    otherwise = decisions.unknown_form(type(network).__name__)
    return _read("a call", network, otherwise, host.layout, network, arguments)


def parts_of(host: Host, base, cond: dict, shapes: Sequence) -> list[Part]:
    """`Host.parts`; [] where the conditioning is of a form that ISA does not know."""
    return _read("a conditioning", base.diffusion_model, [], host.parts, base, cond, shapes)


def contexts_of(keeps: Keeps, network, cond: dict) -> Sequence[torch.Tensor]:
    """`Keeps.of_condition`, likewise."""
    return _read("a conditioning", network, [], keeps.of_condition, cond)


def _read(what: str, network, otherwise, reader: Callable, *given):
    """What the reader returns; `otherwise` where a newer core gives it something in another form, which is logged once."""
    try:
        return reader(*given)
    except (LookupError, AttributeError, TypeError, ValueError):
        _tell(what, type(network).__name__)
        return otherwise


@lru_cache
def _tell(what: str, model: str):
    logger.warning("ISA cannot read %s of %s", what, model, exc_info=True)


def is_in_context(network) -> bool:
    """Whether ISA can act in the network."""
    return isinstance(network, InContextNetwork) or host_of(network) is not None


def keeps_of(network) -> Keeps | None:
    """How the network's context is kept; None where it cannot be."""
    host = host_of(network)
    if host is not None:
        return host.keeps
    return bernini.KEEPS if isinstance(network, InContextNetwork) else None


def number_of_blocks(network) -> int:
    host = host_of(network)
    return len(host.blocks(network) if host else network.blocks)
