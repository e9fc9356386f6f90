"""Names and shapes of LIVEditor's weights: mapping to the official (= ComfyUI's) names, and the list of required weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

MEMORY = "source_video_embedding_more_memory"
"""The second patch embedding, which distinguishes LIVEditor from plain Wan."""

WRAPPERS = ("wanx_unimodel.guidance_model.feedforward_model.", "model.diffusion_model.", "module.", "model.")
EMA = "model_ema."

OFFICIAL_BLOCKS: dict[tuple[int, ...], int] = {(5120,): 40}
"""Transformer blocks of released models, by width."""

QUANTISATION = (".scale_weight", ".scale_input", ".weight_scale", ".weight_scale_2", ".input_scale", ".comfy_quant")
"""Endings of entries that accompany a quantised weight."""

SCALED_FP8 = "scaled_fp8"
"""Entry by which core knows a file of fp8 weights with scales; with two elements, core multiplies in full precision."""

FROM_DIFFUSERS = [
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^proj_out\.", "head.head."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"\.scale_shift_table$", ".modulation"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_(q|k|v)\.", r".\1."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
    # Wan counts its norms in order of definition, diffusers in order of use: the affine one is norm3 there, norm2 here.
    (r"\.norm2\.", ".norm3."),
]


class CheckpointError(ValueError):
    """The checkpoint is not LIVEditor's. The message is one sentence with cause and remedy."""


