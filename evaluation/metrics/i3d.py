"""FVD (Unterthiner et al., 2018): how far two sets of clips are from each other, by the logits of I3D (Carreira and Zisserman, 2017).

A score holds the logits of an item's clips; reports compute distances between sets: edits, their sources, right edits, another run's edits.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from ..frames import Inputs, to_unit
from ..weights import file_of, own_file, tensors_of
from .metric import Metric, Noted, NothingToMeasure

NAME = "fvd"
FRAMES, SIDE = 16, 224
"""Of a clip."""

ENOUGH = 100
"""Clips a set; with fewer, the distance of two sets of one kind is far above 0."""

STAGES = ("3b 3c", "4b 4c 4d 4e 4f", "5b 5c")
"""Inception blocks between poolings."""


def logits(weights: dict[str, torch.Tensor], clips: torch.Tensor) -> torch.Tensor:
    """I3D's of RGB clips [N, 3, T, H, W] in -1..1, averaged over time: [N, 400]. T of 9 or more, H and W of 193 or more.

    weights: as `shipped.i3d_weights` makes them; the number of channels is theirs.
    """
    net = _unit(weights, "Conv3d_1a_7x7", clips, 2)
    net = _pooled(net, (1, 3, 3), (1, 2, 2))
    net = _unit(weights, "Conv3d_2c_3x3", _unit(weights, "Conv3d_2b_1x1", net))
    for blocks, kernel, stride in zip(STAGES, ((1, 3, 3), (3, 3, 3), (2, 2, 2)), ((1, 2, 2), (2, 2, 2), (2, 2, 2))):
        net = _pooled(net, kernel, stride)
        for block in blocks.split():
            net = _inception(weights, f"Mixed_{block}", net)
    net = F.avg_pool3d(net, (2, 7, 7), 1)
    last = "Logits.Conv3d_0c_1x1"
    return F.conv3d(net, weights[f"{last}.weight"], weights[f"{last}.bias"]).mean((2, 3, 4))


def _inception(weights: dict[str, torch.Tensor], name: str, net: torch.Tensor) -> torch.Tensor:
    def unit(branch: str, given: torch.Tensor) -> torch.Tensor:
        return _unit(weights, f"{name}.Branch_{branch}", given)

    branches = [unit("0.Conv3d_0a_1x1", net)]
    branches += [unit(f"{at}.Conv3d_0b_3x3", unit(f"{at}.Conv3d_0a_1x1", net)) for at in (1, 2)]
    branches.append(unit("3.Conv3d_0b_1x1", _pooled(net, (3, 3, 3), (1, 1, 1))))
    return torch.cat(branches, 1)


def _unit(weights: dict[str, torch.Tensor], name: str, net: torch.Tensor, stride: int = 1) -> torch.Tensor:
    kernel = weights[f"{name}.weight"]
    padded = _padded(net, kernel.shape[2:], (stride,) * 3)
    return F.conv3d(padded, kernel, weights[f"{name}.bias"], stride).relu()


def _pooled(net: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    # Zeros at the border change no maximum: all values are behind a ReLU.
    return F.max_pool3d(_padded(net, kernel, stride), kernel, stride)


def _padded(net: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    """TensorFlow's SAME: as many outputs as strides begin within the input, and of an odd number of zeros one more behind."""
    pads: list[int] = []
    for size, width, step in zip(net.shape[:1:-1], kernel[::-1], stride[::-1]):
        total = max((-(-size // step) - 1) * step + width - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(net, pads)


def clips_of(frames: torch.Tensor) -> torch.Tensor:
    """[N, 3, 16, 224, 224] in -1..1 of [T, H, W, 3] uint8: one clip after another, the rest at the end left out. Frames are stretched to
    224×224, bilinear, as in FVD's definition; antialiased, which the original is not."""
    count = len(frames) // FRAMES
    if not count:
        raise NothingToMeasure(f"FVD is of clips of {FRAMES} frames; the edit has {len(frames)}.")
    small = F.interpolate(to_unit(frames[: count * FRAMES]), (SIDE, SIDE), mode="bilinear", antialias=True)
    return (2 * small - 1).unflatten(0, (count, FRAMES)).transpose(1, 2)


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Of two sets of features, [N, C] each with N of 2 or more: |difference of means|² + trace(A + B - 2 (A B)^½), A and B the covariances.

    With A = X'X and B = Y'Y, the trace of the root is the sum of the singular values of X Y': no matrix is squared, and sets of fewer
    members than features, whose covariances are singular, lose no digits.
    """
    sets = [np.asarray(rows, dtype=np.float64) for rows in (first, second)]
    means = [rows.mean(0) for rows in sets]
    x, y = ((rows - mean) / np.sqrt(len(rows) - 1) for rows, mean in zip(sets, means))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    distance = np.square(means[0] - means[1]).sum() + np.square(x).sum() + np.square(y).sum() - 2 * root
    return max(0.0, float(distance))  # rounding may leave less


@lru_cache
def _weights() -> dict[str, torch.Tensor]:
    return tensors_of("i3d")


@torch.no_grad()
def _features(inputs: Inputs) -> dict[str, float]:
    roles = ("edit", "source", *(["reference"] if inputs.item.reference else []))
    found = Noted()
    found.features = {
        role: np.concatenate([logits(_weights(), clip[None]).numpy() for clip in clips_of(getattr(inputs, role))])
        for role in roles
    }
    return found


METRICS = [
    Metric(
        NAME,
        _features,
        "Fréchet distance of the I3D logits of two sets of clips of 16 frames; the report lists which sets.",
        higher=False,
        model=lambda: own_file("i3d").stem,
        ready=lambda: file_of("i3d"),
    )
]
