"""SCAIL and SCAIL-2: [reference frames | target | pose video]. References lie in front in time, the pose behind, often at half size."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...isa_core import TokenLayout
from ...runtime import decisions
from . import bernini
from .keeping import Keeps
from .parts import Part, frames_of, grid_of, over_first, tokens_of


def layout(network, inputs: dict) -> TokenLayout | str:
    if inputs.get("time_dim_concat") is not None:
        return decisions.added_frames("time_dim_concat")
    before, after = inputs.get("reference_latent"), inputs.get("pose_latents")
    if before is None and after is None:
        return decisions.no_context("connect a reference image or a pose video")
    order = [("context", before), ("target", inputs["x"]), ("context", after)]
    found = TokenLayout.of(*((kind, tokens_of(latent, network.patch_size)) for kind, latent in order if latent is not None))
    text = inputs.get("context")
    return decisions.text_as_long(found.total) if text is not None and found.total == text.shape[1] else found


def of_call(inputs: dict) -> list[torch.Tensor]:
    return [latent for name in ("reference_latent", "pose_latents") if (latent := inputs.get(name)) is not None]


def of_condition(cond: dict) -> list[torch.Tensor]:
    pose = cond.get("pose_video_latent")
    return [*(cond.get("reference_latents") or ()), *([] if pose is None else [pose])]


KEEPS = Keeps(
    of_call,
    of_condition,
    patch=bernini.KEEPS.patch,
    width=bernini.KEEPS.width,
    placed_by=lambda inputs: inputs.get("ref_mask_flag"),
)


def parts(base, cond: dict, shapes: Sequence) -> list[Part]:
    references, pose = cond.get("reference_latents"), cond.get("pose_video_latent")
    # Core puts the first reference next to the video.
    before = [torch.cat([*references[1:], *references[:1]], dim=2)] if references else []
    latents = [*before, *([] if pose is None else [pose])]
    patch = base.diffusion_model.patch_size
    contexts = [Part(grid_of(latent.shape, patch), frames_of(latent, base.latent_format)) for latent in latents]
    return over_first(grid_of(shapes[0], patch), contexts) if contexts else []
