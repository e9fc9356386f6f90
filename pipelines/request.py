"""A request to the editor: the model, and an edit of a video file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from ..isa_core import ISAConfig
from ..runtime.kept_context import AS_COMPUTED, AUTO, EACH, Keeping
from ..runtime.live import USUAL_REFRESH, Settings
from ..runtime.schedule import MIN_TOKENS

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
}
"""Ranges of an edit's numbers, both ends included."""


@dataclass(frozen=True)
class ModelChoice:
    """The model and how its weights are stored.

    model: "tiny" (the included one), a folder in diffusers' layout, or a LIVEditor checkpoint file (.bin or .safetensors).
    text_encoder, vae: files, needed with a checkpoint file only.
    dtype: "auto" (bf16 on a GPU, fp32 on a CPU), "bf16", "fp16" or "fp32"; of the transformer.
    storage: "auto" or "fp8": the transformer's linear layers kept in 8 bits, computed in `dtype`.
    offload: "none", "model" (one part on the GPU at a time) or "layers" (for small cards, slow).
    device: "auto", "cpu", "cuda", "cuda:1", ...
    isa: None for full attention. min_tokens: shorter sequences attend fully all the same.
    context_refresh: as in `runtime.live.Settings`, with ISA or without; 0 computes the context in every step. None: `USUAL_REFRESH`
        with ISA, 0 without.
    context_device, context_dtype, context_copies: as in `runtime.context_reuse.Keeping`.
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


@dataclass(frozen=True)
class Edit:
    """One edit of one video file. None stands for the model's default.

    frames: at most so many, 0 for all; fps: 0 for the video's own; size: width and height, multiples of 16.
    start_frame: frames to skip, counted at fps; every_nth: then every n-th frame only, at fps / n.
    references: image or video files the edit may refer to.
    whole_frame: put the edit back over the source's frame, at the source's size.

    Raises ValueError for a number out of RANGES.
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

    def __post_init__(self):
        values = asdict(self) | dict(zip(("width", "height"), self.size or ()))
        for name, (low, high) in RANGES.items():
            value = values.get(name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} must be from {low} to {high}; got {value}.")
