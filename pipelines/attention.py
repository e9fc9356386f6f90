"""ISA as the attention of diffusers transformers, in the processors that they have already.

diffusers' native attention, on one GPU or in context parallelism, ends in PyTorch's `scaled_dot_product_attention` over all
tokens of some heads. While a processor attends in context, a `TorchFunctionMode` puts ISA in its place: queries, keys,
rotation, LoRA and the exchange between GPUs stay the model's and diffusers' own.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry, dispatch_attention_fn
from torch.overrides import TorchFunctionMode

from ..isa_core import ISAConfig, TokenLayout, add_coarse_residual, in_context_sparse_attention, resolve_backend
from ..runtime.report import RunReport
from ..runtime.schedule import MIN_TOKENS, Schedule
from .layouts import layout_reader

NATIVE = AttentionBackendName.NATIVE
OURS = ("in_context", "block")
"""What our processors have beside what those they replace had."""


@dataclass
class InContext:
    """What a transformer tells its processors: the token groups of the call that is going on, and the ISA attached to it.

    padding: tokens behind the last group that nobody attends to, so that several GPUs have equal shares.
    """

    layout: TokenLayout | None = None
    padding: int = 0
    isa: AttachedISA | None = None


class AttachedISA:
    """ISA on one transformer, as `attach_isa` returns it. All but `backend` may be changed between steps, in a callback say.

    config: ISAConfig. enabled: False for full attention. dense_blocks, min_tokens: as in `patching.schedule.Schedule`.
    A copied or pickled transformer has one of its own.
    """

    def __init__(self, config: ISAConfig, backend: str, dense_blocks: str, min_tokens: int):
        self.config, self.backend, self.enabled = config, backend, True
        self.dense_blocks, self.min_tokens = dense_blocks, min_tokens
        self.blocks = 0
        self._run = RunReport()
        self._transformer: torch.nn.Module | None = None
        self._state: InContext | None = None
        self._plain: dict[str, object] = {}
        """Processors that were replaced, by the names of their modules."""
        self._hook = self._layout = None

    def report(self) -> str:
        """What ran since the last report: calls, their cost, the backend, and why calls ran in full; one line per fact."""
        run, self._run = self._run, RunReport()
        if not run.sparse_calls and not run.full:
            return "ISA saw no in-context attention"
        return run.summary(self.config)

    def detach(self):
        """Leave the transformer as it was, but for what was set on its processors meanwhile, a backend say."""
        if (transformer := self._transformer) is None:
            return
        for name, plain in self._plain.items():
            module = transformer.get_submodule(name)
            vars(plain).update({key: value for key, value in vars(module.processor).items() if key not in OURS})
            module.processor = plain
        if self._hook:
            self._hook.remove()
        self._state.isa = self._transformer = None
        del transformer.attached_isa

    def attach(self, transformer: torch.nn.Module, layout):
        """Once. Raises ValueError where no layout is known, or there is no attention to act on."""
        self._state = getattr(transformer, "in_context", None)
        if self._state is not None and layout is not None:
            raise ValueError(f"{type(transformer).__name__} tells its token groups itself: leave layout out.")
        if self._state is None:
            self._state, self._layout = InContext(), layout if layout is not None else layout_reader(transformer)
            self._replace_processors(transformer)
            self._hook = transformer.register_forward_pre_hook(self._tell, with_kwargs=True)
        self.blocks = len({block_of(name) for name in transformer.attn_processors})
        self._transformer, self._state.isa, transformer.attached_isa = transformer, self, self

    def _replace_processors(self, transformer: torch.nn.Module):
        numbers: dict[str, int] = {}
        for name, module in transformer.named_modules():
            plain = getattr(module, "processor", None)
            if hasattr(plain, "_attention_backend"):
                block = numbers.setdefault(block_of(name), len(numbers))
                self._plain[name], module.processor = plain, in_context_processor(plain, self._state, block)
        if not numbers:
            raise ValueError(
                f"{type(transformer).__name__} has no attention processor of diffusers' current kind, which ISA could use."
            )

    def _tell(self, transformer, args, kwargs):
        """Before each forward call."""
        named = dict(zip(forward_arguments(type(transformer)), args)) | kwargs
        self._state.layout = self._layout(named) if callable(self._layout) else self._layout

    def reason_for_full(self, layout: TokenLayout, block: int) -> str | None:
        if not layout.context:
            return "no context tokens"
        if not self.enabled:
            return "switched off"
        if layout.total < self.min_tokens:
            return f"{layout.total} tokens are fewer than min_tokens {self.min_tokens}"
        if Schedule(dense_blocks=self.dense_blocks).is_dense_block(block, self.blocks):
            return f"dense_blocks {self.dense_blocks}"
        return None

    def attend(self, q, k, v, layout, gate, full) -> torch.Tensor:
        """full: the attention that the user chose, or None where nobody did."""
        out, stats = in_context_sparse_attention(
            q, k, v, layout=layout, config=self.config, coarse_gate=gate, backend=self.backend, dense=full or "auto",
            return_stats=True,
        )  # fmt: skip
        self._run.add_sparse(stats)
        return out

    def add_full(self, reason: str):
        self._run.add_full(reason)


def attach_isa(
    transformer: torch.nn.Module,
    config: ISAConfig = ISAConfig(),
    *,
    layout: TokenLayout | Callable[[dict], TokenLayout] | None = None,
    backend: str = "auto",
    dense_blocks: str = "",
    min_tokens: int = MIN_TOKENS,
) -> AttachedISA:
    """ISA (arXiv 2605.04569, section 3) in the in-context self-attention of a diffusers transformer; replaces an earlier one.

    layout: the token groups, [target | contexts], in the order of the attention's sequence, or a function of the forward
        call's arguments by name that tells them. LIVEditor's transformer and the kinds in `layouts.READERS` tell them themselves.
        What comes before the target, text for example, counts as the target's.
    backend, dense_blocks, min_tokens: as on the Attach ISA node.
    The sharp query blocks attend by the backend that `transformer.set_attention_backend` chose.

    Raises BackendUnavailable when `backend` was chosen by name and cannot run; ValueError where no layout is known.
    """
    detach_isa(transformer)
    parameter = next(transformer.parameters())
    resolve_backend(backend, parameter.device, config=config)
    Schedule(dense_blocks=dense_blocks)  # says what is wrong with it
    isa = AttachedISA(config, backend, dense_blocks, min_tokens)
    isa.attach(transformer, layout)
    return isa


def detach_isa(transformer: torch.nn.Module):
    """Leave the transformer as it was before `attach_isa`, if that was called."""
    if isa := getattr(transformer, "attached_isa", None):
        isa.detach()


def block_of(name: str) -> str:
    """Of a processor's or module's name, up to the number of its block: "blocks.3.attn1.processor" -> "blocks.3"."""
    return re.match(r".*?\d+(?=\.)|.*", name)[0]


@functools.lru_cache
def forward_arguments(kind: type) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)[1:]


def in_context_processor(plain, state: InContext, block: int):
    """`plain`, a diffusers attention processor, as one that attends in context; it keeps its class's signature and name."""
    processor = _blank_processor(type(plain))
    vars(processor).update(vars(plain), in_context=state, block=block)
    return processor


