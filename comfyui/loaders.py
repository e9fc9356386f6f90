"""Loads LIVEditor's three parts into ComfyUI through core's own classes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.supported_models_base
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.t5
import comfy.text_encoders.wan
import comfy.utils
import folder_paths
import torch

from ..checkpoint.convert import SOURCE_FILE, SOURCE_FINGERPRINT, convert_checkpoint, fingerprint
from ..checkpoint.keys import CheckpointError, check_keys, core_metadata, is_quantisation
from ..checkpoint.opening import Checkpoint, is_safetensors, open_checkpoint, read_header
from ..checkpoint.vocabulary import check_texts, unknown_words
from ..optional import needed
from .blame import named, text_encoder_shapes, whole_quantisation, whole_text_encoder, whole_vae

logger = logging.getLogger(__name__)

WEIGHT_OPTIONS = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}
"""Weight dtypes by their names in core's loader."""


def load_diffusion_model(path: str, weight_dtype: str = "default", convert: bool = True, disable_dynamic: bool = False):
    """A ModelPatcher from an official `.bin` or a `.safetensors` file, in any of the known key layouts.

    convert: for a pickle, write a safetensors file beside it once and load that.
    Raises CheckpointError naming what is wrong with the file.
    """
    if convert and not is_safetensors(path):
        path = converted(path)
    state_dict, metadata = read_diffusion_model(path)
    options = WEIGHT_OPTIONS[weight_dtype]
    quantisation = {name: state_dict[name] for name in filter(is_quantisation, state_dict)}  # core takes them out
    with named(path, lambda: whole_quantisation(quantisation)):
        model = comfy.sd.load_diffusion_model_state_dict(state_dict, options, metadata, disable_dynamic=disable_dynamic)
    # Core uses this to create new copies for torch.compile, weight hooks and several GPUs.
    model.cached_patcher_init = (load_diffusion_model, (path, weight_dtype, False))
    return model


def read_diffusion_model(path: str):
    """Checked weights under official names, and the file's metadata. Reads headers only; weights stay memory-mapped."""
    checkpoint = open_checkpoint(path)
    check_keys(checkpoint.shapes)
    if not is_safetensors(path):
        return checkpoint.tensors(), core_metadata(checkpoint.shapes)
    # Core's reader, because it also stores each weight's position in the file, for offloading.
    raw, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    # Core builds a network of any size that "config" states; here the weights determine the size.
    metadata = {name: text for name, text in (metadata or {}).items() if name != "config"}
    metadata |= core_metadata(checkpoint.shapes) | checkpoint.quantisation_metadata()
    return {name: raw[source] for name, source in checkpoint.sources.items()}, metadata


def converted(path: str) -> str:
    """Path of the safetensors file made from pickle `path`, which is created if it is missing or was made from other content.

    Where it cannot be written (a read-only models folder, or somebody else's file has its name) the pickle itself is
    used, and that is logged.
    """
    target = Path(path).with_suffix(".safetensors")
    if target.exists():
        made_from = _origin(target)
        if made_from.get(SOURCE_FILE) != Path(path).name:
            logger.warning("%s was not made from %s and stays as it is; the .bin is loaded directly", target, Path(path).name)
            return path
        if made_from.get(SOURCE_FINGERPRINT) == fingerprint(path):
            return str(target)
    logger.info("Converting %s to %s, once", path, target)
    bar = None

    def progress(done, total):
        nonlocal bar
        bar = bar or comfy.utils.ProgressBar(total)
        bar.update_absolute(done, total)

    try:
        report = convert_checkpoint(path, target, progress=progress, overwrite=True)
    except OSError as error:
        logger.warning("Could not convert %s (%s); it is loaded directly instead", path, error)
        return path
    for note in report.notes:
        logger.info(note)
    return str(target)


def _origin(target: Path) -> dict[str, str]:
    """The metadata of safetensors file `target`; empty if the file is damaged."""
    try:
        return read_header(target).metadata
    except CheckpointError:
        return {}


