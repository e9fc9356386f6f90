"""A request to the editor: the model, and an edit of a video file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from ..isa_core import ISAConfig
from ..runtime.kept_context import AS_COMPUTED, AUTO, EACH, Keeping
from ..runtime.live import USUAL_REFRESH, Settings
from ..runtime.schedule import MIN_TOKENS
from ..runtime.windows import Windows
from ..video.region import FEATHER

RANGES = {
    "seed": (0, 2**63 - 1),
    "frames": (0, 100_000),
    "fps": (0, 1000),
    "start_frame": (0, 1_000_000),
    "every_nth": (1, 1000),
    "steps": (1, 1000),
    "guidance": (0, 100),
    "width": (16, 8192),
    "height": (16, 8192),
    "feather": (0, 512),
    "window": (0, 100_000),
    "window_overlap": (0, 100_000),
}
"""Ranges of an edit's numbers, both ends included."""


WITHOUT_EFFECT = ("device", "offload")
"""Settings of a model that may differ when a job goes on elsewhere."""


@dataclass(frozen=True)
class ModelChoice:
    """The model and how its weights are stored.

    model: "tiny" (the included one), a folder in diffusers' layout, or a LIVEditor checkpoint file (.bin or .safetensors).
    text_encoder, vae: files, or folders in diffusers' layout: needed beside a checkpoint file, and in place of a folder's own parts
        beside a folder.
    dtype: "auto" (bf16 on a GPU, fp32 on a CPU), "bf16", "fp16" or "fp32"; of the transformer.
    storage: "auto" or "fp8": the transformer's linear layers kept in 8 bits, computed in `dtype`.
    offload: "none", "model" (one part on the GPU at a time) or "layers" (for small cards, slow).
    device: "auto", "cpu", "cuda", "cuda:1", ...
    isa: None for full attention. min_tokens: shorter sequences attend fully all the same.
    context_refresh: as in `runtime.live.Settings`, with ISA or without; 0 computes the context in every step. None: `USUAL_REFRESH`
        with ISA, 0 without.
    context_device, context_dtype, context_copies: as in `runtime.kept_context.Keeping`.
    loras: files or folders that diffusers loads.

    Raises ValueError for a context setting out of range.
    """

    model: str = "tiny"
    text_encoder: str | None = None
    vae: str | None = None
    dtype: str = "auto"
    storage: str = "auto"
    offload: str = "none"
    device: str = "auto"
    isa: ISAConfig | None = ISAConfig()
    min_tokens: int = MIN_TOKENS
    loras: tuple[str, ...] = ()
    context_refresh: float | None = None
    context_device: str = AUTO
    context_dtype: str = AS_COMPUTED
    context_copies: str = EACH

    def __post_init__(self):
        Settings(ISAConfig(), context_refresh=self.refresh)
        Keeping(self.context_device, self.context_dtype, self.context_copies)

    @property
    def refresh(self) -> float:
        """context_refresh, by its default where none was given."""
        if self.context_refresh is not None:
            return self.context_refresh
        return USUAL_REFRESH if self.isa else 0.0

    def absolute(self) -> ModelChoice:
        """The same with absolute paths, for processes with folders of their own."""

        def absolute(path: str) -> str:
            return str(Path(path).resolve()) if path and Path(path).exists() and path != ModelChoice.model else path

        paths = {name: absolute(path) for name in ("model", "text_encoder", "vae") if (path := getattr(self, name))}
        return replace(self, **paths, loras=tuple(map(absolute, self.loras)))

    def shared(self) -> dict:
        """Settings that an edit depends on, by name: those of two jobs that may go on with each other's results are the same."""
        settings = {name: value for name, value in asdict(self).items() if name not in WITHOUT_EFFECT}
        isa = settings.pop("isa") or {}
        settings["context_refresh"] = self.refresh
        return settings | {"isa": self.isa is not None, **{f"isa {name}": value for name, value in isa.items()}}

    def check_files(self) -> None:
        """Raises ValueError in one sentence where a file is missing, or files do not go together. Opens none."""
        if self.model == "tiny":
            if self.text_encoder or self.vae:
                raise ValueError(
                    "LIVEditor-tiny works with its own parts only: leave out text_encoder and vae, or name a model."
                )
        else:
            self._check_model(Path(self.model))
        for lora in self.loras:
            if not os.path.exists(lora):
                raise ValueError(f"There is no LoRA {lora}: check the name.")

    def _check_model(self, path: Path) -> None:
        if not self.model or not os.path.exists(path):
            raise ValueError(f"There is no model {self.model}: check the name.")
        parts = [part for part in (self.text_encoder, self.vae) if part]
        if len(parts) < 2 and not path.is_dir():
            raise ValueError(
                f"{path.name} is the network alone: name its text_encoder (umt5_xxl_fp16.safetensors, say) and its vae "
                "(wan_2.1_vae.safetensors) too, or take a folder in diffusers' layout."
            )
        check_there(parts, or_folders=True)


