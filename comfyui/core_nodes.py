"""Core's own nodes for attention beside ISA: *Model Sparse Attention* (ComfyUI 0.35 and later) and *Model Attention Backend* (0.33).

Both hold core's one place for an attention override. The first puts itself back in front at every step, and calls what it
found for what it leaves; the second calls nobody. So it does not help to be attached after them. Instead, ISA's override is
put in front in each model call, and told here what lies beneath it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

from ..runtime.core_attention import OVERRIDE

BENEATH = "liveditor_isa.beneath"
"""Key in `transformer_options`: the override that has what ISA leaves, in place of the one before ISA's own."""

SPARSE, BACKEND = "Model Sparse Attention", "Model Attention Backend"
"""Names of the nodes, as their users know them."""

_MODULES = {("comfy_extras", "nodes_sparse_attention"): SPARSE, ("comfy", "model_patcher"): BACKEND}
"""By modules of core whose functions are overrides. A server loads those of `comfy_extras` under the names of their files, with folders."""


def node_of(override) -> str | None:
    """The node of core's that an override is of, None for any other."""
    return _MODULES.get(tuple(re.split(r"[./\\]", getattr(override, "__module__", None) or "")[-2:]))


def without_sparse(override):
    """What would attend if core's sparse attention were not in front of it: the override beneath, None for core's own attention.

    The override itself where it does not say what is beneath it.
    """
    while node_of(override) == SPARSE:
        try:
            override = inspect.getclosurevars(override).nonlocals["previous"]
        except (LookupError, TypeError):
            break
    return override


def in_front(options: dict, own, acts: Callable[[], object], set_aside: Callable[[str], None] | None = None) -> dict:
    """`transformer_options` with `own`, ISA's override, in front of core's two nodes.

    acts: whether ISA acts in this model call. If so, core's sparse attention has no part in it, and `set_aside` is told its
    name: what ISA computes exactly or leaves full is not made sparse by another method. In other calls core's nodes do what
    they do without ISA.
    Unchanged where neither node is there, or where another override is in front.
    """
    front = options.get(OVERRIDE)
    under = without_sparse(front)
    if under is not own and node_of(under) != BACKEND:
        return options
    sparse = node_of(front) == SPARSE or (under is own and node_of(own.previous) == SPARSE)
    if front is own and not sparse:
        return options
    if sparse and acts():
        if set_aside:
            set_aside(SPARSE)
        left = without_sparse(own.previous) if under is own else under
    else:
        left = own.previous if front is own else front
    return {**options, OVERRIDE: own, BENEATH: left}


def taken_beneath(own, keywords: dict) -> tuple[Callable | None, dict]:
    """The override that has what `own` leaves of an attention call, and the call's keywords for it, among which it is not told again."""
    options = keywords.get("transformer_options") or {}
    if BENEATH not in options:
        return own.previous, keywords
    options = {**options}
    return options.pop(BENEATH), {**keywords, "transformer_options": options}
