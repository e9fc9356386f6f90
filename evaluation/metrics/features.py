"""Features of frames by pretrained networks: how steady they are over time, and how near to the source's.

Models of Hugging Face are named with repository and revision and read from the user's cache; nothing is fetched. `mobilenet` needs
weights that a Python package ships; its columns bear its name, since no bench uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F

from ...optional import needed
from .. import EXTRA
from ..frames import Inputs, to_unit
from ..weights import TORCHVISION, file_of, folder_stamp, tensors_of
from .metric import Metric, NothingToMeasure

IMAGES_AT_A_TIME = 16


@dataclass(frozen=True)
class HubModel:
    """A repository of Hugging Face at a revision, or a folder. model_class: transformers' class of the model."""

    repository: str
    revision: str
    model_class: str
    processor: str | None = None
    """The repository of the processor, where it is another."""

    def folder(self, repository: str | None = None) -> str:
        """Its snapshot in the cache, or the folder. Raises RuntimeError, which says how to get it."""
        hub = needed("huggingface_hub", "huggingface_hub", EXTRA)
        repository = repository or self.repository
        if Path(repository).is_dir():
            return repository
        if Path(repository).is_file():
            raise RuntimeError(f"{repository} is a file: name the folder that has it, config.json and the processor's files.")
        revision = self.revision if repository == self.repository else "main"
        try:
            return hub.snapshot_download(repository, revision=revision, local_files_only=True)
        except Exception:
            raise RuntimeError(
                f"{repository} at {revision} is no folder, and not in Hugging Face's cache: fetch it with "
                f"hf download {repository} --revision {revision}, or ask for other metrics."
            ) from None

    def described(self) -> str:
        """The repository at the commit that the cache holds, or the folder with the size and time of its weights."""
        folder = Path(self.folder())
        if str(folder) != self.repository:
            return f"{self.repository}@{folder.name}"
        return folder_stamp(folder)


