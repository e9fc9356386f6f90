"""A judge in this process: a VLM of transformers in a folder that the user names, Qwen2.5-VL or Qwen3-VL for one."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ...checkpoint.keys import CheckpointError
from ...errors import UnreachableError
from ...optional import needed
from ...pipelines.folders import said_of
from ...pipelines.request import ModelChoice
from .. import EXTRA
from ..weights import folder_stamp
from .client import Reply

LONGEST = 2048
"""Tokens of an answer."""


@dataclass(frozen=True)
class LocalVLM:
    """In the place of an `Endpoint`. folder: of the model and its processor. device: as in `ModelChoice`; the type is that of `auto` there.

    It answers without chance, so that a question is put once.
    """

    folder: str
    device: str = "auto"
    attempts: int = 1
    temperature: float = 0.0

    def __post_init__(self):
        if not (Path(self.folder) / "config.json").is_file():
            raise ValueError(
                f"{self.folder} is no folder of a model of transformers: name one with config.json and its weights."
            )

    @property
    def model(self) -> str:
        """For records: other weights are another judge."""
        return folder_stamp(Path(self.folder))

    def reply(self, messages: list[dict]) -> Reply:
        """Raises UnreachableError, a sentence, where the model cannot be loaded."""
        try:
            model, processor = _loaded(self.folder, self.device)
        except (ValueError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise UnreachableError(str(error)) from None
        inputs = processor.apply_chat_template(
            _shown(messages), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(model.device, dtype=model.dtype)
        with torch.no_grad():
            made = model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
        answer = processor.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return Reply(answer, self.model, made.shape[1])


@lru_cache(maxsize=1)
def _loaded(folder: str, device: str) -> tuple[Any, Any]:
    from ...pipelines.edit import device_and_dtype  # imports diffusers, which takes seconds

    transformers = needed("transformers", "transformers", EXTRA)
    place, dtype = device_and_dtype(ModelChoice(device=device))
    with said_of(Path(folder), "VLM of transformers"):
        processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, local_files_only=True)
    if not getattr(processor, "chat_template", None):
        raise CheckpointError(f"{folder} has no chat template: take a VLM that was tuned to follow instructions.")
    return model.eval().to(place), processor


def _shown(messages: list[dict]) -> list[dict]:
    """OpenAI's messages as transformers' templates take them."""
    return [{"role": one["role"], "content": [_part(part) for part in _parts(one["content"])]} for one in messages]


def _parts(content: str | list[dict]) -> list[dict]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _part(part: dict) -> dict:
    from PIL import Image

    if part["type"] == "text":
        return part
    picture = base64.b64decode(part["image_url"]["url"].partition(",")[2])
    return {"type": "image", "image": Image.open(io.BytesIO(picture)).convert("RGB")}