def check_there(files: Iterable[str], or_folders: bool = False) -> None:
    """Raises ValueError for the first file that is missing. or_folders: which may be a folder too."""
    is_there = os.path.exists if or_folders else os.path.isfile  # Path's own raise for a name that is too long
    for path in files:
        if os.path.isdir(path) and not or_folders:
            raise ValueError(f"{path} is a folder, where a file is needed: name the file.")
        if not is_there(path):
            raise ValueError(f"There is no file {path}: check the name.")


@dataclass(frozen=True)
class Edit:
    """One edit of one video. None stands for the model's default.

    video: a file, or a folder of its frames as pictures. frames: at most so many, 0 for all; fps: 0 for the video's own, and of a folder
        its rate, 0 for `video.pictures.FOLDER_RATE`; size: width and height, multiples of 16.
    start_frame: frames to skip, counted at fps; every_nth: then every n-th frame only, at fps / n.
    references: image or video files the edit may refer to.
    whole_frame: put the edit back over the source's frame, at the source's size. mask, an image or video file, and boxes, (x, y,
        width, height) in pixels of the source, do so too, and say where the edit shows. feather, match_colors: as in `video.result`.
    window, window_overlap: frames; a longer video is edited in such windows, as in `runtime.windows`; 0 for none.

    Raises ValueError for a number out of RANGES, an empty prompt, and what does not go together.
    """

    video: str
    prompt: str
    negative_prompt: str | None = None
    seed: int = 42
    steps: int | None = None
    guidance: float | None = None
    frames: int = 81
    fps: float = 0.0
    size: tuple[int, int] | None = None
    references: tuple[str, ...] = field(default=())
    whole_frame: bool = False
    start_frame: int = 0
    every_nth: int = 1
    mask: str | None = None
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    feather: int = FEATHER
    match_colors: bool = False
    window: int = 0
    window_overlap: int | None = None

    @classmethod
    def from_dict(cls, values: dict) -> Edit:
        """The inverse of `dataclasses.asdict`, also by way of JSON; what it does not hold is as by default."""
        given = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        given["size"] = given.get("size") and tuple(given["size"])
        given["references"] = tuple(given.get("references", ()))
        given["boxes"] = tuple(map(tuple, given.get("boxes", ())))
        return cls(**given)

    def __post_init__(self):
        if not self.prompt.strip():
            raise ValueError("The prompt is empty: say what to change.")
        values = asdict(self) | dict(zip(("width", "height"), self.size or ()))
        for name, (low, high) in RANGES.items():
            value = values.get(name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} must be from {low} to {high}; got {value}.")
        Windows.of_frames(self.window, self.window_overlap)

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it reads."""
        return self.video, *self.references, *([self.mask] if self.mask else [])

    def check_files(self) -> None:
        """Raises ValueError in one sentence for the first that is missing. Opens none."""
        check_there(self.files[1:] if os.path.isdir(self.video) else self.files)


def box_of(text: str) -> tuple[int, int, int, int]:
    """x, y, width and height of "x,y,width,height". Raises ValueError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 4 and all(part.removeprefix("-").isdecimal() for part in parts):
        x, y, width, height = map(int, parts)
        if width > 0 and height > 0:
            return x, y, width, height
    raise ValueError(f"a box is x,y,width,height in pixels of the source, as in 500,200,400,304; got {text!r}")
