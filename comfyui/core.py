"""What this pack takes from ComfyUI's core, in one table. A core that lacks some of it is told in one sentence when the pack is loaded.

The table is looked through before anything else of the pack is imported, so this module imports nothing of core itself.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

OLDEST = "0.30.0"
"""The oldest ComfyUI that has all of it."""

NEEDED: dict[str, str] = {
    "comfy.cli_args": "args.cpu args.disable_metadata",
    "comfy.latent_formats": "Wan21",
    "comfy.ldm.common_dit": "pad_to_patch_size",
    "comfy.ldm.flux.math": "apply_rope1",
    "comfy.ldm.modules.attention": "attention_pytorch optimized_attention(heads,transformer_options)",
    "comfy.ldm.wan.model": (
        "WanAttentionBlock WanModel WanModel.forward WanModel.forward_orig WanSelfAttention sinusoidal_embedding_1d"
    ),
    "comfy.ldm.wan.vae": (
        "WanVAE(attn_scales,conv_out_channels,dim,dim_mult,dropout,image_channels,num_res_blocks,temperal_downsample,z_dim)"
    ),
    "comfy.lora": "calculate_weight load_lora model_lora_keys_unet",
    "comfy.model_base": "BaseModel(device,unet_model) ModelType.FLOW WAN21",
    "comfy.model_management": (
        "cuda_device_context dtype_size force_channels_last get_torch_device get_total_memory intermediate_device is_oom "
        "load_models_gpu(memory_required) throw_exception_if_processing_interrupted"
    ),
    "comfy.ops": "disable_weight_init fp8_ops manual_cast",
    "comfy.patcher_extension": (
        "WrappersMP.DIFFUSION_MODEL WrappersMP.OUTER_SAMPLE WrappersMP.PREDICT_NOISE WrappersMP.PREPARE_SAMPLING"
    ),
    "comfy.sampler_helpers": "estimate_memory",
    "comfy.sd": (
        "CLIP(disable_dynamic,embedding_directory,model_options,parameters,state_dict,tokenizer_data) CLIPType.WAN "
        "VAE(metadata,sd) load_bypass_lora_for_models load_clip(clip_type,embedding_directory) "
        "load_diffusion_model_state_dict(disable_dynamic) load_lora_for_models load_vae_patcher"
    ),
    "comfy.supported_models": "WAN21_T2V models",
    "comfy.supported_models_base": "ClipTarget",
    "comfy.text_encoders.sd3_clip": "t5_xxl_detect",
    "comfy.text_encoders.t5": "T5",
    "comfy.text_encoders.wan": "WanT5Tokenizer te",
    "comfy.utils": "ProgressBar calculate_parameters load_torch_file(return_metadata)",
    "comfy_api.latest": (
        "ComfyExtension InputImpl.VideoFromComponents InputImpl.VideoFromFile Types.VideoComponents io.Audio.Input io.Audio.Output "
        "io.Autogrow.Input io.Autogrow.TemplatePrefix io.Boolean.Input io.BoundingBox.Input io.Clip.Output io.Combo.Input "
        "io.ComfyNode io.Conditioning.Input io.Conditioning.Output io.DynamicCombo.Input io.DynamicCombo.Option io.Float.Input "
        "io.FolderType.output io.FolderType.temp io.Hidden.dynprompt io.Hidden.extra_pnginfo io.Hidden.prompt io.Hidden.unique_id "
        "io.HiddenHolder.from_dict io.Image.Input io.Image.Output io.Int.Input io.Latent.Input io.Latent.Output io.Mask.Input "
        "io.Model.Input io.Model.Output io.NodeOutput io.NumberDisplay.slider io.Schema io.String.Input io.Vae.Input io.Vae.Output "
        "io.Video.Input io.Video.Output ui.PreviewImage ui.PreviewVideo ui.SavedImages ui.SavedResult"
    ),
    "comfy_execution.graph": "ExecutionBlocker",
    "comfy_execution.graph_utils": "is_link",
    "comfy_execution.utils": "get_executing_context",
    "folder_paths": (
        "get_filename_list get_folder_paths get_full_path get_input_directory get_output_directory get_save_image_path "
        "get_temp_directory is_within_directory"
    ),
    "node_helpers": "conditioning_set_values",
    "server": "PromptServer.send_progress_text PromptServer.send_sync",
}  # fmt: skip
"""Names by modules of core; in brackets the keywords that a function of core is called with.

Not in it: what the pack does without. Where `comfy.ldm.wan.vae.count_cache_layers` is missing, videos are decoded and encoded
whole (`vae_decode.CORE_CHANGED`).
"""


def needed() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(module, name within it, keywords) of each entry of the table."""
    for module, entries in NEEDED.items():
        for entry in entries.split():
            name, _, keywords = entry.rstrip(")").partition("(")
            yield module, name, tuple(keywords.split(",")) if keywords else ()


def lacking() -> str | None:
    """The sentence about the first thing that this core lacks, with its cure; None where it has all."""
    for module, name, keywords in needed():
        found = _found(module, name)
        if found is None:
            return _sentence(f"no {module}.{name}")
        if unknown := [keyword for keyword in keywords if not _takes(found[0], keyword)]:
            return _sentence(f"a {module}.{name} without {' and '.join(unknown)}")
    return None


def _found(module: str, name: str) -> tuple[object] | None:
    """The object of that name, in a tuple, because it may be None."""
    try:
        found: object = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            return None
        raise  # a package that core itself needs
    for part in name.split("."):
        if not hasattr(found, part):
            return None
        found = getattr(found, part)
    return (found,)


def _takes(function: Any, keyword: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # one that is not written in Python
        return True
    return any(each.name == keyword or each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)


def _sentence(lack: str) -> str:
    version = _version()
    old = version is None or _numbers(version) < _numbers(OLDEST)
    cure = "update ComfyUI" if old else "update this pack, for ComfyUI has changed it since"
    return f"LIVEditor · ISA cannot be loaded: ComfyUI {version or 'of an unknown version'} has {lack}, which {OLDEST} has: {cure}."


def _version() -> str | None:
    found = _found("comfyui_version", "__version__")
    return str(found[0]) if found else None


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]
