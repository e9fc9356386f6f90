"""One in-context attention of a diffusers processor: ISA, or full attention with LIVEditor's coarse residual.

diffusers' native attention, on one GPU or in context parallelism, ends in PyTorch's `scaled_dot_product_attention` over all
tokens of some heads. While a processor attends in context, a `TorchFunctionMode` puts a StandIn in its place: queries, keys,
rotation, LoRA and the exchange between GPUs stay the model's and diffusers' own. Such a mode is one thread's, and so is the
backend that the processor is read with meanwhile: threads that share a processor do not meet.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ..isa_core import add_coarse_residual, in_context_sparse_attention
from ..runtime import decisions
from ..runtime.call import ModelCall
from .diffusers_parts import NATIVE, active_backend, dispatch_attention_fn
from .exchange import Exchange

OUTSIDE_OF_CALL = (
    "This attention does not know which model call it belongs to. To save memory in training, use the transformer's "
    "enable_gradient_checkpointing(): another checkpoint of its blocks cannot tell target from context when they run again."
)

_waiting: ContextVar[object] = ContextVar("liveditor_isa.waiting", default=None)
"""The processor that this thread's StandIn replaces."""


class InContextProcessor:
    """Base of processors that attend in context. Their backend is the chosen one, but native to the thread whose StandIn waits."""

    @property
    def _attention_backend(self):
        return NATIVE if _waiting.get() is self else vars(self).get("_attention_backend")

    @_attention_backend.setter
    def _attention_backend(self, backend):
        vars(self)["_attention_backend"] = backend


@contextmanager
def in_context_attention(
    processor,
    call: ModelCall,
    block: int,
    of_blocks: int = 1,
    gate: torch.Tensor | None = None,
    exchange: Exchange | None = None,
):
    """Within this context, those attentions of `processor` that cover all tokens run as `call` says.

    gate: [B, S + padding, 1, 1], factor of LIVEditor's coarse residual over all tokens; None for a model without one.
    exchange: where the attention is given this process's tokens alone, what brings all tokens of some heads.
    Yields the StandIn, which knows whether there was such an attention.
    """
    stand_in = StandIn(call, block, of_blocks, gate, processor._attention_backend or active_backend(), exchange)
    token = _waiting.set(processor)
    try:
        with stand_in:
            yield stand_in
    finally:
        _waiting.reset(token)


class StandIn(TorchFunctionMode):
    """Stands in for `scaled_dot_product_attention` over all tokens of a layout."""

    def __init__(self, call: ModelCall, block: int, of_blocks: int, gate, chosen, exchange: Exchange | None = None):
        super().__init__()
        self.call, self.block, self.of_blocks, self.gate, self.chosen = call, block, of_blocks, gate, chosen
        self.exchange = exchange
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
        usual_scale = scale is None or abs(scale * query.shape[-1] ** 0.5 - 1) < 1e-6
        plain = not dropout_p and not is_causal and usual_scale
        of_itself = q.ndim == 4 and query.shape == key.shape == value.shape
        served = attn_mask is None or (
            self._hides_text(attn_mask) and (self.call.context or self._reason(self.call.layout) is None)
        )
        if of_itself and plain and served and self._covers_all(q):
            self.used = True
            out = self._exchanged(q, k, v) if self.exchange else self.attend(q, k, v)
        else:
            if of_itself and self.call.record is not None:
                self.call.record.full(self._foreign(q, attn_mask, plain), self.call.layout)
            out = dispatch_attention_fn(q, k, v, attn_mask, dropout_p, is_causal, scale, enable_gqa, backend=self.chosen)
        return out.transpose(-3, -2)

    def _hides_text(self, mask: torch.Tensor) -> bool:
        """Whether an attention's mask is the text's, and the same for all queries."""
        return self.call.masked_text is not None and mask.ndim == 4 and mask.shape[1:3] == (1, 1)

    def _covers_all(self, q) -> bool:
        processes = self.exchange.count if self.exchange else 1
        return q.shape[1] * processes == self.call.layout.total + self.call.padding

    def _exchanged(self, q, k, v) -> torch.Tensor:
        """`attend`, where q, k, v hold this process's tokens."""
        assert self.exchange
        return self.exchange.tokens(self.attend(*map(self.exchange.heads, (q, k, v))))

    def _foreign(self, q, mask, plain: bool) -> str:
        if not self._covers_all(q):
            return decisions.other_tokens(q.shape[1], self.call.layout)
        if not plain or mask is None:
            return decisions.NOT_PLAIN
        return (self._hides_text(mask) and self._reason(self.call.layout)) or decisions.MASKED

    def _reason(self, layout) -> str | None:
        """Why ISA leaves an attention over `layout` full, if it does."""
        decided = self.call.decisions
        return decided and decided.reason_for_full(layout, self.block, self.of_blocks, decisions.FROM_ARGUMENTS)

    def attend(self, q, k, v) -> torch.Tensor:
        """q, k, v [B, S + padding, H, D] -> [B, S + padding, H, D]."""
        layout, padding = self.call.layout, self.call.padding
        gate = None if self.gate is None else self.gate[:, : layout.total]
        q, k, v = (x[:, : layout.total] for x in (q, k, v))
        if self.call.context is not None:
            k, v, layout = self.call.context.attended(self.block, self.of_blocks, k, v, layout)
        if self.call.masked_text is not None and self.call.masked_text.groups:
            return self._attend_to_shown(q, k, v, layout, *self.call.masked_text)
        out = self._attend(q, k, v, layout, gate)
        return F.pad(out, (0, 0, 0, 0, 0, padding)) if padding else out

    def _attend_to_shown(self, q, k, v, layout, tokens: int, groups) -> torch.Tensor:
        """`attend` without the text that is hidden: nobody attends to it, and what it attends to changes nothing. It gets zeros."""
        out = q.new_zeros(q.shape)
        for sequences, shown in groups:
            q_shown, k_shown, v_shown = (torch.cat([x[sequences][:, shown], x[sequences, tokens:]], dim=1) for x in (q, k, v))
            of_shown = replace(layout, target=layout.target - tokens + len(shown))
            found = self._attend(q_shown, k_shown, v_shown, of_shown, None)
            numbers = torch.cat([shown, torch.arange(tokens, q.shape[1], device=q.device)])
            out = out.index_put((sequences[:, None], numbers), found)
        return out

    def _attend(self, q, k, v, layout, gate) -> torch.Tensor:
        decided = self.call.decisions
        if decided is not None:
            reason = self._reason(layout)
            if reason is None:
                out, stats = in_context_sparse_attention(
                    q, k, v, layout=layout, config=decided.settings.config, coarse_gate=gate, backend=decided.backend,
                    dense="auto" if self.chosen == NATIVE else self._full, return_stats=True,
                )  # fmt: skip
                self.call.record.sparse(stats, layout, self.block, self.of_blocks)
                return out
            self.call.record.full(reason, layout)
        out = self._full(q, k, v)
        return out if gate is None else add_coarse_residual(out, q, k, v, gate, layout)

    def _full(self, q, k, v) -> torch.Tensor:
        return dispatch_attention_fn(q, k, v, backend=self.chosen)
