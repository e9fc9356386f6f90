"""ISA as the attention of diffusers transformers, within their own attention processors (`stand_in`)."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable

import torch

from ..isa_core import TRAINING_FREE, ISAConfig, TokenLayout, resolve_backend
from ..runtime.call import CarryingCheckpoint, MaskedText, ModelCall, current, enter, in_backward, leave
from ..runtime.decisions import SPLIT_BY_DIFFUSERS, UNKNOWN_CONTEXT, Decisions
from ..runtime.kept_context import Keeping, Refresh, Reuse
from ..runtime.live import Settings
from ..runtime.report import ReportRecorder
from ..runtime.schedule import MIN_TOKENS, Schedule
from . import context_reuse
from .layouts import Arguments, arguments_of
from .stand_in import OUTSIDE_OF_CALL, InContextProcessor, in_context_attention

OURS = ("isa", "block")
"""Attributes of our processors that the replaced ones do not have."""


class AttachedISA:
    """ISA on one transformer, as `attach_isa` returns it. All but `backend` may be changed between steps, in a callback say.

    config: ISAConfig. enabled: False for full attention. dense_blocks, min_tokens: as in `runtime.schedule.Schedule`.
    context_refresh: as in `runtime.live.Settings`; it acts within a `sampling_run`. keeping: of contexts that are kept from now on.
    A call that has begun keeps the values that it began with, also where gradient checkpointing runs it again.
    A copied or pickled transformer has one of its own.
    """

    def __init__(
        self,
        config: ISAConfig,
        backend: str,
        dense_blocks: str,
        min_tokens: int,
        context_refresh: float = 0.0,
        keeping: Keeping = Keeping(),
    ):
        self.context_refresh, self.keeping = context_refresh, keeping
        self.config, self.backend, self.enabled = config, backend, True
        self.dense_blocks, self.min_tokens = dense_blocks, min_tokens
        self.blocks = 0
        """Of the transformer."""
        self.recorder = ReportRecorder()
        self._transformer: torch.nn.Module | None = None
        self._plain: dict[str, object] = {}
        """The replaced processors, by the names of their modules."""
        self._hooks: list = []
        self._layout: TokenLayout | Callable[[dict], TokenLayout] | None = None
        self._arguments: Arguments | None = None
        """The transformer's, where it is of a known kind and its layout is its own."""

    def decisions(self, whole: str | None = None) -> Decisions:
        """For the call that begins now. whole: why all of it stays full, if it does."""
        schedule = Schedule(dense_blocks=self.dense_blocks, min_tokens=self.min_tokens)
        return Decisions(Settings(self.config, self.enabled, self.context_refresh), schedule, whole, self.backend)

    def report(self) -> str:
        """Report since the last report: calls, their cost, the backend, reasons for full attention; one line per fact."""
        run = self.recorder.take()
        nothing = "none of its attention covers all tokens" if run.model_calls else "the transformer was not called"
        return run.summary(self.config, nothing=nothing)

    def detach(self):
        """Restore the transformer's processors, with attributes that were set meanwhile, such as a backend."""
        if (transformer := self._transformer) is None:
            return
        for name, plain in self._plain.items():
            module = transformer.get_submodule(name)
            vars(plain).update({key: value for key, value in vars(module.processor).items() if key not in OURS})
            module.processor = plain
        for hook in self._hooks:
            hook.remove()
        checkpoint = getattr(transformer, "_gradient_checkpointing_func", None)
        if self._plain and isinstance(checkpoint, CarryingCheckpoint):
            transformer._gradient_checkpointing_func = checkpoint.checkpoint
        self._transformer = None
        del transformer.attached_isa

    def attach(self, transformer: torch.nn.Module, layout):
        """Once. Raises ValueError where no layout is known, or there is no attention to act on."""
        if tells_its_calls(transformer):
            if layout is not None:
                raise ValueError(f"{type(transformer).__name__} tells its token groups itself: leave layout out.")
        else:
            self._arguments = arguments_of(transformer) if layout is None else None
            self._layout = self._arguments.layout if self._arguments else layout
            self._replace_processors(transformer)
            self._hooks = [
                transformer.register_forward_pre_hook(self._begin, with_kwargs=True),
                transformer.register_forward_hook(self._end, always_call=True),
            ]
            if self._arguments and self._arguments.positions:
                module = transformer.get_submodule(self._arguments.positions)
                self._hooks.append(module.register_forward_hook(self._positions))
        self.blocks = len({block_of(name) for name in transformer.attn_processors})
        self._transformer, transformer.attached_isa = transformer, self

    def _replace_processors(self, transformer: torch.nn.Module):
        numbers: dict[str, int] = {}
        for name, module in transformer.named_modules():
            plain = getattr(module, "processor", None)
            if hasattr(plain, "_attention_backend"):
                block = numbers.setdefault(block_of(name), len(numbers))
                self._plain[name], module.processor = plain, in_context_processor(plain, self, block)
        if not numbers:
            raise ValueError(
                f"{type(transformer).__name__} has no attention processor of diffusers' current kind, which ISA could use."
            )

    # A compiler cannot set the variable of the current call; it continues after these functions.
    @torch.compiler.disable
    def _begin(self, transformer, args, kwargs):
        """Before each forward call."""
        named = dict(zip(forward_arguments(type(transformer)), args)) | kwargs
        layout = self._layout(named) if callable(self._layout) else self._layout
        checkpoint = getattr(transformer, "_gradient_checkpointing_func", None)
        if checkpoint is not None and not isinstance(checkpoint, CarryingCheckpoint):
            transformer._gradient_checkpointing_func = CarryingCheckpoint(checkpoint)
        self.recorder.called()
        contexts, alone = self._contexts(transformer, layout, named)
        running = context_reuse.running_layout(layout, contexts)
        decided = self.decisions(SPLIT_BY_DIFFUSERS if self._is_split(transformer) else None)
        mask = self._text_mask(named)
        masked = None if mask is None else MaskedText.of(mask)
        enter(ModelCall(running, decided, self.recorder, owner=self, context=contexts, masked_text=masked))
        return ((), alone) if isinstance(contexts, Reuse) else None

    def _is_split(self, transformer) -> bool:
        """Whether diffusers gives each GPU a part of text and pictures, whose order on all of them is another."""
        return self._arguments is not None and getattr(transformer, "_parallel_config", None) is not None

    def _text_mask(self, named: dict) -> torch.Tensor | None:
        """[B, L], of a call with the arguments `named`."""
        return named.get(self._arguments.text_mask) if self._arguments and self._arguments.text_mask else None

    def _contexts(self, transformer, layout: TokenLayout, named: dict) -> tuple[Refresh | Reuse | None, dict | None]:
        """What the call with the arguments `named` does with its context, and the arguments of the target alone."""
        if not (self._arguments and self.context_refresh):
            return context_reuse.begin(self, transformer, layout, None, refused=UNKNOWN_CONTEXT), None
        text = named["encoder_hidden_states"]
        target = layout.target - text.shape[1]
        alone, refused = self._arguments.target_alone(named, target), None
        if self._is_split(transformer):
            refused = SPLIT_BY_DIFFUSERS
        elif alone is None:
            refused = UNKNOWN_CONTEXT
        texts = [each for each in (text, named.get("pooled_projections"), self._text_mask(named)) if each is not None]
        pictures = [named["hidden_states"][:, target:]]
        scale = next((each["scale"] for each in named.values() if isinstance(each, dict) and "scale" in each), None)
        return context_reuse.begin(self, transformer, layout, named.get("timestep"), texts, pictures, refused, scale), alone

    @torch.compiler.disable
    def _positions(self, module, args, output):
        """Keep those of text and target, (target [T, ...], text [L, ...]): without the context they would be others."""
        call = current()
        contexts = call.context if call is not None and call.owner is self else None
        if isinstance(contexts, Reuse):
            return contexts.kept.positions
        if isinstance(contexts, Refresh):
            images, text = output
            contexts.positions = images[: call.layout.target - len(text)], text
        return None

    @torch.compiler.disable
    def _end(self, transformer, args, output):
        """After each, also after an error, which leaves no output."""
        call = current()
        leave(self)
        if output is not None and call is not None and call.owner is self:
            context_reuse.end(self, call.context)


