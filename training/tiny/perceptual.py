"""How differently two pictures look: features of VGG16 (Zhang et al., "The Unreasonable Effectiveness of Deep Features", 2018)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file

LAYERS = 16
"""Of torchvision's `features`: up to the third convolution of the third block, which sees 40 pixels. Blur needs no more."""
COMPARED = (3, 8, 15)
"""The last activation of each block."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pictures that VGG16 was trained with, in 0..1."""


class Perceptual(torch.nn.Module):
    """Mean squared distance of normalised features, as LPIPS has it, but without LPIPS' learnt weights of channels."""

    def __init__(self, weights: Path):
        """weights: safetensors of torchvision's VGG16, by its names; later layers than LAYERS may be missing.

        Raises ValueError for a file of something else.
        """
        from torchvision.models import vgg16

        super().__init__()
        self.features = vgg16().features[:LAYERS]
        for layer in self.features:
            if isinstance(layer, torch.nn.ReLU):
                layer.inplace = False
        try:
            tensors = {name.removeprefix("features."): tensor.float() for name, tensor in load_file(weights).items()}
        except SafetensorError as error:
            raise ValueError(f"{weights} is no safetensors file ({error}).") from None
        missing = [name for name in self.features.state_dict() if name not in tensors]
        if missing:
            raise ValueError(f"{weights} are no weights of torchvision's VGG16: it lacks features.{missing[0]}.")
        self.features.load_state_dict({name: tensors[name] for name in self.features.state_dict()})
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, output: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Both [N, 3, H, W] in -1..1."""
        distance = output.new_zeros((), dtype=torch.float32)
        one, other = (((pictures + 1) / 2 - self.mean) / self.deviation for pictures in (output, wanted))
        for number, layer in enumerate(self.features):
            one = layer(one)
            with torch.no_grad():
                other = layer(other)
            if number in COMPARED:
                distance = distance + (_unit(one) - _unit(other)).square().sum(1).mean()
        return distance


def _unit(features: torch.Tensor) -> torch.Tensor:
    return F.normalize(features.float(), dim=1, eps=1e-6)
