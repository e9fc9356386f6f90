"""How likely a clip is not safe for work: Yahoo's open_nsfw, a network for pictures, whose ONNX graph OpenCV runs."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import torch

from ..evaluation.weights import is_here, tensors_of
from ..optional import needed
from . import EXTRA

MODEL = "open_nsfw"

SIDE, CROP = 256, 224
MEAN = (104, 117, 123)
"""Levels of blue, green and red."""


def unsafe(frames: torch.Tensor) -> float | None:
    """The largest probability of the first, the middle and the last frame of [T, H, W, 3] uint8; None where the weights are not here."""
    if not is_here(MODEL):
        return None
    return max(probability(frames[number]) for number in sorted({0, len(frames) // 2, len(frames) - 1}))


def probability(frame: torch.Tensor) -> float:
    """Of one picture, [H, W, 3] uint8."""
    network = _network()
    network.setInput(_input(frame)[None])
    return float(network.forward()[0, 1])


def _input(frame: torch.Tensor) -> np.ndarray:
    """[224, 224, 3] fp32: the middle of the squeezed picture, saved as a JPEG as in the network's training, in the order blue, green, red."""
    image = needed("PIL.Image", "pillow", EXTRA)
    begin, held = (SIDE - CROP) // 2, io.BytesIO()
    small = image.fromarray(frame.numpy()).resize((SIDE, SIDE), image.Resampling.BILINEAR)
    small.crop((begin, begin, begin + CROP, begin + CROP)).save(held, format="JPEG")
    saved = np.asarray(image.open(held), dtype=np.float32)
    return np.ascontiguousarray(saved[..., ::-1] - np.float32(MEAN))


@lru_cache(maxsize=1)
def _network():
    cv2 = needed("cv2", "opencv-python-headless", EXTRA)
    return cv2.dnn.readNetFromONNX(tensors_of(MODEL)["onnx"].numpy())
