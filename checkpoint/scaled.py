"""ComfyUI's fp8_scaled files: the matrices of transformer blocks in fp8, each with a number to multiply it by."""

from __future__ import annotations

import torch

from .keys import SCALED_FP8, CheckpointError, is_quantisation
from .opening import Checkpoint

SCALES = ("scale_weight", "weight_scale")
"""Names of the scale of an fp8 weight, in older and newer files."""

FP8 = "fp8"
"""The name of this form among types of weights."""

E4M3 = torch.float8_e4m3fn


class Scaled(Checkpoint):
    """Plain weights as such a file holds them. Each is computed when it is read."""

    def __init__(self, checkpoint: Checkpoint):
        """Raises CheckpointError for weights that are quantised already."""
        if any(map(is_quantisation, checkpoint.shapes)):
            raise CheckpointError(f"{checkpoint.path.name} is quantised already: take the .bin, or its bf16 or fp16 file.")
        self.path, self.metadata, self.notes = checkpoint.path, checkpoint.metadata, checkpoint.notes
        self._plain, self._scales = checkpoint, dict[str, torch.Tensor]()
        matrices = [
            name
            for name, shape in checkpoint.shapes.items()
            if name.startswith("blocks.") and len(shape) == 2 and ".alpha_" not in name
        ]
        self._weights = {_scale_of(name): name for name in matrices}
        added = {name: () for name in self._weights} | {SCALED_FP8: (2,)}
        self.shapes = {**checkpoint.shapes, **added}
        self.sources = {**checkpoint.sources, **{name: name for name in added}}

    def dtype(self, name: str) -> torch.dtype:
        if name == SCALED_FP8 or _scale_of(name) in self._weights:
            return E4M3
        return torch.float32 if name in self._weights else self._plain.dtype(name)

    def tensor(self, name: str) -> torch.Tensor:
        if name == SCALED_FP8:
            return torch.zeros(2, dtype=E4M3)
        if name in self._weights:
            return self._scale(name)
        weight, scale = self._plain.tensor(name), _scale_of(name)
        return (weight.float() / self._scale(scale)).to(E4M3) if scale in self._weights else weight

    def _scale(self, name: str) -> torch.Tensor:
        if name not in self._scales:
            scale = self._plain.tensor(self._weights[name]).float().abs().amax() / torch.finfo(E4M3).max
            self._scales[name] = scale if scale else torch.ones(())  # of a weight that is all zeros
        return self._scales[name]


def _scale_of(weight: str) -> str:
    """The name of a weight's scale."""
    return weight.removesuffix("weight") + SCALES[0]


class Unscaled(Checkpoint):
    """The plain weights of such a file, fp32 where they were fp8, for libraries that know no scales."""

    def __init__(self, checkpoint: Checkpoint, cure: str = "take its fp8_scaled, bf16 or fp16 file"):
        """cure: the end of the sentence about weights that are quantised in another way."""
        self.path, self.metadata, self.notes = checkpoint.path, checkpoint.metadata, checkpoint.notes
        self._stored, self._cure = checkpoint, cure
        self.sources = {name: source for name, source in checkpoint.sources.items() if not is_quantisation(name)}
        self.shapes = {name: checkpoint.shapes[name] for name in self.sources}

    def tensor(self, name: str) -> torch.Tensor:
        """Raises CheckpointError for a weight that is quantised in another way than fp8 with one scale."""
        weight, stem = self._stored.tensor(name), name.removesuffix("weight")
        if stem == name:
            return weight
        scale = next((self._stored.tensor(stem + ending) for ending in SCALES if stem + ending in self._stored.shapes), None)
        if not weight.is_floating_point() or scale is not None and scale.numel() != 1:
            raise CheckpointError(f"{self.path.name} is quantised in a way that only ComfyUI reads: {self._cure}.")
        return weight if scale is None else weight.float() * scale.float()

    def quantisation_metadata(self) -> dict[str, str]:
        return {}
