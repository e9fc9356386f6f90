"""LPIPS v0.1 (Zhang et al., 2018) by torchmetrics, which ships its linear heads; the pretrained trunk comes from files that are here."""

from __future__ import annotations

import re
from functools import lru_cache

import torch

from ...optional import needed
from .. import EXTRA
from ..weights import TORCHVISION, file_of, tensors_of

NETWORKS = ("alex", "vgg", "squeeze")


def model_of(network: str) -> str:
    return f"torchmetrics' lpips heads, {TORCHVISION[network]}"


def weights_of(network: str):
    """Path of the trunk's weights. Raises RuntimeError, which says how to get them."""
    needed("torchmetrics", "torchmetrics", EXTRA)
    return file_of(network)


def distance(network: str, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """LPIPS of images [N, 3, H, W] in 0..1, their mean: 0 for equal ones. Sides of 64 pixels at least: below, trunks have no
    pixel left, and ValueError is raised."""
    if min(one.shape[-2:]) < 64:
        raise ValueError(f"LPIPS needs 64 pixels a side; the frames are {one.shape[-1]}×{one.shape[-2]}.")
    with torch.no_grad():
        return _network(network)(one, other, normalize=True).mean()


@lru_cache
def _network(network: str) -> torch.nn.Module:
    return build(network, tensors_of(network))


def build(network: str, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """torchmetrics' network on a torchvision trunk's weights; what it would download is thus never asked for."""
    lpips = needed("torchmetrics.functional.image.lpips", "torchmetrics", EXTRA)
    made = lpips._LPIPS(net=network, pnet_rand=True)
    # torchmetrics cuts the trunk into slices, whose layers keep their numbers in torchvision's `features`.
    weights = {name: weights[re.sub(r"^slices?\.?\d+\.", "features.", name)] for name in made.net.state_dict()}
    made.net.load_state_dict(weights)
    return made.eval().requires_grad_(False)
