"""Decoding a latent in temporal chunks, so that memory does not grow with the length of the video."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch

from ..errors import NotFiniteError, is_out_of_memory
from ..video.geometry import FRAMES_AT_A_TIME

logger = logging.getLogger(__name__)

CORE_CHANGED = (ImportError, AttributeError, TypeError, LookupError)
"""Errors of calls to core's private functions if another version of core has changed them."""


def decode_chunks(vae, latent: torch.Tensor) -> Iterator[torch.Tensor]:
    """[1, C, T, h, w] -> chunks [f, H, W, 3] in 0..1 on the CPU, together exactly what `vae.decode` gives.

    Streams core's causal Wan VAE. Each of these is logged: another VAE is decoded whole; so is this one where core's inner
    functions, by which it is streamed, are not those that this code knows; and where memory does not suffice for a single
    chunk, it is decoded in tiles.
    Raises ValueError for a batch of several videos, or a latent that is not this VAE's; NotFiniteError for one with NaN.
    """
    from comfy.ldm.wan.vae import WanVAE
    from comfy.model_management import is_oom, throw_exception_if_processing_interrupted

    _check(vae, latent)
    if type(vae.first_stage_model) is not WanVAE:
        logger.info("%s cannot be decoded in chunks; decoding the whole video at once", type(vae.first_stage_model).__name__)
        yield from vae.decode(latent)[0].split(FRAMES_AT_A_TIME)
        return
    started = False
    try:
        for chunk in _stream(vae, latent):
            throw_exception_if_processing_interrupted()
            started = True
            yield chunk
        return
    except Exception as error:
        out_of_memory = is_out_of_memory(error) or is_oom(error)
        if started or not (out_of_memory or isinstance(error, CORE_CHANGED)):
            raise
        if not out_of_memory:
            logger.warning("This ComfyUI's VAE cannot be decoded in chunks; decoding the whole video at once", exc_info=True)
    # Outside of the handler, because its exception would keep the memory of the first attempt.
    if out_of_memory:
        logger.warning("Not enough memory to decode at full size; decoding in tiles")
        yield from vae.decode_tiled(latent)[0].split(FRAMES_AT_A_TIME)
    else:
        yield from vae.decode(latent)[0].split(FRAMES_AT_A_TIME)


@torch.inference_mode()
def _stream(vae, latent: torch.Tensor) -> Iterator[torch.Tensor]:
    """The causal decoder with its feature cache carried from chunk to chunk: the first latent is one frame, others four."""
    from comfy.ldm.wan.vae import count_cache_layers
    from comfy.model_management import load_models_gpu

    two_latents = (*latent.shape[:2], min(2, latent.shape[2]), *latent.shape[3:])
    load_models_gpu([vae.patcher], memory_required=vae.memory_used_decode(two_latents, vae.vae_dtype))
    network = vae.first_stage_model
    cache = [None] * count_cache_layers(network.decoder)
    starts = [0, *range(1, latent.shape[2], 2)]
    for start, end in zip(starts, [*starts[1:], latent.shape[2]]):
        part = network.conv2(latent[:, :, start:end].to(device=vae.device, dtype=vae.vae_dtype))
        frames = torch.cat(network.decoder(part, feat_cache=cache, feat_idx=[0]), dim=2)
        # Copied first, because process_output works in place.
        frames = frames.to(device=vae.output_device, dtype=vae.vae_output_dtype(), copy=True)
        yield vae.process_output(frames)[0].movedim(0, -1).cpu()


def _check(vae, latent):
    vae.throw_exception_if_invalid()
    if latent.ndim != 5 or latent.shape[1] != vae.latent_channels:
        raise ValueError(
            f"Latent and VAE do not belong together: the latent is {[*latent.shape]}, the VAE decodes "
            f"[1, {vae.latent_channels}, frames, height, width]. Connect the VAE of the model that made the latent."
        )
    if latent.shape[0] != 1:
        raise ValueError(f"Decode Video takes one video; the latent holds {latent.shape[0]}. Pick one with Latent From Batch.")
    if not torch.isfinite(latent).all():
        raise NotFiniteError(
            "The latent holds NaN or infinity, the video would be black. The model overflowed or its weights are damaged: "
            "load it in bf16, lower the guidance, or remove LoRAs and patches one by one."
        )
