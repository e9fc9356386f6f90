"""How people would like a picture as an answer to its description: by a model that the user names, PickScore (arXiv 2305.01569) or HPSv2.

Such models are CLIPs that learned from people's choices between pictures of one prompt; their logit of picture and text is the score. Two
scores compare only if one model gave them.
"""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

import torch

from ..frames import Inputs
from . import hps
from .features import HubModel, load, processor_of, ready, text_alignment
from .metric import Metric

NAME, GAIN = "preference", "preference_gain"


def model_of(name: str) -> HubModel:
    """name: a folder, or a repository in Hugging Face's cache, of a CLIPModel of transformers with its processor; or a folder as in `hps`."""
    return HubModel(name, "main", "CLIPModel")


@torch.no_grad()
def preference(model: HubModel, frames: torch.Tensor, text: str) -> float:
    """Mean over the frames, [T, H, W, 3] uint8, of the score as pictures of the text."""
    folder = Path(model.folder())
    if (checkpoint := hps.checkpoint_in(folder)) is None:
        return text_alignment(*load(model), frames, text)
    network, processor = _in_hps_form(model, folder, checkpoint)
    return text_alignment(network, processor, hps.squared(frames, network.config.vision_config.image_size), text)


@lru_cache(maxsize=1)
def _in_hps_form(model: HubModel, folder: Path, checkpoint: Path):
    return hps.read(folder, checkpoint), processor_of(model)


def metric(name: str) -> Metric:
    """name: as in `model_of`."""
    model = model_of(name)
    return Metric(
        NAME, partial(_scores, model), "A named preference model's score of every frame as a picture of the target prompt, and that "
        "less the source's own.", ("target_prompt",), (NAME, GAIN), model=model.described, ready=partial(ready, model),
    )  # fmt: skip


def _scores(model: HubModel, inputs: Inputs) -> dict[str, float]:
    text = inputs.item.target_prompt
    score = preference(model, inputs.edit_as_made.frames, text)
    return {NAME: score, GAIN: score - preference(model, inputs.source, text)}