def attach_isa(
    transformer: torch.nn.Module,
    config: ISAConfig | None = None,
    *,
    layout: TokenLayout | Callable[[dict], TokenLayout] | None = None,
    backend: str = "auto",
    dense_blocks: str = "",
    min_tokens: int = MIN_TOKENS,
    context_refresh: float = 0.0,
    keeping: Keeping = Keeping(),
) -> AttachedISA:
    """ISA (arXiv 2605.04569, section 3) in the in-context self-attention of a diffusers transformer; replaces an earlier one.

    config: by default the paper's ratios for LIVEditor's transformer, whose released weights were trained with them, and
        `isa_core.TRAINING_FREE` for any other. LIVEditor-tiny was not trained with them: give it that too.
    layout: the token groups in the order of the attention's sequence, [target | contexts] or any other (`TokenLayout.of`), or a
        function of the forward call's arguments by name that tells them. LIVEditor's transformer and the kinds in `layouts.KNOWN` tell them themselves.
        There, what comes before the target, text for example, counts as the target's.
    backend, dense_blocks, min_tokens: as on the Attach ISA node.
    context_refresh: as there, but 0 by default: contexts are kept within a `sampling_run` only, of LIVEditor's transformer and of
        the kinds in `layouts.KNOWN`, as `keeping` says.
    The dense query blocks attend by the backend that `transformer.set_attention_backend` chose.
    Threads may share the transformer; in training use `transformer.enable_gradient_checkpointing()` and no other checkpoint.

    Raises BackendUnavailable when `backend` was chosen by name and cannot run; ValueError where no layout is known.
    """
    detach_isa(transformer)
    config = config or (ISAConfig() if tells_its_calls(transformer) else TRAINING_FREE)
    parameter = next(transformer.parameters())
    resolve_backend(backend, parameter.device, config=config)
    Schedule(dense_blocks=dense_blocks)  # raises an error for invalid blocks
    Settings(config, context_refresh=context_refresh)  # raises an error out of its range
    isa = AttachedISA(config, backend, dense_blocks, min_tokens, context_refresh, keeping)
    isa.attach(transformer, layout)
    return isa


