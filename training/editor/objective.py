"""Flow matching on the target alone, its context clean: what is drawn for a step, and the loss.

arXiv 2210.02747; the network answers with the velocity from the clean latent to the noise, as the pipeline's schedulers take it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ...pipelines.transformer import TRAIN_TIMESTEPS
from .settings import LOGIT_NORMAL, MODE, Objective

LARGEST_SEED = 2**63 - 1

MODE_SCALE = 1.29
"""Of Stable Diffusion 3's sampling with a mode (arXiv 2403.03206, section 3.1), in which high and low levels are rarer than middle ones."""


class Inputs(NamedTuple):
    """Of one call of the network, for b examples of one shape. Tensors are fp32 on the CPU."""

    mixed: torch.Tensor
    """[b, 16, T, h, w], target and noise."""
    time: torch.Tensor
    """[b], 0..1000."""
    text: torch.Tensor
    """[b, L, D], filled up with zeros to the model's own length."""
    lengths: tuple[int, ...]
    """Tokens of each text that are attended to."""
    context: torch.Tensor | None
    """As `mixed`; None for a step without it."""
    velocity: torch.Tensor
    """As `mixed`, what is learnt."""


def generator_of(*numbers: int) -> torch.Generator:
    """The same for the same numbers, on every machine: seed, step, and the example's number in the batch of all processes."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % LARGEST_SEED
    return torch.Generator().manual_seed(seed)


class Draws:
    """All random choices of a step but which pairs it sees.

    objective: with a shift. own: the length to which the model's shorter texts are filled up. empty: the embedded empty text,
    [tokens, width].
    """

    def __init__(self, objective: Objective, seed: int, own: int, empty: torch.Tensor):
        self.objective, self.seed, self.own, self.empty = objective, seed, own, empty

    def inputs(self, step: int, batch: int, first: int, pairs: Sequence[dict[str, torch.Tensor]]) -> Inputs:
        """pairs: those of a batch of `batch` from number `first` on."""
        of_all = torch.rand(2, generator=generator_of(self.seed, step)).tolist()
        without_context = of_all[0] < self.objective.drop_context
        frames = slice(1) if of_all[1] < self.objective.single_frames else slice(None)
        mixed, time, texts, velocity = [], [], [], []
        for number, pair in enumerate(pairs, first):
            generator = generator_of(self.seed, step, number)
            place, drop = torch.rand(2, generator=generator).tolist()
            target = pair["target"][:, frames].float()
            noise = torch.randn(target.shape, generator=generator)
            # Evenly spread within a batch: less variance than independent levels.
            level = self.level((number + place) / batch)
            mixed.append((1 - level) * target + level * noise)
            velocity.append(noise - target)
            time.append(TRAIN_TIMESTEPS * level)
            texts.append((self.empty if drop < self.objective.drop_text else pair["text"]).float())
        lengths = tuple(max(self.own, len(text)) for text in texts)
        text = torch.stack([F.pad(text, (0, 0, 0, max(lengths) - len(text))) for text in texts])
        context = None if without_context else torch.stack([pair["context"][:, frames].float() for pair in pairs])
        return Inputs(torch.stack(mixed), torch.tensor(time), text, lengths, context, torch.stack(velocity))

    def level(self, place: float) -> float:
        """The noise level, 0..1, at a place of 0..1 in the distribution that is trained."""
        shift = self.objective.shift
        assert shift is not None
        low, high = (before_shift(level, shift) for level in (self.objective.lowest, self.objective.highest))
        return shifted(low + (high - low) * spread(place, self.objective.levels), shift)


def spread(place: float, levels: str) -> float:
    """The quantile `place` of a distribution over 0..1."""
    if levels == LOGIT_NORMAL:
        normal = math.sqrt(2) * torch.erfinv(torch.tensor(2 * place - 1, dtype=torch.float64)).item()
        return 1 / (1 + math.exp(-normal))
    if levels == MODE:
        return 1 - place - MODE_SCALE * (math.cos(math.pi / 2 * place) ** 2 - 1 + place)
    return place


def shifted(level: float, shift: float) -> float:
    """As the samplers shift theirs: towards 1 for a `shift` above 1."""
    return shift * level / (1 + (shift - 1) * level)


def before_shift(level: float, shift: float) -> float:
    """The inverse of `shifted`."""
    return level / (shift - (shift - 1) * level)


def loss_of(transformer, inputs: Inputs, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The mean squared error of the velocity, fp32. dtype: that the network computes in."""
    mixed, text = (each.to(device, dtype, non_blocking=True) for each in (inputs.mixed, inputs.text))
    context = [] if inputs.context is None else [inputs.context.to(device, dtype, non_blocking=True)]
    answer = transformer(
        mixed, inputs.time.to(device), text, context,
        text_lengths=inputs.lengths if len({*inputs.lengths}) > 1 else None, return_dict=False,
    )[0]  # fmt: skip
    return F.mse_loss(answer.float(), inputs.velocity.to(device))
