"""Memory of each GPU and the work of a step, counted before anything is loaded: `liveditor train RECIPE --plan`.

Weights, gradients and the optimiser follow from the shapes in the checkpoint's header. Activations are measured: one small block of the same
proportions runs, and what it keeps for each token grows with the width. Not counted is what kernels need while they run, and what the allocator
cannot use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

from ...checkpoint.dtypes import DTYPES
from ...checkpoint.keys import is_dead_weight
from ...data.shards import read_index
from ...pipelines.checkpoint import configuration
from ...pipelines.text_encoder import TEXT_LENGTH
from ...pipelines.transformer import LIVEditorTransformer3DModel
from ...video.geometry import token_count
from . import start
from .pairs import Bucket, shards_of
from .recipe import Recipe
from .settings import FULL, LORA
from .work import example_flops

GB = 1e9
MASTER = 4
"""Bytes of a trained weight, its gradient and its average, and of each of AdamW's two moments."""


@dataclass(frozen=True)
class Plan:
    """Of one bucket in one stage, memory in GB for each GPU.

    tokens: of target and context. trained, parameters: numbers of weights. gathered: the whole weights of two blocks, one that runs and the next. inputs:
    what checkpointing keeps of all blocks. block: what one block keeps for its backward pass; of all blocks without checkpointing. host: what is
    offloaded to main memory. petaflops: of a step on all GPUs.
    """

    stage: int
    attention: str
    bucket: Bucket
    tokens: int
    parameters: int
    trained: int
    weights: float
    gradients: float
    optimiser: float
    average: float
    gathered: float
    inputs: float
    block: float
    host: float
    petaflops: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimiser + self.average + self.gathered + self.inputs + self.block


def planned(recipe: Recipe, gpus: int = 1) -> list[Plan]:
    """One for each bucket of each stage. Raises CheckpointError, OSError or ValueError in one sentence; loads no weight."""
    checkpoint, plain = start.opened(recipe.model)
    config = SimpleNamespace(**configuration(checkpoint))
    shapes = {name: shape for name, shape in checkpoint.shapes.items() if not is_dead_weight(name)}
    shapes |= start.added_shapes(checkpoint.shapes) if plain else {}
    parameters = sum(map(math.prod, shapes.values()))
    trained = trained_count(recipe, config, shapes)
    unit = recipe.parallel.context * recipe.parallel.replicas
    if gpus % unit:
        raise ValueError(f"{gpus} GPUs cannot be shared as [parallel] says: name a multiple of {unit} with --gpus.")
    if config.num_attention_heads % recipe.parallel.context:
        raise ValueError(
            f"{config.num_attention_heads} attention heads cannot be shared by {recipe.parallel.context} GPUs equally."
        )
    recipe.check_groups(gpus // recipe.parallel.context)
    return [
        plan_of(recipe, number, bucket, config, shapes, parameters, trained, gpus)
        for number, stage in enumerate(recipe.stage)
        for bucket in _buckets(recipe, number)
    ]


def trained_count(recipe: Recipe, config, shapes: dict[str, tuple[int, ...]]) -> int:
    if recipe.model.trains == FULL:
        return sum(map(math.prod, shapes.values()))
    if recipe.model.trains == LORA:
        layers = [
            shape for name, shape in shapes.items()
            if name.startswith("blocks.") and len(shape) == 2
            and name.removesuffix(".weight").endswith(tuple(f".{target}" for target in recipe.lora.targets))
        ]  # fmt: skip
        return recipe.lora.rank * sum(map(sum, layers))
    return sum(math.prod(shape) for name, shape in shapes.items() if start.is_new(name))


def _buckets(recipe: Recipe, stage: int) -> list[Bucket]:
    """Of the sources that are encoded, and of the recipe where one is raw."""
    found: set[Bucket] = set()
    for source in recipe.stage[stage].sources:
        folder = shards_of(Path(source.path))
        found |= {tuple(row["bucket"]) for row in read_index(folder)} if folder else {*recipe.data.buckets}
    return sorted(found, key=math.prod)


def plan_of(recipe: Recipe, number: int, bucket: Bucket, config, shapes, parameters: int, trained: int, gpus: int) -> Plan:
    memory, stage = recipe.memory, recipe.stage[number]
    computed = (DTYPES[recipe.model.dtype] if recipe.model.dtype != "auto" else torch.bfloat16).itemsize
    shards = gpus // recipe.parallel.replicas
    width = config.num_attention_heads * config.attention_head_dim
    target = token_count(bucket[2], *bucket[:2])
    tokens = 2 * target
    own = tokens * memory.micro_batch / recipe.parallel.context
    frozen = 0 if recipe.model.trains == FULL else parameters
    states = (
        frozen * computed + trained * MASTER,
        trained * MASTER,
        trained * (2 if recipe.optimiser.eight_bit else 2 * MASTER),
    )
    average = trained * MASTER if any(each.ema for each in recipe.stage) else 0
    weights, gradients, optimiser, average = (size / shards for size in (*states, average))
    block = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("blocks.0."))
    inputs = own * width * computed * config.num_layers
    kept = own * kept_per_token(recipe, config, computed)
    host = 0.0
    if memory.offload_weights:
        host, weights, gradients, optimiser, average = weights + gradients + optimiser + average, 0.0, 0.0, 0.0, 0.0
    if memory.offload_activations:
        host, inputs = host + inputs, 2 * inputs / config.num_layers
    if not memory.checkpointing:
        inputs, kept = 0.0, kept * config.num_layers
    flops = stage.batch * example_flops(config, target, target, TEXT_LENGTH, recipe.model.trains, stage)
    sizes = (weights, gradients, optimiser, average, 2 * block * computed, inputs, kept, host)
    return Plan(number + 1, stage.attention, bucket, tokens, parameters, trained, *(size / GB for size in sizes), flops / 1e15)