CLIP_L = HubModel("openai/clip-vit-large-patch14", "main", "CLIPModel")
CLIP_L_VISION = HubModel("openai/clip-vit-large-patch14", "main", "CLIPVisionModel")
DINOV2 = HubModel("facebook/dinov2-base", "main", "Dinov2Model")
PICK = HubModel("yuvalkirstain/PickScore_v1", "main", "CLIPModel", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K")
PROCESSORS = {
    "CLIPModel": "AutoProcessor",
    "AutoModelForZeroShotObjectDetection": "AutoProcessor",
    "Sam2Model": "Sam2Processor",  # which the files of SAM2 do not name: they are those of its model of videos too
}
"""Of classes that take something beside the pictures: text, or boxes. The others' is AutoImageProcessor."""
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""One of these is a processor's; newer versions of transformers write the second."""
TEXT_TOKENS = 77
PICK_LONGEST = 672
"""EditVerseBench shrinks frames for PickScore to this many pixels on the long side."""


def neighbours(features: torch.Tensor) -> float:
    """Mean cosine of neighbouring rows of [T, C], negative ones taken for 0: a temporal consistency."""
    if len(features) < 2:
        raise NothingToMeasure("One frame alone has no neighbour: consistency over time cannot be measured.")
    unit = F.normalize(features.float(), dim=-1)
    return float((unit[1:] * unit[:-1]).sum(-1).clamp(min=0).mean())


def pooled(model, processor, frames: torch.Tensor) -> torch.Tensor:
    """[T, C]: transformers' `pooler_output` of every frame, [T, H, W, 3] uint8."""
    return torch.cat([model(**_pixels(processor, part)).pooler_output for part in frames.split(IMAGES_AT_A_TIME)])


def image_features(model, processor, frames: torch.Tensor) -> torch.Tensor:
    """[T, C]: CLIP's projection of every frame."""
    found = [model.vision_model(**_pixels(processor.image_processor, part)) for part in frames.split(IMAGES_AT_A_TIME)]
    return torch.cat([model.visual_projection(one.pooler_output) for one in found])


def text_alignment(model, processor, frames: torch.Tensor, text: str) -> float:
    """exp(logit_scale) times the cosine of CLIP's projections of every frame and of the text, cut to 77 tokens; the mean over the frames."""
    words = processor.tokenizer([text], padding=True, truncation=True, max_length=TEXT_TOKENS, return_tensors="pt")
    scores = []
    for part in frames.split(IMAGES_AT_A_TIME):
        pixels = _pixels(processor.image_processor, part)
        scores.append(model(**words, **pixels).logits_per_image[:, 0])
    return float(torch.cat(scores).mean())


def squashed(frames: torch.Tensor) -> torch.Tensor:
    """[T, 3, 224, 224]: stretched to 224×224 (bilinear, antialiased), ImageNet's mean and deviation."""
    small = F.interpolate(to_unit(frames), (224, 224), mode="bilinear", antialias=True)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (small - mean[:, None, None]) / deviation[:, None, None]


def _pixels(processor, frames: torch.Tensor) -> dict:
    return {"pixel_values": processor(images=_images(frames), return_tensors="pt")["pixel_values"]}


def _images(frames: torch.Tensor) -> list:
    return [as_image(frame) for frame in frames]


def as_image(frame: torch.Tensor):
    """A PIL image of [H, W, 3] uint8."""
    return needed("PIL.Image", "pillow", EXTRA).fromarray(frame.numpy())


def shrunk(frames: torch.Tensor, longest: int) -> torch.Tensor:
    """No side above `longest`, sizes cut to whole pixels, by PIL's bicubic filter; smaller frames stay."""
    import numpy as np

    height, width = frames.shape[1:3]
    if max(height, width) <= longest:
        return frames
    scale = longest / max(height, width)
    size = int(width * scale), int(height * scale)
    return torch.stack([torch.from_numpy(np.array(image.resize(size))) for image in _images(frames)])


@lru_cache(maxsize=4)
def load(model: HubModel):
    """The model and its processor."""
    transformers = needed("transformers", "transformers", EXTRA)
    network = getattr(transformers, model.model_class).from_pretrained(model.folder(), local_files_only=True).eval()
    return network, processor_of(model)


def processor_of(model: HubModel):
    """Of pictures, and of what some models take beside them."""
    transformers = needed("transformers", "transformers", EXTRA)
    kind = getattr(transformers, PROCESSORS.get(model.model_class, "AutoImageProcessor"))
    return kind.from_pretrained(model.folder(model.processor), local_files_only=True)


def ready(model: HubModel) -> None:
    """Raises RuntimeError, a sentence, where files of the model or of its processor are not here."""
    for folder, files in ((model.folder(), ("config.json",)), (model.folder(model.processor), PROCESSOR_FILES)):
        if not any((Path(folder) / file).is_file() for file in files):
            raise RuntimeError(
                f"{folder} has no {files[0]}: a {model.model_class} of transformers and its processor have to be there."
            )


@torch.no_grad()
def _temporal(model: HubModel, column: str, inputs: Inputs) -> dict[str, float]:
    return {column: neighbours(pooled(*load(model), inputs.edit_as_made.frames))}


@torch.no_grad()
def _text(model: HubModel, column: str, inputs: Inputs) -> dict[str, float]:
    frames = inputs.edit_as_made.frames
    if model is PICK:
        frames = shrunk(frames, PICK_LONGEST)
    return {column: text_alignment(*load(model), frames, inputs.item.target_prompt)}


@torch.no_grad()
def mobilenet_features(frames: torch.Tensor) -> torch.Tensor:
    """[T, 1280] of [T, H, W, 3] uint8: MobileNetV2's features, averaged over the picture. As torchvision's weights want it: short side
    256, the middle 224, ImageNet's mean and deviation."""
    transforms = needed("torchvision.transforms.v2.functional", "torchvision")
    small = transforms.center_crop(transforms.resize(to_unit(frames), [256], antialias=True), [224])
    shown = transforms.normalize(small, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return torch.cat([_mobilenet().features(part).mean((2, 3)) for part in shown.split(IMAGES_AT_A_TIME)])


@lru_cache
def _mobilenet() -> torch.nn.Module:
    network = needed("torchvision.models", "torchvision").mobilenet_v2(weights=None)
    network.load_state_dict(tensors_of("mobilenet_v2"))
    return network.eval()


def _mobilenet_scores(inputs: Inputs) -> dict[str, float]:
    edit, source = mobilenet_features(inputs.edit), mobilenet_features(inputs.source)
    similar = F.cosine_similarity(edit, source, dim=-1).mean()
    scores = {"mobilenet_similarity": float(similar)}
    if len(edit) > 1:
        scores["mobilenet_consistency"] = neighbours(edit)
        scores["mobilenet_consistency_added"] = neighbours(edit) - neighbours(source)
    return scores


def _text_metric(name: str, model: HubModel, about: str) -> Metric:
    compute: Callable = partial(_text, model, name)
    return Metric(name, compute, about, ("target_prompt",), model=model.described, ready=partial(ready, model))


def _temporal_metric(name: str, model: HubModel, about: str) -> Metric:
    return Metric(name, partial(_temporal, model, name), about, model=model.described, ready=partial(ready, model))


METRICS = [
    Metric(
        "mobilenet",
        _mobilenet_scores,
        "Features of MobileNetV2 (ImageNet): their likeness to the source's, frame by frame; that of neighbouring frames; and the "
        "latter less the source's own.",
        columns=("mobilenet_similarity", "mobilenet_consistency", "mobilenet_consistency_added"),
        model=lambda: TORCHVISION["mobilenet_v2"],
        ready=partial(file_of, "mobilenet_v2"),
    ),
    _temporal_metric(
        "clip_temporal_consistency", CLIP_L_VISION, "Cosine of neighbouring frames' CLIP ViT-L/14 features (EditVerseBench)."
    ),
    _temporal_metric(
        "dino_temporal_consistency", DINOV2, "Cosine of neighbouring frames' DINOv2-base features (EditVerseBench)."
    ),
    _text_metric(
        "frame_text_alignment", CLIP_L, "CLIP ViT-L/14's score of every frame and the target prompt (EditVerseBench)."
    ),
    _text_metric("pick_score_video_quality", PICK, "PickScore of every frame and the target prompt (EditVerseBench)."),
]
