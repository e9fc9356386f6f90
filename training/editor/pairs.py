"""Training pairs of a recipe's sources: encoded shards as they are, and raw pairs, which are encoded once into a cache."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ...checkpoint.files import replacing
from ...data.shards import INDEX, TENSORS, read_index, read_pair
from ...pipelines.encoded import encoded_clip, encoded_text
from ...video.clip import Clip, open_clip
from ...video.geometry import LATENT_STEP, fit_frames
from ...video.source import FileSource
from .settings import Data

Bucket = tuple[int, int, int]
"""Width, height and frames, in pixels."""


@dataclass(frozen=True)
class Raw:
    """Files of a pair, and what leads from the one to the other."""

    context: str
    target: str
    instruction: str


class Shards:
    """What `data.shards` wrote. buckets: of each pair."""

    def __init__(self, folder: Path):
        self.folder, self.rows = folder, read_index(folder)
        self.buckets: list[Bucket] = [tuple(row["bucket"]) for row in self.rows]

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return read_pair(self.folder, self.rows[number])


class Cached:
    """Raw pairs that are in the cache, all of them."""

    def __init__(self, files: Sequence[Path]):
        self.files = files
        self.buckets: list[Bucket] = [_bucket_of(file) for file in files]

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return load_file(self.files[number])


Pairs = Shards | Cached


def shards_of(path: Path) -> Path | None:
    """The folder of shards that a source's path stands for, None for raw pairs."""
    return next((folder for folder in (path / "shards", path) if (folder / INDEX).is_file()), None)


def read_raw(path: Path) -> list[Raw]:
    """Of a .jsonl, or of a folder that holds a pairs.jsonl or NAME.context.mp4, NAME.target.mp4 and NAME.txt. Raises ValueError in one sentence."""
    if path.is_dir() and not (path / "pairs.jsonl").is_file():
        return _of_folder(path)
    file = path / "pairs.jsonl" if path.is_dir() else path
    found = []
    try:
        with open(file, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if row.get("status", "accepted") != "accepted":
                    continue
                if not all(isinstance(row.get(name), str) for name in ("context", "target", "instruction")):
                    raise ValueError(f"line {number} lacks context, target or instruction")
                named = (str(file.resolve().parent / row[name]) for name in ("context", "target"))
                found.append(Raw(*named, row["instruction"]))
    except OSError as error:
        raise ValueError(f"The source {path} cannot be read ({error.strerror}): check the name.") from None
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"The source {path} is no list of pairs ({error}): write lines of context, target and instruction."
        ) from None
    return _checked(found, path)


def _of_folder(folder: Path) -> list[Raw]:
    found = []
    for context in sorted(folder.glob("*.context.*")):
        name = context.name.partition(".context.")[0]
        target, text = folder / context.name.replace(".context.", ".target."), folder / f"{name}.txt"
        if not text.is_file():
            raise ValueError(f"{context} has no {text.name} beside it: write the instruction into it.")
        try:
            found.append(Raw(str(context), str(target), text.read_text(encoding="utf-8-sig").strip()))
        except UnicodeDecodeError:
            raise ValueError(f"{text} is not UTF-8: save the instruction as that.") from None
    return _checked(found, folder)


def _checked(found: list[Raw], path: Path) -> list[Raw]:
    if not found:
        raise ValueError(
            f"The source {path} holds no pair: name an export of liveditor data, a .jsonl, or a folder of NAME.context.mp4, "
            "NAME.target.mp4 and NAME.txt."
        )
    if missing := next((file for raw in found for file in (raw.context, raw.target) if not Path(file).is_file()), None):
        raise ValueError(f"The source {path} names {missing}, which is not there: check the name.")
    return found


def cache_file(raw: Raw, data: Data, encoders: str, folder: Path) -> Path:
    """Where the pair is kept. Another file, text, encoder or setting has another name. encoders: `identity` of VAE and text encoder."""
    files = [[file, (state := Path(file).stat()).st_size, state.st_mtime_ns] for file in (raw.context, raw.target)]
    facts = json.dumps([files, raw.instruction, data.buckets, data.fps, encoders])
    return folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.safetensors"


def identity(paths: Sequence[Path]) -> str:
    """Changes with the files, or those in the folders, that encode."""
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.safetensors")))]
    return json.dumps([[file.name, (state := file.stat()).st_size, state.st_mtime_ns] for file in files])


def encode(pipe, raw: Raw, data: Data) -> tuple[Bucket, dict[str, torch.Tensor]]:
    """The pair's bucket, and its TENSORS in bf16. Raises ValueError in one sentence for clips that cannot be read."""
    most = max(frames for _, _, frames in data.buckets)
    clips = [open_clip(FileSource(file), most, data.fps, sound=False) for file in (raw.context, raw.target)]
    width, height, frames = bucket = bucket_for(clips[0].shown_size, min(clip.frames for clip in clips), data.buckets)
    tensors = {
        role: encoded_clip(pipe, _fitted(clip, width, height, frames)) for role, clip in zip(("context", "target"), clips)
    }
    return bucket, tensors | {"text": encoded_text(pipe, raw.instruction)}


def write_cached(file: Path, bucket: Bucket, tensors: dict[str, torch.Tensor]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        save_file({name: tensors[name] for name in TENSORS}, partial, {"bucket": json.dumps(bucket)})


def bucket_for(size: tuple[float, float], frames: int, buckets: Sequence[Bucket]) -> Bucket:
    """The nearest in shape; of several, the longest that the clip fills. A shorter clip has fewer frames, 4n+1."""

    def off(bucket: Bucket) -> float:
        return abs(math.log(bucket[0] / bucket[1]) - math.log(size[0] / size[1]))

    nearest = min(map(off, buckets))
    fitting = [bucket for bucket in buckets if off(bucket) < nearest + 1e-9]
    width, height, most = max(fitting, key=lambda bucket: (bucket[2] <= frames, min(bucket[2], frames), -bucket[2]))
    return width, height, min(most, frames - (frames - 1) % LATENT_STEP)


def _fitted(clip: Clip, width: int, height: int, frames: int) -> Iterator[torch.Tensor]:
    for chunk in clip.chunks():
        if frames <= 0:
            return
        yield fit_frames(chunk[:frames], width, height, clip.pixel_aspect)[0]
        frames -= len(chunk)


def _bucket_of(file: Path) -> Bucket:
    try:
        with safe_open(file, "pt") as opened:
            return tuple(json.loads(opened.metadata()["bucket"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} of the cache is damaged ({error}): delete it, and it is encoded again.") from None
