"""The small text encoder: core's UMT5 classes at a small size, with a vocabulary made from the instructions."""

from __future__ import annotations

import io
import json
import struct
from functools import lru_cache
from pathlib import Path

import comfy.ops
import sentencepiece
import torch
from comfy.ldm.modules.attention import optimized_attention_for_device
from comfy.text_encoders.t5 import T5
from safetensors.torch import save_file

from ...checkpoint.vocabulary import words
from ...data.procedural.edits import all_instructions

PAD, END, UNKNOWN = 0, 1, 2
LENGTH = 32
"""Tokens to which a shorter instruction is padded, as UMT5's are to 512."""

SENTENCES = 20_000
"""Number of instructions from which the vocabulary is made."""

SCORE = -10.0
"""Log-probability of a word that is added to a vocabulary: below the usual words', above that of any way to spell it."""

VOCABULARY = "spiece_model"
"""Key under which core reads the vocabulary from a text encoder's file."""

CONFIG = {
    "d_ff": 512, "d_kv": 32, "d_model": 256, "dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True,
    "layer_norm_epsilon": 1e-06, "model_type": "umt5", "num_heads": 8, "num_layers": 3, "vocab_size": 512,
}  # fmt: skip
"""In the form of core's own umt5_config files."""


@lru_cache
def vocabulary() -> bytes:
    """A sentencepiece model with UMT5's special tokens; upper and lower case are not distinguished.

    From one version of sentencepiece to the next it may be another, so weights are kept together with theirs.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=all_instructions(SENTENCES), model_writer=model, vocab_size=CONFIG["vocab_size"],
        hard_vocab_limit=False, normalization_rule_name="nmt_nfkc_cf", character_coverage=1.0, byte_fallback=False, pad_id=PAD, eos_id=END,
        unk_id=UNKNOWN, bos_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return with_filmed_words(model.getvalue())


@lru_cache
def with_filmed_words(model: bytes) -> bytes:
    """The vocabulary with more pieces at its end: the words that only instructions of filmed clips contain, and those that it cannot spell.

    It cuts all other text as before, so an encoder that was trained with it keeps what it has learnt.
    """
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    usual = known_words(filmed=False)
    new = [f"▁{word}" for word in sorted(known_words()) if word not in usual or UNKNOWN in pieces.encode(word)]
    added = [piece for piece in new if pieces.piece_to_id(piece) == UNKNOWN]
    return model + b"".join(_as_field(_as_field(piece.encode()) + struct.pack("<Bf", 0x15, SCORE)) for piece in added)


def _as_field(content: bytes) -> bytes:
    """Field 1 of a protocol buffer: `pieces` of sentencepiece's ModelProto, and `piece` of each; its `score` is field 2."""
    return bytes([0x0A, len(content)]) + content


@lru_cache
def known_words(filmed: bool = True) -> frozenset[str]:
    """Of the instructions; filmed: with those of filmed clips."""
    return frozenset(word for instruction in all_instructions(SENTENCES, filmed=filmed) for word in words(instruction))


class Tokenizer:
    """Converts instructions to token numbers, like core's tokenizer with the same vocabulary."""

    def __init__(self, model: bytes):
        self.pieces = sentencepiece.SentencePieceProcessor(model_proto=model, add_eos=True)

    def __call__(self, instructions: list[str]) -> torch.Tensor:
        """[B, L] int64, padded to LENGTH or to the longest."""
        rows = self.pieces.encode(instructions)
        length = max(LENGTH, *map(len, rows))
        return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])


def new_encoder(seed: int = 0) -> T5:
    """Core's encoder with random weights of T5's scales."""
    encoder = T5(CONFIG, torch.float32, None, comfy.ops.manual_cast)
    generator = torch.Generator().manual_seed(seed)
    width, inner = CONFIG["d_model"], CONFIG["d_kv"] * CONFIG["num_heads"]
    deviations = {"shared": 1.0, "q": (width * CONFIG["d_kv"]) ** -0.5, "wo": CONFIG["d_ff"] ** -0.5, "o": inner**-0.5}
    for name, weight in encoder.named_parameters():
        if "norm" in name:
            torch.nn.init.ones_(weight)
        else:
            # T5 has no scale in the attention; the queries' weights include it.
            torch.nn.init.normal_(weight, std=deviations.get(name.split(".")[-2], width**-0.5), generator=generator)
    return encoder


def encode_text(encoder: T5, tokens: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """tokens [B, L] -> [B, L, d_model] in `dtype`, zeros behind each end: what core's encoder gives, but differentiable.

    Core adds into its hidden states in place, which autograd cannot follow; layers and weights are core's.
    """
    ended = (tokens == END).cumsum(1) - (tokens == END).long()
    real = (ended == 0).to(dtype)
    mask = (1 - real)[:, None, None].expand(-1, 1, tokens.shape[1], -1)
    mask = mask.masked_fill(mask.bool(), -torch.finfo(dtype).max)
    attention = optimized_attention_for_device(tokens.device, mask=True, small_input=True)
    hidden = encoder.shared(tokens, out_dtype=dtype)
    for block in encoder.encoder.block:
        attend, feed_forward = block.layer
        hidden = hidden + attend.SelfAttention(attend.layer_norm(hidden), mask=mask, optimized_attention=attention)[0]
        hidden = hidden + feed_forward.DenseReluDense(feed_forward.layer_norm(hidden))
    return encoder.encoder.final_layer_norm(hidden) * real[..., None]


def save_encoder(weights: dict[str, torch.Tensor], model: bytes, path: Path):
    """A file that *Load LIVEditor* takes as its text encoder: weights in bf16, the vocabulary; sizes and words as metadata."""
    config = CONFIG | {"vocab_size": weights["shared.weight"].shape[0], "min_length": LENGTH, "words": sorted(known_words())}
    tensors = {name: weight.detach().bfloat16().cpu().contiguous() for name, weight in weights.items()}
    tensors[VOCABULARY] = torch.frombuffer(bytearray(model), dtype=torch.uint8)
    save_file(tensors, path, {"format": "pt", "config": json.dumps({"text_encoder": config})})


def saved_vocabulary(tensors: dict[str, torch.Tensor]) -> bytes:
    """Of a file of `save_encoder`."""
    return tensors[VOCABULARY].numpy().tobytes()


def without_vocabulary(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in a file of `save_encoder`."""
    return {name: tensor for name, tensor in tensors.items() if name != VOCABULARY}
