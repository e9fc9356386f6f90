"""Options for the choice of the model, which every command has."""

from __future__ import annotations

import argparse
from dataclasses import fields

from ..checkpoint.dtypes import DTYPES
from ..isa_core import ISAConfig
from ..isa_core.config import CONTEXT_TAILS, POLICIES, SHARPNESS_METRICS, TAIL_ORDERS
from ..pipelines.request import ModelChoice
from ..runtime.kept_context import KEEPING_COPIES, KEEPING_DEVICES, KEEPING_DTYPES

ISA_OPTIONS = {
    "keep_ratio": {"type": float, "help": "share of the context's blocks that each head keeps, 0..1"},
    "dense_query_ratio": {"type": float, "help": "share of the query blocks, the sharpest, that attend exactly, 0..1"},
    "exact_ratio": {"type": float, "help": "share of its blocks that another query block attends exactly, 0..1"},
    "sharpness": {"choices": SHARPNESS_METRICS, "help": "how sharpness is measured"},
    "sharpness_threshold": {
        "type": float,
        "help": "a query block attends exactly where its sharpness exceeds this, in place of --dense-query-ratio",
    },
    "context_tail": {"choices": CONTEXT_TAILS, "help": "what context blocks that were not kept contribute"},
    "policy": {
        "choices": POLICIES,
        "help": "what is attended exactly: isa, the paper's choice; error_aware, under one budget over all heads, --exact-ratio, the pairs "
        "of blocks that lose most by a mean; or segment_top_k, --exact-ratio of the target's blocks and of each context's, those that "
        "get most attention",
    },
    "error_threshold": {"type": float, "help": "error_aware: exact is what would lose this much, in place of --exact-ratio"},
    "block_size": {"type": int, "help": "tokens per block"},
    "tail_order": {"type": int, "choices": TAIL_ORDERS, "help": "order of the expansion by which blocks are weighed"},
}


def whole_number(text: str) -> int:
    """For argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on; got {text!r}")
    return int(text)


def frame_size(text: str) -> tuple[int, int]:
    """Width and height, for argparse."""
    width, by, height = text.lower().partition("x")
    if not (by and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"width and height, as in 832x480; got {text!r}")
    size = int(width), int(height)
    if not all(size) or any(side % 16 for side in size):
        raise argparse.ArgumentTypeError(f"multiples of 16; got {size[0]}×{size[1]}")
    return size


def add_model_options(parser: argparse.ArgumentParser):
    """Two groups of options; `model_choice` reads them."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        default=ModelChoice.model,
        help="tiny (the included one), a folder in diffusers' layout, or a LIVEditor checkpoint, .bin or .safetensors (default: tiny)",
    )
    model.add_argument("--text-encoder", metavar="FILE", help="umt5-xxl, beside a checkpoint, or in place of a folder's own")
    model.add_argument("--vae", metavar="FILE", help="Wan 2.1's VAE, beside a checkpoint, or in place of a folder's own")
    model.add_argument("--lora", metavar="FILE", action="append", default=[], help="a LoRA; may be given several times")
    model.add_argument(
        "--device", default=ModelChoice.device, help="auto, cpu, cuda or cuda:1 (default: auto, a GPU if there is one)"
    )
    model.add_argument(
        "--dtype",
        choices=("auto", *DTYPES),
        default=ModelChoice.dtype,
        help="what the transformer computes in (default: auto, bf16 on a GPU and fp32 on a CPU)",
    )
    model.add_argument(
        "--storage",
        choices=("auto", "fp8"),
        default=ModelChoice.storage,
        help="fp8 keeps the transformer's weights in 8 bits: half the memory (default: auto, as --dtype)",
    )
    model.add_argument(
        "--offload",
        choices=("none", "model", "layers"),
        default=ModelChoice.offload,
        help="what waits in main memory: nothing, the parts that do not run, or all layers but one (slow) (default: none)",
    )
    isa = parser.add_argument_group("In-context Sparse Attention (ISA)")
    isa.add_argument(
        "--isa", action=argparse.BooleanOptionalAction, default=True, help="sparse attention; --no-isa for full attention"
    )
    isa.add_argument(
        "--min-tokens", type=int, default=ModelChoice.min_tokens, metavar="N",
        help="shorter videos, in tokens of edit and context, have full attention all the same (default: %(default)s)",
    )  # fmt: skip
    add_isa_options(isa)
    model.add_argument(
        "--context-refresh", type=float, default=ModelChoice.context_refresh, metavar="X",
        help="compute the video to edit anew only where the noise level has moved so far, 0.5 to 2, instead of in every step: "
        "faster, and takes memory; 0: in every step (default: 1 with ISA, 0 with --no-isa)",
    )  # fmt: skip
    model.add_argument(
        "--context-device", choices=KEEPING_DEVICES, default=ModelChoice.context_device,
        help="where --context-refresh keeps what it reuses: gpu, cpu (main memory), or auto, the GPU if it has room (default: auto)",
    )  # fmt: skip
    model.add_argument(
        "--context-dtype", choices=KEEPING_DTYPES, default=ModelChoice.context_dtype,
        help="in what: default as computed, int8 in about half of the memory with a small error",
    )  # fmt: skip
    model.add_argument(
        "--context-copies", choices=KEEPING_COPIES, default=ModelChoice.context_copies,
        help="with guidance: each keeps a context for every pass, one keeps that of the pass with the instruction for all of them, "
        "in half of the memory with slightly different results (default: each)",
    )  # fmt: skip


def add_isa_options(group):
    """One option for each field of ISAConfig, to an argparse group or parser; `isa_choice` reads them."""
    for field in fields(ISAConfig):
        shown = "" if field.default is None else f" (default: {field.default})"
        option = ISA_OPTIONS[field.name]
        group.add_argument(f"--{field.name.replace('_', '-')}", **{**option, "help": option["help"] + shown})


def isa_choice(options: argparse.Namespace) -> ISAConfig:
    """Raises ValueError for a value out of range."""
    return ISAConfig(**_given(options))


def _given(options: argparse.Namespace) -> dict:
    return {name: value for name in ISA_OPTIONS if (value := getattr(options, name)) is not None}


def model_choice(options: argparse.Namespace) -> ModelChoice:
    """Raises ValueError in one sentence for settings that do not go together."""
    if (chosen := _given(options)) and not options.isa:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in chosen)
        raise ValueError(f"{names} is a setting of sparse attention, which --no-isa turns off: leave one of the two out.")
    return ModelChoice(
        model=options.model,
        text_encoder=options.text_encoder,
        vae=options.vae,
        dtype=options.dtype,
        storage=options.storage,
        offload=options.offload,
        device=options.device,
        isa=isa_choice(options) if options.isa else None,
        min_tokens=options.min_tokens,
        loras=tuple(options.lora),
        context_refresh=options.context_refresh,
        context_device=options.context_device,
        context_dtype=options.context_dtype,
        context_copies=options.context_copies,
    )