def detach_isa(transformer: torch.nn.Module):
    """Leave the transformer as it was before `attach_isa`, if that was called."""
    if isa := getattr(transformer, "attached_isa", None):
        isa.detach()


def tells_its_calls(transformer: torch.nn.Module) -> bool:
    """Whether the network makes its ModelCalls itself, as LIVEditor's does."""
    return getattr(transformer, "makes_model_calls", False)


def block_of(name: str) -> str:
    """The start of a processor's or module's name, up to the number of its block: "blocks.3.attn1.processor" -> "blocks.3"."""
    return re.match(r".*?\d+(?=\.)|.*", name)[0]


@functools.lru_cache
def forward_arguments(kind: type) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)[1:]


def in_context_processor(plain, isa: AttachedISA, block: int):
    """`plain`, a diffusers attention processor, as one with in-context attention. It keeps its class's signature and name."""
    processor = _blank_processor(type(plain))
    vars(processor).update(vars(plain), isa=isa, block=block)
    return processor


def _blank_processor(kind: type):
    """An instance without attributes, for copies and pickles."""
    ours = _in_context_kind(kind)
    return ours.__new__(ours)


@functools.lru_cache
def _in_context_kind(kind: type) -> type:
    # wraps: some attention modules read their processor's signature to choose its arguments.
    @functools.wraps(kind.__call__)
    def call(self, *args, **kwargs):
        model_call = current()
        if model_call is None or model_call.owner is not self.isa:
            if in_backward():
                raise RuntimeError(OUTSIDE_OF_CALL)
            return kind.__call__(self, *args, **kwargs)
        with in_context_attention(self, model_call, self.block, self.isa.blocks):
            return kind.__call__(self, *args, **kwargs)

    members = {
        "__call__": torch.compiler.disable(call),
        "__reduce__": lambda self: (_blank_processor, (kind,), vars(self)),
    }
    return type(f"ISA{kind.__name__}", (InContextProcessor, kind), members)
