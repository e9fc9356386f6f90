"""Output that is not finite: found at the end of a model call, traced to its transformer block, mended by full attention."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ..errors import NotFiniteError

logger = logging.getLogger(__name__)

Output = TypeVar("Output", torch.Tensor, Sequence[torch.Tensor])


@torch.compiler.disable
def is_finite(x: torch.Tensor | Sequence[torch.Tensor]) -> bool:
    """Waits for the device: a model's output is looked at once per call, not every attention's. Some models have several."""
    return bool(torch.stack([torch.isfinite(each).all() for each in tensors_of(x)]).all())


def tensors_of(x: torch.Tensor | Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """What a network takes or gives: one tensor, or several, video and sound say."""
    return [x] if isinstance(x, torch.Tensor) else x


def require_finite(
    out: torch.Tensor | Sequence[torch.Tensor], network: torch.nn.Module, x: torch.Tensor | Sequence[torch.Tensor] | None = None
) -> None:
    """Stop a run that would end in black frames. x: what the network was given.

    Raises NotFiniteError naming the damaged weight, or what else it must be when the weights are sound.
    """
    if is_finite(out):
        return
    if x is not None and not is_finite(x):
        raise NotFiniteError(
            "The latent that the sampler gave to the model is not finite: lower the guidance, or take another sampler or scheduler."
        )
    for name, weight in network.named_parameters():
        if not weight.is_meta and not is_finite(weight.float()):
            raise NotFiniteError(
                f"The model's weight {name} holds NaN or infinity: the checkpoint is damaged. Download or convert it again."
            )
    raise NotFiniteError(
        f"The model's output is not finite although its weights are, in {tensors_of(out)[0].dtype}: most likely an overflow. "
        "Load the model in bf16, or remove LoRAs and other model patches one by one."
    )


class FiniteGuard:
    """Of one sampling run: a model call whose output is not finite runs again, with a look at every sparse attention.

    An attention that is not finite there although full attention is, is replaced by it, and its transformer block attends
    fully from then on. So a sound run costs one look per model call.
    """

    def __init__(self):
        self.blocks: dict[int, int] = {}
        """{transformer block: evaluation of the model in which it was found}."""

    def run(self, call: Callable[[bool], Output], network: torch.nn.Module, x: torch.Tensor | Sequence[torch.Tensor]) -> Output:
        """`call(False)`, or when that is not finite `call(True)`, which is to pass its attentions through `checked`.

        Raises NotFiniteError where full attention does not help.
        """
        out = call(False)
        # A training loop watches its own loss, and need not wait for the GPU here.
        if any(each.requires_grad for each in tensors_of(out)):
            return out
        if not is_finite(out):
            out = call(True)
            require_finite(out, network, x)
        return out

    def checked(self, out: torch.Tensor, full: Callable[[], torch.Tensor], block: int, at: int) -> torch.Tensor | None:
        """None for a sparse attention's `out` that may be used, else what takes its place."""
        if is_finite(out):
            return None
        instead = full()
        if not is_finite(instead):
            return None  # what it was given is not finite either: the fault lies elsewhere
        self.blocks[block] = at
        logger.warning("ISA: transformer block %d is not finite in model call %d; %s", block, at + 1, CURE)
        return instead

    def reason(self, block: int) -> str | None:
        """Why a block attends fully, if it does."""
        return f"block {block} was not finite in model call {self.blocks[block] + 1}" if block in self.blocks else None


CURE = "it attends fully from here on. Load the model in bf16 if it is in fp16"
