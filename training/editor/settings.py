"""The settings of a training run, one dataclass for each table of a recipe."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from ...checkpoint.dtypes import DTYPES
from ...isa_core import POLICIES, ISAConfig
from ...pipelines.request import Edit, ModelChoice
from ...runtime.schedule import MIN_TOKENS
from ...video.geometry import SIZE_STEP
from .tables import at_least, between, one_of

FULL_ATTENTION = "full"
ATTENTIONS = (FULL_ATTENTION, *POLICIES)
FULL, LORA, NEW = TRAINS = "full", "lora", "new"
UNIFORM, LOGIT_NORMAL, MODE = LEVELS = "uniform", "logit_normal", "mode"


@dataclass(frozen=True)
class Model:
    """
    start: "tiny" (the included one), a LIVEditor checkpoint, a Wan 2.2 T2V checkpoint (its high-noise expert), or a folder in diffusers'
        layout. text_encoder, vae: files or folders, beside a checkpoint, and in place of a folder's own parts.
    dtype: of computation and of weights that are not trained: "auto" (bf16 on a GPU, fp32 on a CPU), "bf16", "fp16" or "fp32". Weights
        that are trained are fp32.
    trains: "full" all weights, "lora" low-rank additions, "new" what LIVEditor adds to Wan.
    """

    start: str = "tiny"
    text_encoder: str | None = None
    vae: str | None = None
    dtype: str = "auto"
    trains: str = LORA

    def __post_init__(self):
        one_of("model.dtype", self.dtype, ("auto", *DTYPES))
        one_of("model.trains", self.trains, TRAINS)

    @property
    def choice(self) -> ModelChoice:
        return ModelChoice(self.start, self.text_encoder, self.vae, isa=None)


@dataclass(frozen=True)
class Lora:
    """rank, alpha: alpha is the rank where it is not given. targets: ends of ComfyUI's names of linear layers in the blocks."""

    rank: int = 32
    alpha: float | None = None
    targets: tuple[str, ...] = ("q", "k", "v", "o", "ffn.0", "ffn.2")

    def __post_init__(self):
        at_least("lora.rank", self.rank, 1)
        if self.alpha is not None:
            between("lora.alpha", self.alpha, 1e-6, 1e6)
        if not self.targets:
            raise ValueError("lora.targets is empty: name layers, as q, k, v, o, ffn.0 and ffn.2.")


@dataclass(frozen=True)
class Data:
    """Of raw pairs, which are encoded once. buckets: (width, height, frames); a pair gets the one that is nearest in shape, and has no more frames than
    the pair. fps: 0 for each clip's own. cache: folder of what was encoded; in the run's folder where none is given."""

    buckets: tuple[tuple[int, int, int], ...] = ((832, 480, 81),)
    fps: float = 0.0
    cache: str | None = None

    def __post_init__(self):
        for bucket in self.buckets:
            if len(bucket) != 3 or min(bucket) < 1 or bucket[0] % SIZE_STEP or bucket[1] % SIZE_STEP or bucket[2] % 4 != 1:
                raise ValueError(
                    f"data.buckets are [width, height, frames], sizes in multiples of {SIZE_STEP} and frames 4n+1; got {[*bucket]}."
                )
        if not self.buckets:
            raise ValueError("data.buckets is empty: name one, as [832, 480, 81].")


@dataclass(frozen=True)
class Objective:
    """
    shift: of the noise levels; None for the sampler's. levels: how they are drawn before the shift. lowest, highest: the range of levels that
        is trained, 0..1; [0.875, 1] is Wan 2.2's high-noise expert's own.
    drop_text: share of examples without their instruction. drop_context: share of steps without the video to edit. single_frames: share of steps
        with the first frame of their clips alone.
    """

    shift: float | None = None
    levels: str = UNIFORM
    lowest: float = 0.0
    highest: float = 1.0
    drop_text: float = 0.1
    drop_context: float = 0.0
    single_frames: float = 0.0

    def __post_init__(self):
        one_of("objective.levels", self.levels, LEVELS)
        for name in ("lowest", "highest", "drop_text", "drop_context", "single_frames"):
            between(f"objective.{name}", getattr(self, name), 0, 1)
        if self.lowest >= self.highest:
            raise ValueError(f"objective.lowest must be below highest; got {self.lowest:g} and {self.highest:g}.")
        if self.shift is not None:
            between("objective.shift", self.shift, 1e-3, 1e3)


@dataclass(frozen=True)
class Optimiser:
    """AdamW. clip: of the gradients' norm. eight_bit: its moments in 8 bits, with torchao."""

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float = 1.0
    eight_bit: bool = False

    def __post_init__(self):
        for beta in self.betas:
            between("optimiser.betas", beta, 0, 1 - 1e-9)
        between("optimiser.weight_decay", self.weight_decay, 0, 10)
        between("optimiser.clip", self.clip, 1e-6, math.inf)