def _blank_processor(kind: type):
    """Without attributes yet: what copies and pickles are made of."""
    made = _in_context_kind(kind)
    return made.__new__(made)


@functools.lru_cache
def _in_context_kind(kind: type) -> type:
    # wraps: some attention modules look at the signature to see what their processor takes.
    @functools.wraps(kind.__call__)
    def call(self, *args, **kwargs):
        if self.in_context.layout is None or self.in_context.isa is None:
            return kind.__call__(self, *args, **kwargs)
        with in_context_attention(self, self.in_context, self.block):
            return kind.__call__(self, *args, **kwargs)

    members = {
        "__call__": torch.compiler.disable(call),
        "__reduce__": lambda self: (_blank_processor, (kind,), vars(self)),
    }
    return type(f"ISA{kind.__name__}", (kind,), members)


@contextmanager
def in_context_attention(processor, state: InContext, block: int, gate: torch.Tensor | None = None):
    """Let `processor` attend as `state` says while this holds, for whatever of its attention covers all tokens.

    gate: [B, S + padding, 1, 1], factor of LIVEditor's coarse residual over all tokens; None for a model without one.
    Yields the StandIn, which knows whether there was such an attention.
    """
    chosen, processor._attention_backend = processor._attention_backend, NATIVE
    stand_in = StandIn(state, block, gate, chosen or _AttentionBackendRegistry.get_active_backend()[0])
    try:
        with stand_in:
            yield stand_in
    finally:
        processor._attention_backend = chosen


class StandIn(TorchFunctionMode):
    """Stands in for `scaled_dot_product_attention` over all tokens of a layout."""

    def __init__(self, state: InContext, block: int, gate, chosen):
        super().__init__()
        self.state, self.block, self.gate, self.chosen = state, block, gate, chosen
        self.used = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        attention = self._attention if func is F.scaled_dot_product_attention else func
        return attention(*args, **(kwargs or {}))

    def _attention(
        self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ) -> torch.Tensor:
        """`scaled_dot_product_attention`, [B, H, S, D]; ours if it is all tokens' of themselves, with nothing that ISA does
        not know."""
        q, k, v = (x.transpose(-3, -2) for x in (query, key, value))
        plain = attn_mask is None and not dropout_p and not is_causal and query.shape == key.shape == value.shape
        usual = scale is None or abs(scale * query.shape[-1] ** 0.5 - 1) < 1e-6
        if plain and usual and q.ndim == 4 and q.shape[1] == self.state.layout.total + self.state.padding:
            self.used = True
            out = self.attend(q, k, v)
        else:
            out = dispatch_attention_fn(q, k, v, attn_mask, dropout_p, is_causal, scale, enable_gqa, backend=self.chosen)
        return out.transpose(-3, -2)

    def attend(self, q, k, v) -> torch.Tensor:
        """q, k, v [B, S + padding, H, D] -> [B, S + padding, H, D]."""
        layout = self.state.layout
        gate = None if self.gate is None else self.gate[:, : layout.total]
        out = self._attend(*(x[:, : layout.total] for x in (q, k, v)), layout, gate)
        return F.pad(out, (0, 0, 0, 0, 0, self.state.padding)) if self.state.padding else out

    def _attend(self, q, k, v, layout, gate) -> torch.Tensor:
        isa, full = self.state.isa, self._full
        reason = "not attached" if isa is None else isa.reason_for_full(layout, self.block)
        if reason is None:
            return isa.attend(q, k, v, layout, gate, None if self.chosen == NATIVE else full)
        if isa is not None:
            isa.add_full(reason)
        out = full(q, k, v)
        return out if gate is None else add_coarse_residual(out, q, k, v, gate, layout)

    def _full(self, q, k, v) -> torch.Tensor:
        return dispatch_attention_fn(q, k, v, backend=self.chosen)
