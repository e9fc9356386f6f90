"""The attention implementations that are compared. Each takes q, k, v [B, S, H, D] and a layout, and returns [B, S, H, D].

ISA's take a gate too, [B, S, 1, 1], and then add LIVEditor's coarse residual. Rivals have no residual: theirs are times of
attention alone.

A variant is made by a function without arguments, which raises where the variant cannot run; the reason is printed
and stored with the results.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...isa_core import ISAConfig, in_context_sparse_attention

Attention = Callable[..., torch.Tensor]


def sdpa(kind: SDPBackend) -> Attention:
    def run(q, k, v, layout, gate=None):
        with sdpa_kernel(kind):
            return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

    return run


def isa(config: ISAConfig = ISAConfig(), backend: str = "triton", dense: str = "sdpa") -> Attention:
    """dense: the attention of dense query blocks; "sdpa" is cuDNN's on Hopper."""

    def run(q, k, v, layout, gate=None):
        return in_context_sparse_attention(
            q, k, v, layout=layout, config=config, coarse_gate=gate, backend=backend, dense=dense
        )  # fmt: skip

    return run


def flex() -> Attention:
    from torch.nn.attention.flex_attention import flex_attention

    # One compilation per length, because its code is fastest for fixed shapes.
    compiled = torch.compile(flex_attention, dynamic=False)

    def run(q, k, v, layout, gate=None):
        return compiled(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

    return run


def sol_attn(tau: float) -> Attention:
    attention = comfy_kitchen("sol_attn")
    return lambda q, k, v, layout, gate=None: attention(q, k, v, tau=tau)


def kitchen_int8() -> Attention:
    attention = comfy_kitchen("int8_attention")
    return lambda q, k, v, layout, gate=None: attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def comfy_kitchen(name: str) -> Callable:
    """Its function of that name, which must have kernels for this GPU. Raises RuntimeError otherwise."""
    import comfy_kitchen as kitchen
    from comfy_kitchen.backends import cuda

    if not hasattr(kitchen, name):
        raise RuntimeError(f"comfy-kitchen {version('comfy-kitchen')} has no {name}")
    if not getattr(kitchen, f"{name}_is_available")(torch.device("cuda")):
        raise RuntimeError(f"comfy-kitchen {version('comfy-kitchen')} has no kernels here: {cuda._EXT_ERROR or 'unfit GPU'}")
    return getattr(kitchen, name)


def sage() -> Attention:
    from sageattention import sageattn

    def run(q, k, v, layout, gate=None):
        # By default SageAttention 1 subtracts the mean of K in place, in the caller's K, which other variants use too.
        centred = k - k.mean(dim=1, keepdim=True)
        return sageattn(q, centred, v, tensor_layout="NHD", smooth_k=False)

    return run


VARIANTS: dict[str, Callable[[], Attention]] = {
    "sdpa-cudnn": lambda: sdpa(SDPBackend.CUDNN_ATTENTION),
    "sdpa-fa2": lambda: sdpa(SDPBackend.FLASH_ATTENTION),
    "flex-attention": flex,
    "isa-paper-bf16": isa,
    "isa-paper-bf16-triton": lambda: isa(dense="triton"),
    "isa-paper-8bit": lambda: isa(dense="8bit"),
    "isa-paper-bf16-torch": lambda: isa(backend="torch"),
    "sol-attn-tau1.3": lambda: sol_attn(1.3),
    "sol-attn-tau2.0": lambda: sol_attn(2.0),
    "comfy-kitchen-int8": kitchen_int8,
    "sageattention": sage,
}


class Bench:
    """The variants that run here, and why the others do not."""

    def __init__(self, makers: dict[str, Callable[[], Attention]]):
        self.running: dict[str, Attention] = {}
        self.skipped: dict[str, str] = {}
        for name, make in makers.items():
            self.attempt(name, lambda name=name, make=make: self.running.__setitem__(name, make()))

    def attempt(self, name: str, what: Callable):
        """what(); if it fails, None, and the variant `name` is not measured further."""
        try:
            return what()
        except Exception as error:
            self.running.pop(name, None)
            self.skipped[name] = reason(error)
            print(f"skipped {name}: {self.skipped[name]}", flush=True)
            if torch.cuda.is_available():
                # After a faulty kernel every later call in this context fails, so the run ends here.
                torch.cuda.synchronize()
            return None


def reason(error: Exception) -> str:
    """One line: the error's type, unless the message is clear without it, and the first line of the message."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = first if isinstance(error, (ImportError, RuntimeError)) and first else f"{type(error).__name__}: {first}"
    return text[:300]
