"""Reading the part of a video that will be edited, and what of it travels on to the result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch

from .geometry import CropBox

SOURCE_CLIP = "source_clip"
"""Key in ComfyUI's LATENT dictionary under which the SourceClip travels through the sampler."""


@dataclass(frozen=True)
class Frames:
    """Decoded frames [F, H, W, 3] in 0..1, their rate per second, and the sound over them (ComfyUI's AUDIO) or None."""

    images: torch.Tensor
    fps: Fraction
    audio: dict | None


@dataclass(frozen=True)
class SourceClip:
    """What *Decode Video* needs to know of the source.

    frames: exact number of frames to keep, whatever was padded for the model.
    size: width and height of the source; crop: the part of it that was edited.
    """

    fps: Fraction
    frames: int
    size: tuple[int, int]
    crop: CropBox
    audio: dict | None


def read_frames(video, max_frames: int, fps: float) -> Frames:
    """The first `max_frames` (0: all) of a ComfyUI VIDEO at `fps` (0: its own rate, else by nearest frame in time).

    Decodes no more than it needs. Raises ValueError for a video that holds no frame or cannot be read.
    """
    from comfy.model_management import InterruptProcessingException, is_oom

    try:
        components = _decode_start(video, max_frames, fps)
    except Exception as error:
        if isinstance(error, (InterruptProcessingException, MemoryError)) or is_oom(error):
            raise
        raise ValueError(f"The video cannot be read ({error}). Convert it to an mp4 with H.264 and load that.") from error
    images, rate = components.images, Fraction(components.frame_rate).limit_denominator(1001 * 1000)
    if len(images) == 0:
        raise ValueError("The video holds no frame. Pick another file, or check where it is trimmed.")
    # 29.97 typed for 30000/1001 is the video's own rate.
    if fps > 0 and abs(fps / rate - 1) >= 1e-3:
        wanted = Fraction(fps).limit_denominator(1000)
        count = max(1, round(len(images) * wanted / rate))
        # A tie goes to the earlier frame and Fractions keep it one: 24 to 16 fps then skips evenly.
        nearest = [min(math.ceil(i * rate / wanted - Fraction(1, 2)), len(images) - 1) for i in range(count)]
        images, rate = images[nearest], wanted
    if max_frames > 0:
        images = images[:max_frames]
    return Frames(images[..., :3], rate, cut_audio(components.audio, Fraction(len(images)) / rate))


def _decode_start(video, max_frames: int, fps: float):
    """Components of as much of the video as `max_frames` can reach, with frames to spare for rounding."""
    from comfy_api.latest import InputImpl

    if max_frames > 0 and isinstance(video, InputImpl.VideoFromFile):
        rate = video.get_frame_rate()
        needed = math.ceil(max_frames * rate / Fraction(fps)) if fps > 0 else max_frames
        window, duration = float((needed + 2) / rate), video.get_duration()
        # More than once where timestamps start late (MPEG-TS) or the rate varies.
        while window < duration:
            components = video.as_trimmed(0, window, strict_duration=False).get_components()
            if len(components.images) >= needed:
                return components
            window *= 2
    return video.get_components()


def cut_audio(audio: dict | None, seconds: Fraction) -> dict | None:
    """ComfyUI's AUDIO, or None, no longer than this."""
    if audio is None:
        return None
    samples = round(audio["sample_rate"] * seconds)
    return {**audio, "waveform": audio["waveform"][..., :samples]}
