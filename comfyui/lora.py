"""LoRAs on the ComfyUI host: core's own loaders take every naming that the diffusers host takes (`checkpoint/lora.py`), for LIVEditor.

Core has a table of names per model family in one function, without a way to register more, and only logs what it does not
find. So two functions of `comfy.lora` and two of `comfy.sd` are wrapped. For other models they do what they did.
"""

from __future__ import annotations

import functools
import logging

import comfy.lora
import comfy.sd
import torch

from ..checkpoint.keys import expected_shapes
from ..checkpoint.lora import METADATA, read_lora
from .network import LIVEditorModel

logger = logging.getLogger(__name__)

PREFIX = "diffusion_model."


class NamesOfLIVEditor(dict):
    """Core's {name in a LoRA: weight}, with the shapes of LIVEditor's weights by official name."""

    shapes: dict[str, tuple[int, ...]]


def wrap_core():
    """Once: a wrapper of an earlier load of this pack makes way."""
    for module, name, wrapper in (
        (comfy.lora, "model_lora_keys_unet", _names),
        (comfy.lora, "load_lora", _load),
        (comfy.sd, "load_lora_for_models", _for_models),
        (comfy.sd, "load_bypass_lora_for_models", _for_models),
    ):
        function = getattr(module, name)
        if isinstance(function, functools.partial) and getattr(function.func, "wraps_for_liveditor", False):
            (function,) = function.args
        wrapper.wraps_for_liveditor = True
        setattr(module, name, functools.update_wrapper(functools.partial(wrapper, function), function))


def _names(core, model, key_map=None, *args, **kwargs):
    names = core(model, {} if key_map is None else key_map, *args, **kwargs)
    if not isinstance(model.diffusion_model, LIVEditorModel):
        return names
    network = model.diffusion_model
    names = NamesOfLIVEditor(names)
    names.shapes = expected_shapes(network.dim, network.ffn_dim, network.text_dim, len(network.blocks), network.in_dim)
    return names


def _load(core, lora, to_load, *args, **kwargs):
    """Raises CheckpointError for a LoRA that changes nothing in LIVEditor."""
    if not isinstance(to_load, NamesOfLIVEditor):
        return core(lora, to_load, *args, **kwargs)
    lora = dict(lora)
    read = read_lora(lora, to_load.shapes, "This LoRA", lora.pop(METADATA, None))
    for note in read.notes:
        logger.warning(note)
    official = {f"{PREFIX}{name}": tensor for name, tensor in read.tensors.items()}
    return core(official | {name: lora[name] for name in read.text_encoders}, to_load, *args, **kwargs)


def _for_models(core, model, clip, lora, *args, lora_metadata=None, **kwargs):
    """`load_lora_for_models(model, clip, lora, ...)` and its like, which patch weights."""
    if model is None or not isinstance(model.model.diffusion_model, LIVEditorModel):
        return core(model, clip, lora, *args, **kwargs, **({} if lora_metadata is None else {"lora_metadata": lora_metadata}))
    if lora_metadata is not None:
        kwargs["lora_metadata"] = lora_metadata
        lora = {**lora, METADATA: lora_metadata} if METADATA in lora_metadata else lora
    model, *others = core(model, clip, lora, *args, **kwargs)
    _replace_modulations(model)
    return model, *others


def _replace_modulations(model):
    """Core patches weights of modules without children only. A block's modulation would stay as it is."""
    for key in [key for key in model.patches if key.endswith(".modulation")]:
        weight = model.get_model_object(key)
        changed = comfy.lora.calculate_weight(model.patches.pop(key), weight.detach().float().clone(), key)
        model.add_object_patch(key, torch.nn.Parameter(changed.to(weight.dtype), requires_grad=False))