def kept_per_token(recipe: Recipe, config, computed: int) -> float:
    """Bytes that one block keeps of a token until its backward pass, by a small block of the same proportions with full attention."""
    width = config.num_attention_heads * config.attention_head_dim
    heads = 2
    small = heads * config.attention_head_dim
    network = small_network(recipe, heads, round(config.ffn_dim * small / width), computed)
    few, many = (_kept(network, frames) for frames in (1, 2))
    tokens = 2 * 64  # those of one more frame, of target and context
    return (many - few) / tokens * width / small


def small_network(recipe: Recipe, heads: int, ffn: int, computed: int) -> LIVEditorTransformer3DModel:
    """One block with random weights, trained as the recipe says, in the types that it will have on a GPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = LIVEditorTransformer3DModel(num_attention_heads=heads, ffn_dim=ffn, num_layers=1, text_dim=32)
    start.choose_trained(network, recipe.model, recipe.lora, 0)
    for weight in network.parameters():
        weight.data = weight.data.to(torch.bfloat16 if computed == 2 else torch.float32)
    return network


def _kept(network, frames: int) -> int:
    """Bytes that autograd keeps of the block: of storages that are no weight's, nor shared by all blocks, each once."""
    others = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    found: dict[int, int] = {}
    held: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in others:
            found[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # or another tensor would get its place
        return tensor

    dtype = network.dtype
    latent = torch.randn(1, 16, frames, 16, 16, dtype=dtype)
    block, original = network.blocks[0], network.blocks[0].forward

    def counted(tokens, text, modulation, rotary):
        others.update(shared.untyped_storage().data_ptr() for shared in (text, modulation, *rotary))
        # What comes before the block, and keeps tensors too, is not the block's.
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            return original(tokens.detach().requires_grad_(), text, modulation, rotary)

    block.forward = counted
    try:
        network(latent, torch.tensor([500.0]), torch.randn(1, 8, 32, dtype=dtype), [latent])
    finally:
        del block.forward
    return sum(found.values())


def told(plans: Sequence[Plan]) -> list[str]:
    """Lines for a terminal."""
    first = plans[0]
    lines = [
        f"{first.parameters / 1e9:.2f} billion weights, of which {first.trained / 1e9:.3f} billion are trained. GB for each GPU:"
    ]
    names = ("weights", "gradients", "optimiser", "average", "gathered", "inputs", "block", "total", "host")
    lines.append(
        f"{'stage':<7}{'attention':<15}{'bucket':<14}{'tokens':>8}" + "".join(f"{name:>10}" for name in names) + f"{'PFLOP':>9}"
    )
    for plan in plans:
        sizes = "".join(f"{getattr(plan, name):>10.2f}" for name in names)
        bucket = "×".join(map(str, plan.bucket))
        lines.append(f"{plan.stage:<7}{plan.attention:<15}{bucket:<14}{plan.tokens:>8,}{sizes}{plan.petaflops:>9.2f}")
    lines.append(
        "Not counted: what kernels need while they run. host is main memory, for each GPU; PFLOP are a step's, on all of them."
    )
    return lines
