"""ComfyUI's fp8_scaled files, for libraries that know plain numbers alone: each fp8 weight is multiplied by its scale as it is read."""

from __future__ import annotations

import torch

from .keys import CheckpointError, is_quantisation
from .opening import Checkpoint

SCALES = ("scale_weight", "weight_scale")
"""Names of the scale of an fp8 weight, in older and newer files."""


class Unscaled(Checkpoint):
    """Without the entries that accompany quantised weights; those weights are fp32."""

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
