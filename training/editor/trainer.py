"""One training run's state and its steps."""

from __future__ import annotations

from types import ModuleType

import torch

from ...errors import NotFiniteError
from ...optional import needed
from ...pipelines.attention import attach_isa, detach_isa
from ..run import half_cosine
from . import activations
from .batches import Order
from .encoders import Sources
from .objective import Draws, loss_of
from .parallel import Spread, local, mean_over_processes, place, whole
from .recipe import Recipe
from .settings import Optimiser, Stage
from .start import choose_trained, trained


class Trainer:
    """`step` it; `checkpoints` saves it and loads it into a new one, and that goes on with the same numbers.

    network: of `start.load`, which this marks, spreads and changes. sources: of the recipe. draws: of its objective.
    """

    def __init__(self, recipe: Recipe, network, sources: Sources, draws: Draws, spread: Spread):
        self.recipe, self.network, self.draws, self.spread = recipe, network, draws, spread
        self.data = [
            (
                [sources.pairs[source.path] for source in stage.sources],
                Order(
                    [sources.pairs[source.path].buckets for source in stage.sources],
                    [source.weight for source in stage.sources],
                    stage.batch,
                    recipe.operation.seed,
                ),
            )
            for stage in recipe.stage
        ]
        choose_trained(network, recipe.model, recipe.lora, recipe.operation.seed)
        if recipe.memory.checkpointing:
            network.enable_gradient_checkpointing(activations.checkpointing(recipe.memory, spread.device))
        if recipe.memory.compile:
            # Before FSDP gives blocks another class: they are found by its name.
            network.compile_repeated_blocks(options=compile_options())
        place(network, spread, recipe.memory)
        self.names, self.weights = map(list, zip(*trained(network)))
        self.optimiser = optimiser_of(self.weights, recipe.optimiser)
        self.averaged: list[torch.Tensor] | None = None
        """Of the weights over steps; None where no stage averages."""
        if any(stage.ema for stage in recipe.stage):
            self.averaged = [weight.detach().clone() for weight in self.weights]
        self.done = 0
        """Steps so far."""
        self._attention_of: Stage | None = None

    @property
    def stage(self) -> tuple[int, Stage, int]:
        """The number of the next step's stage, the stage, and the step's number within it."""
        stage, within = self.recipe.stage_at(self.done)
        return self.recipe.stage.index(stage), stage, within

    @property
    def rate(self) -> float:
        """The learning rate of the next step: linear warm-up, times half a cosine from the stage's rate to its last."""
        _, stage, within = self.stage
        last = stage.rate if stage.rate_end is None else stage.rate_end
        return min(1.0, (within + 1) / (stage.warm_up + 1)) * half_cosine(stage.rate, last, within / stage.steps)

    def step(self) -> dict[str, float]:
        """One step. Its loss over all processes' examples, the gradients' norm, and tokens that ran here.

        Raises NotFiniteError before the weights change.
        """
        number, stage, within = self.stage
        self._attend_as(stage)
        pairs, order = self.data[number]
        _, places = order[within]
        share = stage.batch // self.spread.groups
        first = self.spread.group * share
        total, tokens, shape = torch.zeros((), device=self.spread.device), 0, None
        for start in range(first, first + share, self.recipe.memory.micro_batch):
            chosen = places[start : min(start + self.recipe.memory.micro_batch, first + share)]
            inputs = self.draws.inputs(self.done, stage.batch, start, [pairs[each.source][each.pair] for each in chosen])
            loss = loss_of(self.network, inputs, self.spread.device, self.spread.dtype) * (len(chosen) / share)
            # FSDP takes the mean over all processes, and those that share an example's tokens each have a part of its gradient.
            (loss * self.spread.context).backward()
            total += loss.detach()
            shape = tuple(inputs.mixed.shape[2:]), inputs.context is not None
            tokens += len(chosen) * self.tokens_of(inputs)
        norm = whole(torch.nn.utils.clip_grad_norm_(self.weights, self.recipe.optimiser.clip))
        total = mean_over_processes(total)
        if not (torch.isfinite(total) and torch.isfinite(norm)):
            raise NotFiniteError(
                f"The loss of step {self.done + 1} or its gradient is not finite: the last checkpoint is from before. Lower the "
                "rate, or look at the pairs of this step."
            )
        self._descend(stage)
        return {"loss": total.item(), "gradient": norm.item(), "tokens": tokens, "shape": shape}

    def tokens_of(self, inputs) -> int:
        """Of one example: of its target, and of its context where it has one."""
        frames, height, width = inputs.mixed.shape[2:]
        return frames * -(-height // 2) * -(-width // 2) * (1 if inputs.context is None else 2)

    def _descend(self, stage: Stage) -> None:
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], torch.Tensor):  # of torchao's, which compiles its step
                group["lr"].fill_(self.rate)
            else:
                group["lr"] = self.rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.done += 1
        if self.averaged is not None:
            # It covers fewer steps at the start.
            decay = min(stage.ema, (1 + self.done) / (10 + self.done))
            averaged, weights = ([local(each.detach()) for each in both] for both in (self.averaged, self.weights))
            torch._foreach_lerp_(averaged, weights, 1 - decay)

    def _attend_as(self, stage: Stage) -> None:
        if self._attention_of is stage:
            self.network.attached_isa.recorder.take() if stage.sparse else None
            return
        self._attention_of = stage
        if stage.sparse:
            attach_isa(self.network, stage.sparse, min_tokens=stage.min_tokens)
        else:
            detach_isa(self.network)

    @property
    def written(self) -> dict[str, torch.Tensor]:
        """The trained weights as they are written, the averaged ones where there are any; sharded. By the network's names."""
        return dict(zip(self.names, self.weights if self.averaged is None else self.averaged))


def compile_options() -> dict:
    """Of torch.compile: without kernels that sum over rows and columns at once, whose gradients have a wrong shape in PyTorch
    2.11 (pytorch/pytorch#178080)."""
    name = "triton.mix_order_reduction"
    return {name: False} if name in torch._inductor.list_options() else {}


def torchao() -> ModuleType:
    """Its optimisers. Raises RuntimeError where the package is not there."""
    return needed("torchao.optim", "torchao", "")


def optimiser_of(weights: list[torch.nn.Parameter], settings: Optimiser) -> torch.optim.Optimizer:
    """AdamW; vectors do not decay. Raises RuntimeError where 8 bits need a package that is not there."""
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.eight_bit:
        return torchao().AdamW8bit(groups, lr=0.0, betas=settings.betas)
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, fused=True)
