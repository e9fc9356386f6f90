"""What a call of the pipeline is given, in all the forms that it takes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from diffusers.video_processor import VideoProcessor

from ..video.clip import Clip
from ..video.source import FramesSource


def clip_of(video, processor: VideoProcessor) -> Clip:
    """A video in any form of `frames_of`, or a Clip, as it is."""
    if isinstance(video, Clip):
        return video
    frames = frames_of(video, "video", processor)
    count, height, width, _ = frames.shape
    rate = Fraction(1)  # nobody asks for it
    return Clip(rate, (width, height), None, FramesSource(frames, rate), tuple(range(count)), count)


def frames_of(video, name: str, processor: VideoProcessor) -> torch.Tensor:
    """[F, H, W, 3] in 0..1 of a video in whatever form diffusers takes one. name: of the argument. processor: must change no pixel.

    Raises ValueError for what is no video.
    """
    if isinstance(video, (str, Path)):
        raise ValueError(f"`{name}` is frames, not a path: read it with diffusers.utils.load_video, or use `liveditor edit`.")
    if hasattr(video, "__len__") and len(video) == 0:
        raise ValueError(f"`{name}` holds no frame.")
    batch = processor.preprocess_video(video)
    if len(batch) != 1 or batch.shape[1] != 3:
        raise ValueError(f"`{name}` must be one video of three channels; got {[*batch.shape]} as [B, C, F, H, W].")
    batch = batch.float()
    if batch.max() > 2 or batch.min() < -0.5:  # more than a resize overshoots
        raise ValueError(f"`{name}` must be in 0..1; got {batch.min():.3g} to {batch.max():.3g}. Divide 8-bit ones by 255.")
    return batch[0].movedim(0, -1)


def mask_of(mask) -> torch.Tensor | None:
    """[h, w] or [M, h, w] of an array, a tensor, a PIL image or a list of them; None of None. Raises ValueError for another shape."""
    if mask is None or isinstance(mask, torch.Tensor):
        found = mask
    elif isinstance(mask, np.ndarray):
        found = torch.from_numpy(mask)
    else:
        pictures = mask if isinstance(mask, list) else [mask]
        found = torch.stack(
            [torch.as_tensor(np.array(one.convert("L") if hasattr(one, "convert") else one)) for one in pictures]
        )
    if found is not None and found.ndim not in (2, 3):
        raise ValueError(f"`mask` must be [h, w] or [M, h, w], or pictures; got {[*found.shape]}.")
    return found