@dataclass(frozen=True)
class Memory:
    """
    micro_batch: examples that run at once on a GPU. checkpointing: keep the inputs of blocks alone. offload_activations: keep those in main
        memory. offload_weights: weights, gradients and the optimiser in main memory, with several processes.
    compile: torch.compile, block by block.
    """

    micro_batch: int = 1
    checkpointing: bool = True
    offload_activations: bool = False
    offload_weights: bool = False
    compile: bool = False

    def __post_init__(self):
        at_least("memory.micro_batch", self.micro_batch, 1)
        if self.offload_activations and not self.checkpointing:
            raise ValueError("memory.offload_activations keeps the inputs of checkpointed blocks: set checkpointing = true.")


@dataclass(frozen=True)
class Parallel:
    """context: GPUs that share the tokens of one example (Ulysses). replicas: groups of GPUs that each hold all weights; within one
    they are sharded. One for each node keeps most of the exchange within nodes."""

    context: int = 1
    replicas: int = 1

    def __post_init__(self):
        at_least("parallel.context", self.context, 1)
        at_least("parallel.replicas", self.replicas, 1)


@dataclass(frozen=True)
class Operation:
    """seed: of all that is random. log_every, save_every: steps. keep: checkpoints that stay. tensorboard: write its files too."""

    seed: int = 0
    log_every: int = 10
    save_every: int = 500
    keep: int = 2
    tensorboard: bool = False

    def __post_init__(self):
        for name in ("log_every", "save_every", "keep"):
            at_least(f"operation.{name}", getattr(self, name), 1)
        between("operation.seed", self.seed, 0, 2**63 - 1)


@dataclass(frozen=True)
class Clip:
    """An edit that is made to look at."""

    video: str
    prompt: str


@dataclass(frozen=True)
class Validation:
    """Edits by the pipeline of `liveditor edit`, the same each time. every: steps; 0 for none. frames, width, height, steps, guidance: None for the model's."""

    every: int = 0
    clips: tuple[Clip, ...] = ()
    frames: int = 81
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int = 42

    def __post_init__(self):
        at_least("validation.every", self.every, 0)
        if self.every and not self.clips:
            raise ValueError("validation.every is set, but there are no [[validation.clips]]: name a video and a prompt.")
        if (self.width is None) != (self.height is None):
            raise ValueError("validation needs both width and height, or neither.")
        _ = self.edits

    @property
    def edits(self) -> tuple[Edit, ...]:
        size = (self.width, self.height) if self.width and self.height else None
        return tuple(
            Edit(
                clip.video, clip.prompt, seed=self.seed, steps=self.steps, guidance=self.guidance, frames=self.frames, size=size
            )
            for clip in self.clips
        )


@dataclass(frozen=True)
class Source:
    """path: what `liveditor data export native` wrote, or raw pairs: a .jsonl of context, target and instruction, or a folder of NAME.context.mp4,
    NAME.target.mp4 and NAME.txt. weight: how often each of its pairs is seen for one of another source."""

    path: str
    weight: float = 1.0

    def __post_init__(self):
        between("source.weight", self.weight, 1e-6, 1e6)


@dataclass(frozen=True)
class Stage:
    """
    rate: of learning; rate_end: at the stage's end, along half a cosine; None for the same. warm_up: steps. batch: examples of a step, on all GPUs.
    attention: "full" or a policy of ISA; isa: its other settings, by the names of `ISAConfig`. min_tokens: shorter sequences stay full, as in
        edits. ema: of the averaged weights that are written; 0 for the last weights.
    """

    steps: int
    sources: tuple[Source, ...]
    rate: float = 1e-4
    rate_end: float | None = None
    warm_up: int = 0
    batch: int = 1
    attention: str = FULL_ATTENTION
    isa: dict = field(default_factory=dict, hash=False)
    min_tokens: int = MIN_TOKENS
    ema: float = 0.0

    def __post_init__(self):
        for name, least in (("steps", 1), ("batch", 1), ("warm_up", 0), ("min_tokens", 0)):
            at_least(f"stage.{name}", getattr(self, name), least)
        between("stage.ema", self.ema, 0, 1 - 1e-9)
        between("stage.rate", self.rate, 0, 10)
        if self.rate_end is not None:
            between("stage.rate_end", self.rate_end, 0, 10)
        one_of("stage.attention", self.attention, ATTENTIONS)
        if not self.sources:
            raise ValueError('A stage has no sources: name one, as [[stage.sources]] with path = "pairs".')
        if self.isa and self.attention == FULL_ATTENTION:
            raise ValueError(
                f'stage.isa is of sparse attention, which attention = "full" turns off: take {", ".join(POLICIES)}.'
            )
        _ = self.sparse

    @property
    def sparse(self) -> ISAConfig | None:
        """None for full attention. Raises ValueError in one sentence."""
        if self.attention == FULL_ATTENTION:
            return None
        known = [each.name for each in dataclasses.fields(ISAConfig) if each.name != "policy"]
        if unknown := [name for name in self.isa if name not in known]:
            raise ValueError(f"stage.isa has no {unknown[0]!r}; there are {', '.join(known)}.")
        return ISAConfig(**self.isa, policy=self.attention)