def official_names(raw_names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """({official name: raw name}, notes for the user). EMA weights win over the raw ones; VAE and optimiser state are left out."""
    plain: dict[str, str] = {}
    averaged: dict[str, str] = {}
    raw_names = list(raw_names)
    is_diffusers = any("condition_embedder." in name for name in raw_names)
    for raw in raw_names:
        name, is_ema = _unwrapped(raw)
        if name.startswith("vae.") or "optimizer" in name or "scheduler" in name:
            continue
        if is_ema and name in ("decay", "num_updates"):
            continue
        name = name.replace(".weight.lora", ".lora.")
        name = from_diffusers(name) if is_diffusers else name
        (averaged if is_ema else plain)[name] = raw
    notes = ["The checkpoint holds EMA weights; they are used"] if averaged else []
    return {**plain, **averaged}, notes


def from_diffusers(name: str, separator: str = ".") -> str:
    """The official name of a weight that diffusers calls `name`. separator: "_" for the names that kohya's tools make of both."""
    for pattern, replacement in FROM_DIFFUSERS:
        name = re.sub(pattern.replace(r"\.", re.escape(separator)), replacement.replace(".", separator), name)
    return name


def _unwrapped(name: str) -> tuple[str, bool]:
    is_ema = False
    while True:
        if name.startswith(EMA):
            name, is_ema = name.removeprefix(EMA), True
        elif wrapper := next((wrapper for wrapper in WRAPPERS if name.startswith(wrapper)), None):
            name = name.removeprefix(wrapper)
        else:
            return name, is_ema


def is_dead_weight(name: str) -> bool:
    """Gates in the checkpoint that inference does not use: all of cross-attention's, and every `alpha_2`."""
    return ".cross_attn.alpha_" in name or ".self_attn.alpha_2." in name


def is_quantisation(name: str) -> bool:
    return name.endswith(QUANTISATION) or name == SCALED_FP8


def expected_shapes(dim: int, ffn_dim: int, text_dim: int, blocks: int, channels: int = 16) -> dict[str, tuple[int, ...]]:
    """{official name: shape} of the weights that inference needs. At 40 blocks, 1,095 are Wan's and 42 LIVEditor's own."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name, rows, columns):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

    for name in ("patch_embedding", MEMORY):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (dim, channels, 1, 2, 2), (dim,)
    linear("text_embedding.0", dim, text_dim)
    linear("text_embedding.2", dim, dim)
    linear("time_embedding.0", dim, 256)
    linear("time_embedding.2", dim, dim)
    linear("time_projection.1", 6 * dim, dim)
    for block in (f"blocks.{index}" for index in range(blocks)):
        for attention in (f"{block}.self_attn", f"{block}.cross_attn"):
            for projection in "qkvo":
                linear(f"{attention}.{projection}", dim, dim)
            shapes[f"{attention}.norm_q.weight"] = shapes[f"{attention}.norm_k.weight"] = (dim,)
        shapes[f"{block}.self_attn.alpha_1.weight"] = (1, dim)
        shapes[f"{block}.norm3.weight"] = shapes[f"{block}.norm3.bias"] = (dim,)
        linear(f"{block}.ffn.0", ffn_dim, dim)
        linear(f"{block}.ffn.2", dim, ffn_dim)
        shapes[f"{block}.modulation"] = (1, 6, dim)
    linear("head.head", 4 * channels, dim)
    shapes["head.modulation"] = (1, 2, dim)
    return shapes


def block_count(names: Iterable[str]) -> int:
    """Number of transformer blocks among official names; at least one."""
    # At most three digits, so that a damaged name cannot produce a list of a billion blocks.
    return 1 + max(int(match[1]) for name in names if (match := re.match(r"blocks\.(\d{1,3})\.", name)))


def core_metadata(shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """File metadata for what core cannot derive from the weights: it assumes the text width of UMT5-XXL."""
    text_dim = shapes["text_embedding.0.weight"][1]
    return {} if text_dim == 4096 else {"config": json.dumps({"transformer": {"text_dim": text_dim}})}


def check_keys(shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise unless `shapes`, by official name, are those of a complete LIVEditor.

    Raises CheckpointError that says what the file is instead, or names the first missing, unexpected or misshapen weights.
    """
    weights = {name: tuple(shape) for name, shape in shapes.items() if not is_quantisation(name) and not is_dead_weight(name)}
    missing = [name for name in ("head.modulation", "blocks.0.ffn.0.weight") if name not in weights]
    if missing and f"{MEMORY}.weight" in weights:
        raise _damaged(f"lacks {' and '.join(missing)}")
    if missing:
        if any("lora" in name for name in weights):
            raise CheckpointError(
                "This file is a LoRA, not a model: load LIVEditor here and add the LoRA with Load LoRA behind it."
            )
        raise CheckpointError(
            "This is not a LIVEditor checkpoint, nor any Wan model: pick liveditor_ckpt.bin or a conversion of it."
        )
    if f"{MEMORY}.weight" not in weights:
        raise CheckpointError(
            f"This is a plain Wan checkpoint: it lacks {MEMORY}.weight, through which LIVEditor sees the video. "
            "Pick liveditor_ckpt.bin or a conversion of it."
        )
    # Counting cannot notice missing blocks at the end. For the official size the number is known.
    blocks = OFFICIAL_BLOCKS.get(weights["head.modulation"][-1:], block_count(weights))
    # The 0: damaged shapes may be empty.
    dim, ffn_dim = (0, *weights["head.modulation"])[-1], (*weights["blocks.0.ffn.0.weight"], 0)[0]
    expected = expected_shapes(dim, ffn_dim, (0, *weights.get("text_embedding.0.weight", (4096,)))[-1], blocks)
    # A packed weight has another shape, which core's quantised loader handles.
    packed = {name.removesuffix(".comfy_quant") + ".weight" for name in shapes if name.endswith(".comfy_quant")}
    problems = {
        "lacks": [name for name in expected if name not in weights],
        "has unknown": [name for name in weights if name not in expected],
        "has misshapen": [n for n, shape in expected.items() if weights.get(n, shape) != shape and n not in packed],
    }
    faults = [
        f"{what} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for what, names in problems.items()
        if names
    ]
    if faults:
        raise _damaged("; it ".join(faults))


def _damaged(how: str) -> CheckpointError:
    return CheckpointError(f"This LIVEditor checkpoint is damaged or of another version: it {how}. Download it again.")
