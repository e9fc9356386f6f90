"""The text encoder and the VAE of a model, while pairs are encoded, and what training keeps of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from ...checkpoint.files import replacing
from ...checkpoint.included import path_of
from ...pipelines.encoded import encoded_text
from ...pipelines.pipeline import LIVEditorPipeline
from ...pipelines.request import ModelChoice
from ...pipelines.text_encoder import load_text_encoder, own_length
from ...pipelines.vae import CHANNELS, load_vae
from .. import processes
from .pairs import Cached, Pairs, Raw, Shards, cache_file, encode, identity, read_raw, shards_of, write_cached
from .parallel import Spread
from .recipe import Recipe
from .settings import Model


@dataclass(frozen=True)
class Texts:
    """empty: the embedded empty text, [tokens, width]. own: the length to which the model's shorter texts are filled up."""

    empty: torch.Tensor
    own: int


def paths_of(model: Model) -> tuple[Path, Path]:
    """Of text encoder and VAE: files, or folders in diffusers' layout."""
    if model.start == ModelChoice.model:
        return Path(path_of("text_encoder")), Path(path_of("vae"))
    start = Path(model.start)
    if start.is_dir():
        return Path(model.text_encoder or start / "text_encoder"), Path(model.vae or start / "vae")
    assert model.text_encoder and model.vae
    return Path(model.text_encoder), Path(model.vae)


def open_encoders(model: Model, device: torch.device, dtype: torch.dtype) -> LIVEditorPipeline:
    """A pipeline without its network. Raises CheckpointError or ValueError naming what is wrong with a file."""
    text, vae = paths_of(model)
    if Path(model.start).is_dir():  # whose tokenizer lies beside its text encoder
        text = Path(model.text_encoder or model.start)
    return LIVEditorPipeline.of_parts(*load_text_encoder(text, dtype), load_vae(vae, dtype), None).to(device)


class Sources:
    """The pairs of all sources of a recipe, encoded. Raises ValueError in one sentence for one that cannot be read.

    cache: folder of what is encoded here. Each process encodes its share; the others wait for it.
    """

    def __init__(self, recipe: Recipe, cache: Path, spread: Spread, progress: bool = False):
        self.recipe, self.cache, self.spread, self.progress = recipe, cache, spread, progress
        self.model = recipe.model
        self.encoders = identity(paths_of(self.model))
        self._pipe: LIVEditorPipeline | None = None
        paths = {source.path for stage in recipe.stage for source in stage.sources}
        raw = {path: read_raw(Path(path)) for path in sorted(paths) if shards_of(Path(path)) is None}
        with self._opened():
            self.texts = self._texts()
            for pairs in raw.values():
                self._encode(pairs)
        processes.wait()
        self.pairs: dict[str, Pairs] = {path: self._pairs(path, raw.get(path)) for path in paths}

    def _pairs(self, path: str, raw: list[Raw] | None) -> Pairs:
        if raw is not None:
            return Cached([self._file(one) for one in raw])
        folder = shards_of(Path(path))
        assert folder
        shards = Shards(folder)
        if not shards.rows:
            raise ValueError(f"The source {path} holds no encoded pair: export accepted pairs, or name raw ones.")
        pair = shards[0]
        if pair["text"].shape[-1] != self.texts.empty.shape[-1] or len(pair["target"]) != CHANNELS:
            raise ValueError(
                f"The source {path} was encoded by another text encoder or VAE than the recipe's: export it with those, or name raw pairs."
            )
        return shards

    @contextmanager
    def _opened(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._pipe = None  # text encoder and VAE make room for the network
            if self.spread.device.type == "cuda":
                torch.cuda.empty_cache()

    @property
    def pipe(self) -> LIVEditorPipeline:
        if self._pipe is None:
            self._pipe = open_encoders(self.model, self.spread.device, self.spread.dtype)
        return self._pipe

    def _file(self, raw: Raw) -> Path:
        return cache_file(raw, self.recipe.data, self.encoders, self.cache)

    def _encode(self, pairs: list[Raw]) -> None:
        missing = [
            (raw, file) for raw in pairs[processes.rank() :: processes.count()] if not (file := self._file(raw)).is_file()
        ]
        for raw, file in tqdm(missing, "encoding", disable=not (missing and self.progress), unit="pair"):
            try:
                write_cached(file, *encode(self.pipe, raw, self.recipe.data))
            except ValueError as error:
                raise ValueError(f"The pair of {raw.target} cannot be encoded ({error}): repair it, or take it out.") from None

    def _texts(self) -> Texts:
        """Every process's first call makes the file where it is missing; they are the same."""
        file = self.cache / f"empty-{abs(hash_of(self.encoders)):x}.safetensors"
        if not file.is_file():
            tensors = {"text": encoded_text(self.pipe, "")}
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as partial:
                save_file(tensors, partial, {"own": json.dumps(own_length(self.pipe.tokenizer))})
        try:
            with safe_open(file, "pt") as opened:
                return Texts(opened.get_tensor("text"), json.loads(opened.metadata()["own"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} of the cache is damaged ({error}): delete it, and it is made again.") from None


def hash_of(text: str) -> int:
    """The same in every process."""
    return int.from_bytes(text.encode(), "big") % (2**61 - 1)
