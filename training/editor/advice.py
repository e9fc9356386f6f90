"""What to change in a recipe where memory ran out."""

from __future__ import annotations

from .recipe import Recipe
from .settings import FULL


class OutOfMemory(RuntimeError):
    """One sentence with what to change."""


def advice(recipe: Recipe) -> str:
    """What the recipe does not do yet, the cheapest first."""
    memory, found = recipe.memory, []
    if memory.micro_batch > 1:
        found.append("memory.micro_batch = 1")
    if not memory.checkpointing:
        found.append("memory.checkpointing = true")
    elif not memory.offload_activations:
        found.append("memory.offload_activations = true")
    found.append(f"more processes for each example (parallel.context above {recipe.parallel.context})")
    if recipe.model.trains == FULL:
        found.append("more GPUs" if memory.offload_weights else "memory.offload_weights = true")
        found.append('model.trains = "lora"')
    elif recipe.lora.rank > 16:
        found.append("a smaller lora.rank")
    found.append("smaller or shorter clips")
    return f"Out of memory: take {', '.join(found[:-1])} or {found[-1]}; liveditor train RECIPE --plan says what each needs."
