"""FLUX Kontext and FLUX.2: [text | target | reference images], in the blocks of two streams and in those of one. Text stays exact."""

from __future__ import annotations

from collections.abc import Sequence

from ...isa_core import TokenLayout
from ...runtime import decisions
from .keeping import Keeps
from .parts import Part, frames_of, grid_of, over_first, tokens_of


def layout(network, inputs: dict) -> TokenLayout | str:
    references = inputs.get("ref_latents")
    if not references:
        return decisions.no_context("give the model a ReferenceLatent")
    patch = patch_of(network)
    images = [("target", inputs["x"]), *(("context", latent) for latent in references)]
    text = ("exact", inputs["context"].shape[1])
    return TokenLayout.of(text, *((kind, tokens_of(latent, patch)) for kind, latent in images))


def patch_of(network) -> tuple[int, int, int]:
    return 1, network.patch_size, network.patch_size


def blocks(network) -> list[tuple[str, int]]:
    kinds = ("double_block", network.double_blocks), ("single_block", network.single_blocks)
    return [(kind, number) for kind, of_kind in kinds for number in range(len(of_kind))]


def placed_by(inputs: dict) -> tuple:
    """LongCat-Image, of the same class, shifts all pictures by the text's length."""
    shifts = inputs["transformer_options"].get("rope_options") or {}
    return inputs.get("ref_latents_method"), *sorted(shifts.items())


KEEPS = Keeps(
    of_call=lambda inputs: inputs.get("ref_latents") or [],
    of_condition=lambda cond: cond.get("reference_latents") or [],
    patch=patch_of,
    width=lambda network: (network.hidden_size, network.hidden_size // network.num_heads),
    placed_by=placed_by,
)


def parts(base, cond: dict, shapes: Sequence) -> list[Part]:
    patch = patch_of(base.diffusion_model)
    contexts = [
        Part(grid_of(latent.shape, patch), frames_of(latent, base.latent_format))
        for latent in cond.get("reference_latents") or ()
    ]
    return over_first(grid_of(shapes[0], patch), contexts) if contexts else []
