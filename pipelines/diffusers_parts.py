"""All uses of diffusers' private parts, and an error message for a version that lacks one."""

from __future__ import annotations

import importlib

import diffusers


def _part(module: str, name: str):
    try:
        return getattr(importlib.import_module(f"diffusers.{module}"), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"diffusers {diffusers.__version__} has no {module}.{name}, which this package uses: install diffusers 0.42, "
            "or a newer version of this package."
        ) from error


AttentionBackendName = _part("models.attention_dispatch", "AttentionBackendName")
_AttentionBackendRegistry = _part("models.attention_dispatch", "_AttentionBackendRegistry")
dispatch_attention_fn = _part("models.attention_dispatch", "dispatch_attention_fn")
ContextParallelInput = _part("models._modeling_parallel", "ContextParallelInput")
ContextParallelOutput = _part("models._modeling_parallel", "ContextParallelOutput")
Transformer2DModelOutput = _part("models.modeling_outputs", "Transformer2DModelOutput")
WanAttnProcessor = _part("models.transformers.transformer_wan", "WanAttnProcessor")
WanRotaryPosEmbed = _part("models.transformers.transformer_wan", "WanRotaryPosEmbed")
WanTransformer3DModel = _part("models.transformers.transformer_wan", "WanTransformer3DModel")
apply_lora_scale = _part("utils.peft_utils", "apply_lora_scale")
fetch_state_dict = _part("loaders.lora_base", "_fetch_state_dict")

NATIVE = AttentionBackendName.NATIVE
"""The backend that ends in PyTorch's `scaled_dot_product_attention`."""


def active_backend():
    """The backend of processors that name none."""
    return _AttentionBackendRegistry.get_active_backend()[0]
