"""UMT5 in transformers, from ComfyUI's files too: XXL, and smaller ones whose files list the words that they know."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from tokenizers import normalizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel
from transformers.convert_slow_tokenizer import SpmConverter, import_protobuf

from ..checkpoint.keys import CheckpointError
from ..checkpoint.opening import Checkpoint, open_checkpoint
from ..checkpoint.scaled import Unscaled
from ..checkpoint.vocabulary import LONGEST_TEXT, check_texts, unknown_words
from ..errors import is_out_of_memory
from ..optional import needed
from . import EXTRA
from .folders import library_fault, load_part, part_folder, said_of, words_of

logger = logging.getLogger(__name__)

TEXT_LENGTH = 512
"""Number of tokens to which texts for UMT5-XXL are padded, as in Wan's training."""

TOKENIZER = "spiece_model"
"""Key of the bytes of a sentencepiece model in ComfyUI's files."""

CURE = "pick umt5_xxl_fp8_e4m3fn_scaled.safetensors or umt5_xxl_fp16.safetensors"
"""For the end of a sentence about another file."""


def load_text_encoder(
    path: str | Path, dtype: torch.dtype | None = torch.bfloat16
) -> tuple[PreTrainedTokenizerBase, UMT5EncoderModel]:
    """Tokenizer and encoder; `text_length` and `unknown_to` do what else ComfyUI does with a text.

    path: umt5_xxl_fp16.safetensors, umt5_xxl_fp8_e4m3fn_scaled.safetensors or another width's, or a folder in diffusers'
    layout: a whole pipeline's, or one that holds both.
    dtype: of weights and computation; fp8 weights are put back to it one by one. None: as in a file, fp32 of fp8 weights.
    ComfyUI computes in fp32.
    Raises CheckpointError for anything else or a damaged file, OSError where there is none.
    """
    path = Path(path)
    if not path.is_dir():
        return _from_file(Unscaled(open_checkpoint(path), CURE), dtype)
    encoder = load_part(UMT5EncoderModel, path, "text_encoder", dtype)
    place = part_folder(path, "tokenizer")
    with said_of(place, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(str(place), local_files_only=True)
    return tokenizer, encoder


def text_length(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """The `max_sequence_length` with which a text is embedded as in ComfyUI: the model's own length, or that of a longer text.

    ComfyUI cuts no text off, so longer ones have longer embeddings.
    """
    return max(own_length(tokenizer), len(tokenizer(text, verbose=False).input_ids))


def own_length(tokenizer: PreTrainedTokenizerBase) -> int:
    """Number of tokens to which the model's shorter texts are padded."""
    return tokenizer.model_max_length if tokenizer.model_max_length <= LONGEST_TEXT else TEXT_LENGTH


def embedded_lengths(embeddings: torch.Tensor, own: int) -> list[int]:
    """Numbers of tokens of texts that were embedded in one batch, [B, L, D], each as `text_length` says for the text alone.

    own: the model's own length. Behind a text's end, embeddings are zeros. Waits for the device where a text is longer than `own`.
    """
    batch, length = embeddings.shape[:2]
    if length <= own:
        return [length] * batch
    numbers = torch.arange(1, length + 1, device=embeddings.device)
    ends = (embeddings.ne(0).any(-1) * numbers).amax(1)
    return ends.clamp(min=own).tolist()


def unknown_to(encoder: UMT5EncoderModel, text: str) -> list[str]:
    """Words of the text that a small encoder does not know; they are logged. A large one knows all words."""
    known = getattr(encoder.config, "known_words", None)
    unknown = unknown_words(text, frozenset(known)) if known else []
    if unknown:
        logger.warning("The text encoder was never taught: %s", ", ".join(unknown))
    return unknown


def _from_file(checkpoint: Checkpoint, dtype: torch.dtype | None) -> tuple[PreTrainedTokenizerFast, UMT5EncoderModel]:
    name = checkpoint.path.name
    if not {"shared.weight", "encoder.final_layer_norm.weight", TOKENIZER} <= set(checkpoint.shapes):
        raise CheckpointError(f"{name} is not a UMT5 text encoder with its tokenizer inside: {CURE}.")
    for module, package in (("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf")):
        needed(module, package, EXTRA)  # to read the tokenizer
    try:
        own = json.loads(checkpoint.metadata.get("config", "{}")).get("text_encoder", {})
        check_texts(own)
        tokenizer = _tokenizer(bytes(checkpoint.tensor(TOKENIZER).numpy()), own.get("min_length", TEXT_LENGTH))
        encoder = _empty_encoder(checkpoint.shapes, own.get("words", []))
        if len(tokenizer) > encoder.config.vocab_size:
            raise ValueError(f"it embeds {encoder.config.vocab_size} of the {len(tokenizer)} tokens of its tokenizer")
    except Exception as error:  # damaged bytes also raise protobuf's and tokenizers' own types
        if is_out_of_memory(error):
            raise
        raise library_fault(error, name) or CheckpointError(
            f"{name} does not fit ({words_of(error)}): it is damaged or another model, download it again."
        ) from error
    weights = {weight: _weight(checkpoint, weight, dtype) for weight in _expected(encoder)}
    # The input embedding has a second name.
    encoder.load_state_dict({**weights, "encoder.embed_tokens.weight": weights["shared.weight"]}, assign=True)
    encoder.tie_weights()
    return tokenizer, encoder.eval().requires_grad_(False)


def _tokenizer(model: bytes, length: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a sentencepiece model: the same ids, except that special tokens spelled in a text, as "</s>", are recognised."""
    proto = import_protobuf().ModelProto.FromString(model)
    pad, end, unknown = proto.pieces[0], proto.pieces[1], proto.pieces[proto.trainer_spec.unk_id]
    if proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM or not (
        pad.type == end.type == pad.CONTROL and unknown.type == unknown.UNKNOWN
    ):
        raise ValueError("its tokenizer is not of UMT5's kind")
    fast = SpmConverter.build_tokenizer_from_spm_proto(proto, [(piece.piece, piece.score) for piece in proto.pieces])
    if "nfkc" in proto.normalizer_spec.name:
        # Letters with several combining accents, and decomposed Korean, as in Apple's file names: `tokenizers` looks up each
        # as a whole and would lose parts.
        fast.normalizer = normalizers.Sequence([normalizers.NFC(), fast.normalizer])
    fast.post_processor = processors.TemplateProcessing(
        single=["$A", end.piece], pair=["$A", end.piece, "$B", end.piece], special_tokens=[(end.piece, 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        pad_token=pad.piece,
        eos_token=end.piece,
        unk_token=unknown.piece,
        model_max_length=length,
    )


def _empty_encoder(shapes: dict[str, tuple[int, ...]], words: list[str]) -> UMT5EncoderModel:
    """An encoder of the size given by the weights' shapes, without weights. Raises ValueError unless the names match."""
    attention = "encoder.block.0.layer.0.SelfAttention"
    try:
        heads = shapes[f"{attention}.relative_attention_bias.weight"][1]
        config = UMT5Config(
            vocab_size=shapes["shared.weight"][0],
            d_model=shapes["shared.weight"][1],
            d_kv=shapes[f"{attention}.q.weight"][0] // heads,
            d_ff=shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
            num_heads=heads,
            num_layers=len({name.split(".")[2] for name in shapes if name.startswith("encoder.block.")}),
            relative_attention_num_buckets=shapes[f"{attention}.relative_attention_bias.weight"][0],
            known_words=words,
        )
    except (LookupError, ZeroDivisionError):
        raise ValueError("its first layer is not UMT5's") from None
    with torch.device("meta"):
        encoder = UMT5EncoderModel(config)
    expected = _expected(encoder)
    given = {name: shape for name, shape in shapes.items() if name not in (TOKENIZER, "encoder.embed_tokens.weight")}
    if wrong := [name for name in {**expected, **given} if given.get(name) != expected.get(name)]:
        raise ValueError(f"{len(wrong)} weights are missing, unknown or misshapen, {wrong[0]} for one")
    return encoder


def _expected(encoder: UMT5EncoderModel) -> dict[str, tuple[int, ...]]:
    weights = encoder.state_dict().items()
    return {name: tuple(weight.shape) for name, weight in weights if name != "encoder.embed_tokens.weight"}


def _weight(checkpoint: Checkpoint, name: str, dtype: torch.dtype | None) -> torch.Tensor:
    weight = checkpoint.tensor(name)
    # These overflow in fp16; transformers keeps them in fp32 too.
    if dtype == torch.float16 and set(name.split(".")) & set(UMT5EncoderModel._keep_in_fp32_modules):
        dtype = torch.float32
    return weight.to(dtype)
