"""The numbers that a run is made with. They are stored in its folder; each stage depends on some of them only."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..checkpoint.files import replacing
from ..evaluation.judge.client import KEY_VARIABLE, Endpoint
from ..evaluation.judge.local import LocalVLM
from ..pipelines.request import ModelChoice

STYLE, HUMAN, OTHER = 0.3387, 0.1280, 0.0109
OBJECT_TASKS = ("swap", "add", "stylise_object", "remove")

SHARES = {"style": STYLE, "human": HUMAN, "other": OTHER} | {
    name: (1 - STYLE - HUMAN - OTHER) / len(OBJECT_TASKS) for name in OBJECT_TASKS
}
"""Of LIVEditor's groups of edits (arXiv 2605.04569, §4.1). The paper gives the first three as numbers; the others are in a figure
alone, and have equal parts of the rest here."""

FILES = (
    "frame_model", "video_model", "depth_model", "preference_model", "detector_model", "grounding_model", "mask_model", "pose_model",
    "vlm_model",
)  # fmt: skip
"""Settings that may name a file or a folder."""

MOBILENET, DINO = DUPLICATE_FEATURES = "mobilenet_v2", "dinov2_s"
"""Networks of `evaluation.shipped` whose features tell near duplicates."""

OF_THE_CLIP_ALONE = ("liveditor", "workflow")
"""Video editors of this package that have no use for `depth_model` and `pose_model`."""

KINDS = {"int": int, "float": (int, float), "str": str, "dict[str, float]": dict}
"""Of settings, by their annotation; `| None` takes None besides."""

TO_REAL, TO_SYNTHETIC = DIRECTIONS = "synthetic-to-real", "real-to-synthetic"
"""Which of the two clips is the target. The paper's is the first: what is learned is to make real footage."""


@dataclass(frozen=True)
class Settings:
    """
    frames, fps, width, height: of every clip; frames are 4n+1, sizes multiples of 16. cut: ContentDetector's threshold.
    duplicate_features: one of DUPLICATE_FEATURES; each has a gate of its own.
    seed: of all that is random. proposals: edits that are tried of one clip. shares: of tasks, by name; they need not add up to 1.
    vlm_url, vlm_model: an OpenAI-compatible server's address, up to /v1, and model, which planner "vlm" asks and the verdicts on frames
        and videos; None for neither. Its key is read from `KEY_VARIABLE` of the environment. Without vlm_url, vlm_model is a folder with a VLM
        of transformers, which every worker of these stages loads.
    planner, frame_editor, video_editor: names of modules in `planners` and `editors`, or a module's full name.
    frame_model, video_model: of the editors `pipeline` (a folder or repository of a pipeline of diffusers) and `workflow` (a ComfyUI workflow's
        file). depth_model: a folder or repository of transformers' depth models, which a VACE pipeline follows; None: the clip's grey frames.
        pose_model: of transformers' ViTPose, by which WanAnimatePipeline follows the person that detector_model finds.
    preference_model: as in `evaluation.metrics.preference`, which scores target frames whose plan describes what they should show.
    detector_model, grounding_model, mask_model: as in `objects`, which look at target frames and videos; the last two where a plan names
        objects, the last within the boxes of the second.
    comfyui_url: of the server that runs workflows.
    frame_candidates, video_candidates: edits made of one proposal, of which the best is taken. steps, guidance: the editor's;
        None for the model's own. variants: instructions written of one pair. direction: one of DIRECTIONS.

    Raises ValueError in one sentence for a number out of range.
    """

    frames: int = 81
    fps: float = 16.0
    width: int = 832
    height: int = 480
    cut: float = 27.0
    duplicate_features: str = MOBILENET
    seed: int = 0
    proposals: int = 2
    shares: dict[str, float] = field(default_factory=lambda: dict(SHARES), hash=False)
    planner: str = "rules"
    frame_editor: str = "liveditor"
    video_editor: str = "liveditor"
    frame_model: str | None = None
    video_model: str | None = None
    depth_model: str | None = None
    pose_model: str | None = None
    preference_model: str | None = None
    detector_model: str | None = None
    grounding_model: str | None = None
    mask_model: str | None = None
    comfyui_url: str = "http://127.0.0.1:8188"
    frame_candidates: int = 1
    video_candidates: int = 2
    steps: int | None = None
    guidance: float | None = None
    variants: int = 4
    direction: str = TO_REAL
    vlm_url: str | None = None
    vlm_model: str | None = None

    def __post_init__(self):
        for one in fields(self):
            kind, _, none = str(one.type).partition(" | ")
            value = getattr(self, one.name)
            if not (isinstance(value, KINDS[kind]) and not isinstance(value, bool) or none and value is None):
                raise ValueError(f"{one.name} must be of the type {one.type}; got {value!r}.")
        if self.frames < 1 or self.frames % 4 != 1:
            raise ValueError(f"frames must be 4n+1, as the VAE takes them; got {self.frames}.")
        for name in ("width", "height"):
            if getattr(self, name) < 16 or getattr(self, name) % 16:
                raise ValueError(f"{name} must be a multiple of 16; got {getattr(self, name)}.")
        for name in ("proposals", "frame_candidates", "video_candidates", "variants"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more; got {getattr(self, name)}.")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be 1 or more, or null for the model's own; got {self.steps}.")
        if not 0 < self.fps <= 240:
            raise ValueError(f"fps must be above 0 and no more than 240; got {self.fps}.")
        if not self.shares or min(self.shares.values()) < 0 or not sum(self.shares.values()):
            raise ValueError("shares must not be negative, and one at least must be above 0.")
        if self.vlm_url and not self.vlm_model:
            raise ValueError("A VLM needs both vlm_url and vlm_model, or a folder as vlm_model.")
        if self.planner == "vlm" and not self.vlm_model:
            raise ValueError("The planner vlm needs vlm_url and vlm_model, or a folder as vlm_model.")
        for name, what in (("depth_model", "depth maps"), ("pose_model", "pose")):
            if getattr(self, name) and self.video_editor in OF_THE_CLIP_ALONE:
                raise ValueError(
                    f"The video editor {self.video_editor} follows no {what}: set video_editor to pipeline, or leave {name} out."
                )
        if self.mask_model and not self.grounding_model:
            raise ValueError("mask_model needs grounding_model, whose boxes tell it what to outline.")
        for name, known in (("direction", DIRECTIONS), ("duplicate_features", DUPLICATE_FEATURES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}.")

    @property
    def vlm(self) -> Endpoint | LocalVLM:
        """Raises ValueError where none is set, its address is none, or its folder holds none."""
        if not self.vlm_model:
            raise ValueError("There is no VLM: set vlm_url and vlm_model, or a folder as vlm_model.")
        if not self.vlm_url:
            return LocalVLM(self.vlm_model)
        return Endpoint(self.vlm_url, self.vlm_model, os.environ.get(KEY_VARIABLE))

    @property
    def has_local_vlm(self) -> bool:
        return bool(self.vlm_model) and not self.vlm_url

    def absolute(self) -> Settings:
        """The same with absolute paths, for processes with folders of their own."""
        given = {name: value for name in FILES if (value := getattr(self, name)) and Path(value).exists()}
        return replace(self, **{name: str(Path(value).resolve()) for name, value in given.items()})

    @classmethod
    def of(cls, values: dict) -> Settings:
        """Raises ValueError for a name that there is not."""
        known = {one.name for one in fields(cls)}
        if unknown := [name for name in values if name not in known]:
            raise ValueError(f"There is no setting {unknown[0]!r}; there are {', '.join(sorted(known))}.")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"A setting has the wrong type ({error}).") from None


