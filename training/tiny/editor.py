"""Trains the small editor: LIVEditor's network and a text encoder, together, by flow matching on edits drawn during training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import comfy.ops
import torch
from comfy.text_encoders.t5 import T5
from safetensors.torch import save_file

from ...checkpoint.keys import core_metadata, expected_shapes
from ...comfyui.network import LIVEditorModel
from ...isa_core import ISAConfig
from ...runtime.core_attention import with_isa
from ..graph import Pass
from ..processes import own_seed
from ..run import descend, half_cosine, replace_file
from . import text
from .exports import open_export
from .latents import LatentBatch


@dataclass(frozen=True)
class Phase:
    """A phase of training.

    sizes: (frames, height, width, edits a step), taken in turn. rate: (first, last) learning rate, along half a cosine.
    isa: None for full attention (the paper's first stage), else what attention is sparse by (its second).
    """

    steps: int
    sizes: tuple[tuple[int, int, int, int], ...]
    rate: tuple[float, float]
    isa: ISAConfig | None = None


# More than 4,096 tokens, of which the paper's ratios leave enough blocks; whole blocks, so that ISA reads nothing back.
LONG = ((33, 256, 256, 8), (33, 256, 320, 6))

# Single frames teach the meaning of words at a third of a clip's cost.
SHORT = ((1, 256, 256, 64), (33, 112, 144, 32), (17, 144, 208, 32), (9, 224, 224, 32))

PHASES = (
    Phase(43_000, SHORT, (8e-4, 2e-4)),
    Phase(5_000, SHORT + LONG, (2e-4, 3e-5)),
    Phase(7_000, LONG, (3e-4, 2e-5), ISAConfig()),
)


@dataclass(frozen=True)
class EditorSettings:
    """Settings of the training. Optimiser and average as in the paper (section 4.1 and appendix B), for a small network."""

    dim: int = 256
    ffn_dim: int = 896
    blocks: int = 10
    phases: tuple[Phase, ...] = PHASES
    warm_up: int = 300
    weight_decay: float = 1e-2
    ema: float = 0.995
    shift: float = 3.0
    """Shift of the noise level: high levels determine the edit. Sampling uses a shift of 6."""
    focus: float = 4.0
    """Weight of the edited region in the loss."""
    unconditional: float = 0.1
    """Share of edits trained without their instruction, for guidance."""
    seed: int = 0

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    @property
    def full_attention_steps(self) -> int:
        """The paper's first stage."""
        return sum(phase.steps for phase in self.phases if phase.isa is None)

    def phase_at(self, step: int) -> tuple[Phase, int]:
        """The phase of a step, and its number within the phase."""
        for phase in self.phases:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        raise IndexError(f"training is over after {self.steps} steps")


def new_editor(settings: EditorSettings) -> LIVEditorModel:
    """Core's network with random weights; both patch embeddings start equal, so that equal positions match from the start."""
    network = LIVEditorModel(
        model_type="t2v", dim=settings.dim, ffn_dim=settings.ffn_dim, num_heads=settings.dim // 128, num_layers=settings.blocks,
        in_dim=16, out_dim=16, text_dim=text.CONFIG["d_model"], freq_dim=256, text_len=512, patch_size=(1, 2, 2),
        qk_norm=True, cross_attn_norm=True, eps=1e-6, dtype=torch.float32,
        operations=comfy.ops.manual_cast,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(settings.seed)
    for name, weight in network.named_parameters():
        if name.endswith("bias") or "alpha_" in name or name == "head.head.weight":
            torch.nn.init.zeros_(weight)
        elif "norm" in name:
            torch.nn.init.ones_(weight)
        elif "modulation" in name:
            torch.nn.init.normal_(weight, std=settings.dim**-0.5, generator=generator)
        elif "text_embedding" in name or "time_embedding" in name:
            torch.nn.init.normal_(weight, std=0.02, generator=generator)
        else:
            torch.nn.init.xavier_uniform_(weight.flatten(1), generator=generator)
    network.source_video_embedding_more_memory.load_state_dict(network.patch_embedding.state_dict())
    return network


def load_networks(editor: Path, encoder: Path, device: torch.device | str) -> tuple[LIVEditorModel, T5, text.Tokenizer]:
    """Network, text encoder and tokenizer of two exported files: in fp32, without gradients, on the device."""
    export = open_export(editor, encoder)
    networks = new_editor(EditorSettings(dim=export.dim, ffn_dim=export.ffn_dim, blocks=export.blocks)), text.new_encoder()
    for network, weights in zip(networks, (export.network, export.encoder)):
        network.load_state_dict({name: weight.float() for name, weight in weights.items()})
        network.requires_grad_(False).to(device)
    return *networks, text.Tokenizer(export.vocabulary)


@contextmanager
def differentiable():
    """Core's rotary embedding has gradients only while core believes that it trains; its nodes in this process do not."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


def shifted(level: torch.Tensor, shift: float) -> torch.Tensor:
    """Noise levels in 0..1, moved towards 1 for a `shift` above 1, as in core's flow sampling."""
    return shift * level / (1 + (shift - 1) * level)


class EditorTrainer:
    """A training run: `step` it, `save` it, `load` it into a new one, and that goes on with the same numbers.

    batches: (step, size) -> LatentBatch on the device, of (frames, height, width, edits) as the phase says.
    """

    def __init__(self, settings: EditorSettings, batches: Callable[[int, tuple], LatentBatch], device: torch.device | str):
        self.settings, self.batches, self.device = settings, batches, torch.device(device)
        self.network = new_editor(settings).to(self.device)
        if self.device.type == "cuda":
            for block in self.network.blocks:
                block.compile(dynamic=False)
        self.vocabulary = text.vocabulary()
        """The tokenizer of the instructions."""
        self.encoder = text.new_encoder(settings.seed).to(self.device)
        named = [*self.network.named_parameters(), *self.encoder.named_parameters()]
        self.weights = [weight for _, weight in named]
        self.averaged = [weight.detach().clone() for weight in self.weights]
        decayed = [weight for weight in self.weights if weight.ndim > 1]
        others = [weight for weight in self.weights if weight.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=self.device.type == "cuda")
        self.gradients = Pass(self.loss, self.weights)
        self.isa: ISAConfig | None = None
        """What attention is sparse by at this step."""
        self.done = 0
        """Steps so far."""
        self.started = 0
        """Step at which the optimiser began: the first, or the one at which it went on from exported weights."""

    def step(self) -> dict[str, torch.Tensor]:
        """One step; its losses, still on the device."""
        phase, within = self.settings.phase_at(self.done)
        size = phase.sizes[within % len(phase.sizes)]
        self.isa = phase.isa
        loss, plain = self.gradients((size, phase.isa), *self.noised(self.batches(self.done, size), self.done))
        norm = descend(self, self.done + 1 - self.started)
        return {"loss": loss, "velocity_error": plain, "gradient": norm}

    def noised(self, batch: LatentBatch, step: int) -> tuple[torch.Tensor, ...]:
        """All random choices of a step, and the arguments of `loss`: inputs and targets of the network."""
        generator = torch.Generator(self.device).manual_seed(own_seed(self.settings.seed) + 1_000_003 * step)
        size, target = len(batch.target), batch.target.float()
        noise = torch.randn(target.shape, device=self.device, generator=generator)
        # Evenly spread within a batch: less variance than independent levels.
        level = (torch.arange(size, device=self.device) + torch.rand(size, device=self.device, generator=generator)) / size
        level = shifted(level, self.settings.shift)
        at = level.view(-1, 1, 1, 1, 1)
        # Weights are fp32; core's layers cast them to the input's dtype, as in sampling.
        mixed = ((1 - at) * target + at * noise).to(batch.source.dtype)
        weight = 1 + self.settings.focus * batch.region.float()
        tokens = self._some_unconditional(batch.tokens, generator)
        return mixed, 1000 * level, tokens, batch.source, noise - target, weight / weight.mean()

    def loss(self, mixed, time, tokens, source, velocity, weight) -> tuple[torch.Tensor, torch.Tensor]:
        """(flow-matching loss with the edited region's weight, the same without)."""
        instructions = text.encode_text(self.encoder, tokens, mixed.dtype)
        options = with_isa(self.isa) if self.isa else {}
        with differentiable():
            answer = self.network(mixed, time, instructions, context_latents=[source], transformer_options=options)
        error = (answer.float() - velocity).square()
        return (error * weight).mean(), error.detach().mean()

    def _some_unconditional(self, tokens: torch.Tensor, generator) -> torch.Tensor:
        """Replace a few instructions by an empty text or by words outside of the vocabulary, which both ask for no edit."""
        chance = torch.rand(len(tokens), 1, device=self.device, generator=generator)
        length = torch.randint(0, tokens.shape[1], (len(tokens), 1), device=self.device, generator=generator)
        length = length * (chance < self.settings.unconditional / 2)
        place = torch.arange(tokens.shape[1], device=self.device)
        nothing = torch.where(place < length, text.UNKNOWN, torch.where(place == length, text.END, text.PAD))
        return torch.where(chance < self.settings.unconditional, nothing, tokens)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step: linear warm-up, and in each phase half a cosine from its first rate to its last."""
        phase, within = self.settings.phase_at(self.done)
        warm = min(1.0, (self.done - self.started + 1) / self.settings.warm_up)
        return warm * half_cosine(*phase.rate, within / phase.steps)

    def save(self, path: Path):
        state = {
            "vocabulary": self.vocabulary,
            "done": self.done,
            "started": self.started,
            "weights": [weight.detach() for weight in self.weights],
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
        }
        replace_file(path, lambda partial: torch.save(state, partial))

    @torch.no_grad()
    def load(self, path: Path):
        """Raises ValueError for a checkpoint of a network of other sizes."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if [x.shape for x in state["weights"]] != [x.shape for x in self.weights]:
            raise ValueError(f"{path} is of a network of other sizes: use another folder.")
        for weight, saved in zip(self.weights, state["weights"]):
            weight.copy_(saved)
        self.averaged = state["averaged"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.vocabulary = state["vocabulary"]
        self.done, self.started = state["done"], state["started"]

    @torch.no_grad()
    def load_export(self, editor: Path, encoder: Path):
        """Continue from the exported files alone, with their averaged weights and a new optimiser.

        Raises ValueError for a network of other sizes.
        """
        export = open_export(editor, encoder)
        tensors = [export.network[name] for name, _ in self.network.named_parameters()]
        tensors += [export.encoder[name] for name, _ in self.encoder.named_parameters()]
        if [x.shape for x in tensors] != [x.shape for x in self.weights]:
            raise ValueError(f"{editor} is a network of other sizes than these settings: name another.")
        self.done = self.started = export.steps
        self.vocabulary = export.vocabulary
        for weight, saved in zip(self.weights, tensors):
            weight.copy_(saved)
        self.average_anew()

    @torch.no_grad()
    def average_anew(self):
        """Begin the average with the weights as they are."""
        for weight, averaged in zip(self.weights, self.averaged):
            averaged.copy_(weight)

    @torch.no_grad()
    def use_average(self):
        """Load the averaged weights into the networks, for evaluation. Training cannot continue after it."""
        for weight, averaged in zip(self.weights, self.averaged):
            weight.copy_(averaged)

    def export(self, editor: Path, encoder: Path):
        """Write the averaged weights in bf16, as *Load LIVEditor* takes them."""
        names = [name for name, _ in self.network.named_parameters()]
        averaged = dict(zip(names, self.averaged))
        settings = self.settings
        shapes = expected_shapes(settings.dim, settings.ffn_dim, text.CONFIG["d_model"], settings.blocks)
        assert {name: tuple(weight.shape) for name, weight in averaged.items()} == shapes
        tensors = {name: weight.bfloat16().cpu().contiguous() for name, weight in averaged.items()}
        metadata = {"format": "pt", "steps": str(self.done), **core_metadata(shapes)}
        replace_file(editor, lambda partial: save_file(tensors, partial, metadata))
        weights = dict(zip((name for name, _ in self.encoder.named_parameters()), self.averaged[len(names) :]))
        replace_file(encoder, lambda partial: text.save_encoder(weights, self.vocabulary, partial))
