"""LIVEditor-tiny's network without scales, for comparisons in fp32: core rounds an fp8 weight anew where a LoRA changes it."""

from liveditor_isa.checkpoint.included import path_of
from liveditor_isa.checkpoint.keys import core_metadata
from liveditor_isa.checkpoint.opening import open_checkpoint
from liveditor_isa.checkpoint.scaled import Unscaled


def plain_tiny() -> tuple[dict, dict[str, str]]:
    """Weights and metadata, as `read_diffusion_model` gives them."""
    checkpoint = Unscaled(open_checkpoint(path_of("diffusion_model")))
    return checkpoint.tensors(), core_metadata(checkpoint.shapes)
