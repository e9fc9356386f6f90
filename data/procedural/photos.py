"""Real photographs, as textures. They are files of two PyPI packages; nothing is downloaded.

| photograph | package | licence |
|---|---|---|
| astronaut, hubble_deep_field | scikit-image | public domain (NASA) |
| rocket | scikit-image | public domain (SpaceX) |
| chelsea (a cat) | scikit-image | CC0 (Stéfan van der Walt) |
| coffee | scikit-image | CC0 (Rachel Michetti) |
| camera | scikit-image | CC0 (Lav Varshney) |
| brick, gravel | scikit-image | CC0 (CC0Textures) |
| grass | scikit-image | CC0 (linolafett) |
| coins | scikit-image | no known copyright restrictions (Brooklyn Museum) |
| china | scikit-learn | CC BY 2.0 (danielbuechele) |
| flower | scikit-learn | CC BY 2.0 (vultilion) |
"""

from __future__ import annotations

import importlib.util
import logging
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

FILES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "camera": ("skimage", "data/camera.png"),
    "brick": ("skimage", "data/brick.png"),
    "grass": ("skimage", "data/grass.png"),
    "coins": ("skimage", "data/coins.png"),
    "hubble_deep_field": ("skimage", "data/hubble_deep_field.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "gravel": ("skimage", "data/gravel.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}

HELD_OUT = ("coffee", "gravel")
"""Never in the train split, and the only ones in the held-out split."""

DARK = ("hubble_deep_field",)
"""Photographs on which a change of style can hardly be seen."""

TINTS = {
    "camera": ((0.05, 0.05, 0.12), (0.95, 0.92, 0.85)),
    "brick": ((0.20, 0.05, 0.04), (0.95, 0.62, 0.48)),
    "grass": ((0.02, 0.10, 0.03), (0.72, 0.95, 0.45)),
    "gravel": ((0.10, 0.08, 0.08), (0.92, 0.84, 0.74)),
    "coins": ((0.08, 0.07, 0.14), (1.00, 0.86, 0.60)),
}
"""Dark and light colour for tinting grey photographs."""

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def available() -> tuple[str, ...]:
    """Names of the installed photographs. Missing ones are logged once."""
    missing = [name for name in FILES if not _path(name)]
    if missing:
        packages = "scikit-image and scikit-learn"
        log.warning("No photograph %s: install %s. Their place is taken by painted ones.", ", ".join(missing), packages)
    return tuple(name for name in FILES if name not in missing)


def names(split: str) -> tuple[str, ...]:
    """Installed photographs of a split, "train" or "held-out"."""
    return tuple(name for name in available() if (name in HELD_OUT) == (split == "held-out"))


def _path(name: str) -> Path | None:
    package, path = FILES[name]
    # Finding a package does not import it, which takes a second for scikit-learn.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    found = Path(spec.submodule_search_locations[0]) / path
    return found if found.exists() else None


@lru_cache(maxsize=4)
def load(photos: tuple[str, ...], side: int, device: torch.device) -> torch.Tensor:
    """[N, 3, side, side] in 0..1, squeezed to squares; grey ones are tinted."""
    images = []
    for name in photos:
        path = _path(name)
        if path is None:
            raise ValueError(f"The photograph {name} is not installed.")
        picture = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
        if name in TINTS:
            dark, light = (torch.tensor(colour)[:, None, None] for colour in TINTS[name])
            image = torch.lerp(dark, light, image)
        images.append(image)
    return torch.stack(images).to(device)
