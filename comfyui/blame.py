"""Whether a file is to blame where core cannot build the model in it. Only then is it called damaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path

import comfy.ldm.wan.vae
import comfy.model_management
import comfy.ops
import comfy.text_encoders.t5
import comfy.text_encoders.wan
import torch

from ..checkpoint.keys import CheckpointError, is_quantisation
from ..errors import is_out_of_memory
from ..optional import needed

Shapes = Mapping[str, tuple[int, ...]]

OTHER_FAULTS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, TypeError, ValueError, RuntimeError)
"""What core and its libraries raise over a file, and over everything else. OSError has a sentence of its own."""


@contextmanager
def named(path: str, is_whole: Callable[[], bool]):
    """Turns an error of core into one sentence that names the file; core's message stays in the log.

    is_whole: whether the file holds the weights of the model that it should hold. It is called on an error alone, and may
    build an empty model of core's; if it raises, core is what cannot build such a model.
    Raises CheckpointError, RuntimeError for a file that is whole; where memory runs out, core's own exception comes out.
    """
    try:
        yield
    except OTHER_FAULTS as error:
        if isinstance(error, CheckpointError) or is_out_of_memory(error) or comfy.model_management.is_oom(error):
            raise
        name, words = Path(path).name, " ".join(str(error).split())[:200] or type(error).__name__
        if not _holds(is_whole):
            raise CheckpointError(
                f"{name} does not fit ({words}): it is damaged or another model, download it again."
            ) from error
        if comfy.model_management.force_channels_last():
            cure = "video models cannot be laid out as --force-channels-last asks, start ComfyUI without it"
        else:
            cure = "the file itself is whole, so look at ComfyUI's start options, its version and other custom nodes"
        raise RuntimeError(f"ComfyUI cannot build the model of {name} ({words}): {cure}.") from error


def _holds(is_whole: Callable[[], bool]) -> bool:
    try:
        return is_whole()
    except CheckpointError:
        return False
    except OTHER_FAULTS as error:
        if is_out_of_memory(error) or comfy.model_management.is_oom(error):
            raise
        return True


def whole_quantisation(weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether the entries beside quantised weights can be read; `check_keys` knows all others."""
    for name in filter(is_quantisation, weights):
        if name.endswith(".comfy_quant"):
            try:
                layout = json.loads(bytes(weights[name].tolist()))
            except (ValueError, TypeError):
                return False
            if not isinstance(layout, dict) or not isinstance(layout.get("format"), str):
                return False
        elif weights[name].dtype.is_floating_point and not torch.isfinite(weights[name].float()).all():
            return False
    return True


def text_encoder_shapes(config: dict) -> Shapes:
    network = comfy.text_encoders.t5.T5(config, torch.float32, "meta", comfy.ops.disable_weight_init)
    return {name: tuple(weight.shape) for name, weight in network.state_dict().items()}


def whole_text_encoder(shapes: Shapes, vocabulary: Callable[[], torch.Tensor], config: dict | None) -> bool:
    """config: of a small encoder; None for UMT5-XXL. vocabulary: reads the bytes of the tokenizer."""
    if config is None:
        home = Path(comfy.text_encoders.wan.__file__).parent
        config = json.loads((home / "umt5_config_xxl.json").read_text(encoding="utf-8"))
    if "spiece_model" not in shapes:
        return False
    processor = needed("sentencepiece", "sentencepiece").SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(bytes(vocabulary().tolist()))
    except (RuntimeError, TypeError, ValueError):
        return False
    own = {name: tuple(shape) for name, shape in shapes.items() if name != "spiece_model" and not is_quantisation(name)}
    return own == text_encoder_shapes(config)


def whole_vae(shapes: Shapes) -> bool:
    """Whether these are the weights of a Wan 2.1 VAE, of any width."""
    try:
        width, inputs, outputs = (
            shapes["decoder.head.0.gamma"][0], shapes["encoder.conv1.weight"][1], shapes["decoder.head.2.weight"][0],
        )  # fmt: skip
    except LookupError:
        return False
    with torch.device("meta"):
        network = comfy.ldm.wan.vae.WanVAE(
            dim=width, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
            temperal_downsample=[False, True, True], image_channels=inputs, conv_out_channels=outputs, dropout=0.0,
        )  # fmt: skip
    return {name: tuple(shape) for name, shape in shapes.items()} == {
        name: tuple(weight.shape) for name, weight in network.state_dict().items()
    }
