"""Encoding a video a few frames at a time, so that memory does not grow with its length; the twin of `decode`."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator

import torch

from ..errors import is_out_of_memory
from .vae_decode import CORE_CHANGED

logger = logging.getLogger(__name__)

TILE, OVERLAP = 256, 64
"""Tile size in pixels to which core falls back."""


def encode_groups(vae, groups: Callable[[], Iterator[torch.Tensor]]) -> torch.Tensor:
    """[1, C, T, h, w], exactly the result of `vae.encode` on all frames at once.

    groups: gives T groups of frames, [1, H, W, 3] and then [4, H, W, 3] in 0..1, and does so again when asked again.

    Streams core's causal Wan VAE. Each of these is logged: another VAE encodes all at once; so does this one where core's
    inner functions, by which it is streamed, are not those that this code knows; and where memory does not suffice for a
    single group, it encodes in tiles.
    """
    from comfy.ldm.wan.vae import WanVAE
    from comfy.model_management import is_oom

    vae.throw_exception_if_invalid()
    if type(vae.first_stage_model) is not WanVAE:
        logger.info("%s cannot encode in chunks; encoding the whole video at once", type(vae.first_stage_model).__name__)
        return vae.encode(torch.cat([*groups()]))
    try:
        return _stream(vae, groups())
    except Exception as error:
        out_of_memory = is_out_of_memory(error) or is_oom(error)
        if not (out_of_memory or isinstance(error, CORE_CHANGED)):
            raise
        if not out_of_memory:
            logger.warning("This ComfyUI's VAE cannot encode in chunks; encoding the whole video at once", exc_info=True)
    # Outside of the handler, because its exception would keep the memory of the first attempt.
    if not out_of_memory:
        return vae.encode(torch.cat([*groups()]))
    logger.warning("Not enough memory to encode at full size; encoding in tiles")
    return vae.encode_tiled(torch.cat([*groups()]), tile_x=TILE, tile_y=TILE, overlap=OVERLAP)


@torch.no_grad()
def _stream(vae, groups: Iterator[torch.Tensor]) -> torch.Tensor:
    """The causal encoder with its feature cache carried along, in core's own steps of 1, 2, 2, ... frames."""
    from comfy.ldm.wan.vae import count_cache_layers
    from comfy.model_management import cuda_device_context, load_models_gpu, throw_exception_if_processing_interrupted

    first = next(groups)
    height, width = first.shape[1:3]
    load_models_gpu([vae.patcher], memory_required=vae.memory_used_encode((1, 3, 5, height, width), vae.vae_dtype))
    network = vae.first_stage_model
    cache = [None] * count_cache_layers(network.encoder)
    steps = (step for group in itertools.chain([first], groups) for step in group.split(2))
    encoded = []
    with cuda_device_context(vae.device):
        for step, following in itertools.pairwise(itertools.chain(steps, [None])):
            throw_exception_if_processing_interrupted()
            pixels = vae.vae_encode_crop_pixels(step).movedim(-1, 0)[None]
            pixels = vae.process_input(pixels).to(vae.vae_dtype).to(vae.device)
            # There is no output until enough frames for a latent frame have come, or no more follow.
            latents = network.encoder(pixels, feat_cache=cache, feat_idx=[0], final=following is None)
            encoded += [] if latents is None else [latents]
        mean, _ = network.conv1(torch.cat(encoded, 2)).chunk(2, dim=1)
    return mean.to(vae.output_device).to(dtype=vae.vae_output_dtype())