@dataclass(frozen=True)
class About:
    """What a stage says of itself. depends: names of settings that its results depend on. uses_model: whether it works with the model.

    only_asks: whether it does nothing but ask the VLM, so that it is left out where none is set. questions: put to the VLM about one row
    where each answer is of use. reads: columns of the source that its results depend on.
    """

    title: str
    depends: tuple[str, ...]
    uses_model: bool = False
    only_asks: bool = False
    questions: Callable[[Settings], int] = lambda settings: 0
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageChoice:
    """What a stage's `load` is given, as `batch.job.Choice`. depends, uses_model: as in `About`. uses_vlm: whether its workers hold a VLM."""

    settings: Settings
    model: ModelChoice
    depends: tuple[str, ...]
    uses_model: bool
    uses_vlm: bool = False

    @property
    def is_cheap(self) -> bool:
        """Without a model of any kind."""
        return not (self.uses_model or self.uses_vlm)

    @property
    def device(self) -> str:
        return "cpu" if self.is_cheap else self.model.device

    def shared(self) -> dict[str, Any]:
        values = asdict(self.settings)
        model = {f"model {name}": value for name, value in self.model.shared().items()} if self.uses_model else {}
        return {name: _as_recorded(name, values[name]) for name in self.depends} | model

    def absolute(self) -> StageChoice:
        return StageChoice(self.settings.absolute(), self.model.absolute(), self.depends, self.uses_model, self.uses_vlm)


def _as_recorded(name: str, value: Any) -> Any:
    """What two runs must have in common. Of a file its content counts, which may change, and not where it lies."""
    if name in FILES and value and Path(value).is_file():
        return f"{Path(value).name} (sha256 {hashlib.sha256(Path(value).read_bytes()).hexdigest()[:12]})"
    return value


def read_settings(path: Path) -> Settings:
    """From a JSON file that may name some of them only. Raises ValueError in one sentence."""
    return Settings.of(read_object(path, "settings", '{"frames": 49}'))


def read_object(path: Path, what: str, example: str) -> dict:
    """A user's JSON file, of what and like which example a sentence says. Raises ValueError in one sentence."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"The {what} {path} cannot be read ({error}): write JSON like {example}.") from None
    if not isinstance(values, dict):
        raise ValueError(f"The {what} {path} are no JSON object: write one like {example}.")
    return values


def write_settings(path: Path, settings: Settings) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(asdict(settings), indent=1) + "\n", encoding="utf-8")
