"""Makes ComfyUI's own loaders recognise LIVEditor checkpoints."""

from __future__ import annotations

import math

import comfy.model_base
import comfy.supported_models
import torch

from ..checkpoint.keys import is_dead_weight
from ..runtime.in_context import CONTEXT_LATENTS
from .latent_colours import LIVEditorTinyLatents
from .lora import wrap_core
from .network import LIVEditorModel

MEMORY_OF_WANS = 0.49
"""Memory of a step as a share of core's estimate for Wan, with a small margin; weights get the rest (tests/test_memory.py)."""

OF_TINY = {"dim": 256, "text_dim": 256}
"""Widths of LIVEditor-tiny and of what is trained from it; every Wan has texts of width 4096."""


class LIVEditorBase(comfy.model_base.WAN21):
    """Wan 2.1 family whose memory estimate counts the context videos."""

    def __init__(self, model_config, model_type=comfy.model_base.ModelType.FLOW, device=None):
        # Skips WAN21.__init__, which fixes the network class.
        comfy.model_base.BaseModel.__init__(self, model_config, model_type, device=device, unet_model=LIVEditorModel)
        self.image_to_video = False
        self.memory_usage_factor_conds = (CONTEXT_LATENTS,)

    def extra_conds_shapes(self, **kwargs):
        shapes = super().extra_conds_shapes(**kwargs)
        latents = kwargs.get(CONTEXT_LATENTS)
        if latents:
            shapes[CONTEXT_LATENTS] = [1, 16, sum(math.prod(latent.shape[2:]) for latent in latents)]
        return shapes

    def resize_cond_for_context_window(self, cond_key, cond_value, *args, **kwargs):
        # Core would cut a text whose width equals the video's length: LIVEditor-tiny's at 1,021 frames.
        if cond_key == "c_crossattn":
            return cond_value
        return super().resize_cond_for_context_window(cond_key, cond_value, *args, **kwargs)


class LIVEditor(comfy.supported_models.WAN21_T2V):
    """Detected by its second patch embedding; everything else is Wan 2.1/2.2 text-to-video."""

    registered_by = "liveditor_isa"
    required_keys = {"{}source_video_embedding_more_memory.weight": None}
    sampling_settings = {"shift": 6.0}
    # Wan's order has fp16 first; LIVEditor was trained in bf16, whose range cannot overflow. An fp16 file stays fp16.
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]

    def __init__(self, unet_config):
        super().__init__(unet_config)
        self.memory_usage_factor *= MEMORY_OF_WANS
        if OF_TINY.items() <= unet_config.items():
            self.latent_format = LIVEditorTinyLatents()

    def get_model(self, state_dict, prefix="", device=None):
        return LIVEditorBase(self, device=device)

    def process_unet_state_dict(self, state_dict):
        return {key: weight for key, weight in state_dict.items() if not is_dead_weight(key)}


def register():
    """Put LIVEditor in front of plain Wan in core's list of architectures, and wrap core's LoRA loaders.

    Once, even if the pack is loaded several times.
    Ours of an earlier load makes way; a class of another origin stays, whatever it is called.
    """
    models = comfy.supported_models.models
    ours = LIVEditor.registered_by
    models[:] = [LIVEditor] + [model for model in models if vars(model).get("registered_by") != ours]
    wrap_core()