def load_text_encoder(path: str, tell: Callable[[list[str]], None] | None = None):
    """A CLIP with UMT5: XXL through core's loader, smaller ones from their own config in the file's metadata.

    tell: called with the words of a text that a small encoder was never taught, whenever it is given one.
    """
    needed("sentencepiece", "sentencepiece")  # by core's tokenizer
    checkpoint = open_checkpoint(path)  # knows what is wrong with a file
    config = _own_config(checkpoint)
    is_whole = partial(whole_text_encoder, checkpoint.shapes, partial(checkpoint.tensor, "spiece_model"), config)
    with named(path, is_whole):
        if config:
            return _small_text_encoder(path, config, tell=tell)
        embeddings = folder_paths.get_folder_paths("embeddings")
        clip = comfy.sd.load_clip([path], embedding_directory=embeddings, clip_type=comfy.sd.CLIPType.WAN)
    if not hasattr(clip.cond_stage_model, "umt5xxl"):
        raise ValueError(
            f"{Path(path).name} is not a UMT5-XXL text encoder: pick umt5_xxl_fp8_e4m3fn_scaled.safetensors or umt5_xxl_fp16.safetensors."
        )
    return clip


def _own_config(checkpoint: Checkpoint) -> dict | None:
    """The network's config in a small encoder's file; None for UMT5-XXL.

    Raises CheckpointError unless the config describes the file's weights.
    """
    with named(str(checkpoint.path), lambda: False):
        config = json.loads(checkpoint.metadata.get("config", "{}")).get("text_encoder")
        if not config:
            return None
        blocks = {name.split(".")[2] for name in checkpoint.shapes if name.startswith("encoder.block.")}
        if config["num_layers"] != len(blocks):
            raise ValueError("another number of layers than its config says")
        if text_encoder_shapes(config) != {n: shape for n, shape in checkpoint.shapes.items() if n != "spiece_model"}:
            raise ValueError("other weights than its config says")
        check_texts(config)
        return config


def _small_text_encoder(path: str, config: dict, disable_dynamic: bool = False, tell: Callable | None = None):
    """Core's UMT5 classes at another size, because core supports XXL only."""
    weights = comfy.utils.load_torch_file(path)
    known = frozenset(config.get("words", ()))
    encoder = comfy.text_encoders.wan.te(**comfy.text_encoders.sd3_clip.t5_xxl_detect(weights))

    class Tokenizer(comfy.text_encoders.wan.WanT5Tokenizer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            pieces = getattr(self, self.clip)
            pieces.min_length = config.get("min_length", pieces.min_length)

        def tokenize_with_weights(self, text, *args, **kwargs):
            if known and (unknown := unknown_words(text, known)):
                logger.warning("%s was never taught: %s", Path(path).name, ", ".join(unknown))
                if tell:
                    tell(unknown)
            return super().tokenize_with_weights(text, *args, **kwargs)

    target = comfy.supported_models_base.ClipTarget(Tokenizer, encoder)
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        tokenizer_data={"spiece_model": weights["spiece_model"]},
        parameters=comfy.utils.calculate_parameters(weights),
        state_dict=[weights],
        model_options={"umt5xxl_model_config": config},
        disable_dynamic=disable_dynamic,
    )
    clip.patcher.cached_patcher_init = (_small_text_encoder_patcher, (path, config))
    return clip


def _small_text_encoder_patcher(path: str, config: dict, disable_dynamic: bool = False):
    return _small_text_encoder(path, config, disable_dynamic).patcher


def is_wan_vae(vae) -> bool:
    """Whether a ComfyUI VAE has Wan 2.1's latents: 16 channels over time."""
    return vae.first_stage_model is not None and (vae.latent_channels, vae.latent_dim) == (16, 3)


def load_vae(path: str):
    """The Wan 2.1 VAE. Raises ValueError for anything else."""
    shapes = open_checkpoint(path).shapes  # knows what is wrong with a file
    with named(path, lambda: whole_vae(shapes)):
        weights, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
        vae = comfy.sd.VAE(sd=weights, metadata=metadata)
    if not is_wan_vae(vae):
        raise ValueError(
            f"{Path(path).name} is not a Wan 2.1 VAE, which has 16 channels over time: pick wan_2.1_vae.safetensors."
        )
    vae.patcher.cached_patcher_init = (comfy.sd.load_vae_patcher, (path, metadata, None))
    return vae
