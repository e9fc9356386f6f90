"""The LIVEditor network on diffusers' WanTransformer3DModel: a second patch embedding, RoPE reset per token group, a gated
residual. The same network as `comfyui.network`, which runs on ComfyUI's Wan.

Facts: arXiv 2605.04569, section 3 and appendix B, and the key names of its released checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from diffusers import ModelMixin  # noqa: F401  a pipeline's loader asks the module of a class whether it is one
from diffusers.configuration_utils import register_to_config
from torch import nn

from ..checkpoint.keys import MEMORY
from ..isa_core import TokenLayout, coarse_gate
from ..runtime.call import Carried, ModelCall, current, within
from ..runtime.kept_context import Reuse
from . import context_reuse
from .checkpoint import configuration, diffusers_names, open_liveditor
from .diffusers_parts import (
    ContextParallelInput,
    ContextParallelOutput,
    Transformer2DModelOutput,
    WanAttnProcessor,
    WanRotaryPosEmbed,
    WanTransformer3DModel,
    apply_lora_scale,
)
from .exchange import Exchange
from .stand_in import OUTSIDE_OF_CALL, InContextProcessor, in_context_attention

TRAIN_TIMESTEPS = 1000
"""The timestep of pure noise."""

_exchanging: ContextVar[object] = ContextVar("liveditor_isa.exchanging", default=None)
"""The processor whose tokens this thread exchanges itself."""


class LIVEditorAttnProcessor(InContextProcessor, WanAttnProcessor):
    """Self-attention over target and context tokens, plus the coarse residual, in front of the output projection.

    block, of_blocks: which transformer block of how many it is in.
    """

    def __init__(self, block: int, of_blocks: int):
        super().__init__()
        self.block, self.of_blocks = block, of_blocks

    @torch.compiler.disable
    def __call__(self, attn, hidden_states, *args, **kwargs):
        if (call := current()) is None:
            raise RuntimeError(OUTSIDE_OF_CALL)
        gate = coarse_gate(attn.alpha_1(hidden_states))  # in context parallelism, of all GPUs' tokens (`_cp_plan`)
        if exchange := self._exchange_with_gradients():
            gate = exchange.shared(gate)
        token = _exchanging.set(self if exchange else None)
        try:
            with in_context_attention(self, call, self.block, self.of_blocks, gate, exchange) as stand_in:
                out = super().__call__(attn, hidden_states, *args, **kwargs)
        finally:
            _exchanging.reset(token)
        if not stand_in.used:
            raise RuntimeError(
                "LIVEditor's self-attention was not seen whole: of diffusers' parallelism it needs Ulysses (ulysses_degree)."
            )
        return out

    @property
    def _parallel_config(self):
        """diffusers', which does not exchange tokens itself where our Exchange does."""
        return None if _exchanging.get() is self else vars(self).get("_parallel_config")

    @_parallel_config.setter
    def _parallel_config(self, config):
        vars(self)["_parallel_config"] = config

    def _exchange_with_gradients(self) -> Exchange | None:
        if self._parallel_config is None or not torch.is_grad_enabled():
            return None
        return Exchange(self._parallel_config.context_parallel_config._ulysses_mesh.get_group())


class OwnTextAttnProcessor(WanAttnProcessor):
    """Cross-attention. Texts of unlike length come as a tuple of [1, L, D], one for each sequence of the batch."""

    def __call__(self, attn, hidden_states, encoder_hidden_states, *args, **kwargs):
        if not isinstance(encoder_hidden_states, tuple):
            return super().__call__(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        pairs = zip(hidden_states.split(1), encoder_hidden_states)
        return torch.cat([super(OwnTextAttnProcessor, self).__call__(attn, *pair, *args, **kwargs) for pair in pairs])


class InContextRotaryPosEmbed(WanRotaryPosEmbed):
    """Wan's, over several token groups, each with positions from (0, 0, 0)."""

    def forward(self, *latents: torch.Tensor, padding: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, C, T, h, w] each -> cosines and sines, [1, S, 1, D] over all groups' tokens, then zeros for the padding."""
        groups = [super(InContextRotaryPosEmbed, self).forward(latent) for latent in latents]
        cosines, sines = (torch.cat(parts, dim=1) for parts in zip(*groups))
        return F.pad(cosines, (0, 0, 0, 0, 0, padding)), F.pad(sines, (0, 0, 0, 0, 0, padding))


class LIVEditorTransformer3DModel(WanTransformer3DModel):
    """Wan 2.2 T2V with context videos: tokens are [target | context 1 | context 2 ...], the head sees the target only.

    Its configuration is Wan's. `from_single_file` reads the official checkpoint and its conversions.
    """

    makes_model_calls = True
    ignore_for_config = ["added_kv_proj_dim", "pos_embed_seq_len"]  # of Wan's image-to-video
    _skip_layerwise_casting_patterns = [*WanTransformer3DModel._skip_layerwise_casting_patterns, MEMORY, "alpha_1"]
    # All groups' tokens are one sequence. It is split as a whole, and gathered wherever a token's group matters.
    _cp_plan = {
        "rope": {index: ContextParallelInput(split_dim=1, expected_dims=4, split_output=True) for index in (0, 1)},
        "blocks.0": {"hidden_states": ContextParallelInput(split_dim=1, expected_dims=3, split_output=False)},
        "blocks.*.attn1.alpha_1": ContextParallelOutput(gather_dim=1, expected_dims=3),
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str = "rms_norm_across_heads",
        eps: float = 1e-6,
        rope_max_seq_len: int = 1024,
        image_dim: None = None,  # Wan's LoRA loader checks this for image-to-video models
    ):
        super().__init__(
            patch_size=patch_size, num_attention_heads=num_attention_heads, attention_head_dim=attention_head_dim,
            in_channels=in_channels, out_channels=out_channels, text_dim=text_dim, freq_dim=freq_dim, ffn_dim=ffn_dim,
            num_layers=num_layers, cross_attn_norm=cross_attn_norm, qk_norm=qk_norm, eps=eps, rope_max_seq_len=rope_max_seq_len,
        )  # fmt: skip
        dim = num_attention_heads * attention_head_dim
        self.add_module(MEMORY, nn.Conv3d(in_channels, dim, kernel_size=patch_size, stride=patch_size))
        self.rope = InContextRotaryPosEmbed(attention_head_dim, patch_size, rope_max_seq_len)
        for index, block in enumerate(self.blocks):
            block.attn1.alpha_1 = nn.Linear(dim, 1, bias=False)
            block.attn1.set_processor(LIVEditorAttnProcessor(index, num_layers))
            block.attn2.set_processor(OwnTextAttnProcessor())

    @classmethod
    def from_single_file(cls, path: str | Path, torch_dtype: torch.dtype | None = None) -> LIVEditorTransformer3DModel:
        """From the official `.bin` or a safetensors file, in any of the known key layouts.

        torch_dtype: of the weights, but for those that Wan keeps in fp32; None as in the file.
        Weights stay mapped to the file until they are used, where their type does not change.
        Raises CheckpointError naming what is wrong with the file.
        """
        checkpoint = open_liveditor(path)
        with init_empty_weights():
            model = cls(**configuration(checkpoint))
        weights = {}
        for official, name in diffusers_names(model).items():
            kept = torch_dtype is not None and any(part in name.split(".") for part in cls._keep_in_fp32_modules)
            weights[name] = checkpoint.tensor(official).to(torch.float32 if kept else torch_dtype)
        model.load_state_dict(weights, assign=True)
        return model.eval()

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        context_latents: Sequence[torch.Tensor] = (),
        text_lengths: Sequence[int] | None = None,
        return_dict: bool = True,
        attention_kwargs: dict | None = None,
    ):
        """The velocity of the target.

        hidden_states: [B, 16, T, h, w], of any size; timestep: [B], 0..1000; encoder_hidden_states: [B, L, text_dim].
        context_latents: the video to edit, then references, [B, 16, T', h', w'] each.
        text_lengths: [B], tokens of each text that are attended to, where not all L are.
        Returns a Transformer2DModelOutput, or a tuple, of [B, 16, T, h, w].
        """
        frames, height, width = hidden_states.shape[2:]
        groups = [self._padded(latent) for latent in (hidden_states, *context_latents)]
        grid, *others = (
            tuple(side // patch for side, patch in zip(group.shape[2:], self.config.patch_size)) for group in groups
        )
        target = math.prod(grid)
        layout = TokenLayout(target, tuple(map(math.prod, others)))
        call = self.call_over(layout, timestep, encoder_hidden_states, context_latents)
        if isinstance(call.context, Reuse):
            groups = groups[:1]

        embedded = [self.patch_embedding(groups[0]), *(getattr(self, MEMORY)(group) for group in groups[1:])]
        tokens = torch.cat([group.flatten(2).transpose(1, 2) for group in embedded], dim=1)
        tokens = F.pad(tokens, (0, 0, 0, call.padding)) if call.padding else tokens
        rotary = self.rope(*groups, padding=call.padding)
        time, modulation, text, _ = self.condition_embedder(timestep, encoder_hidden_states)
        if text_lengths is not None:
            text = tuple(one[:, :length] for one, length in zip(text.split(1), text_lengths))
        tokens = within(call, self._run_blocks, call, tokens, text, modulation.unflatten(1, (6, -1)), rotary)

        if call.context is not None:
            context_reuse.end(self.attached_isa, call.context)
        if self._parallel_config is None:  # otherwise no process has all of the target's tokens yet
            tokens = tokens[:, :target]
        shift, scale = (self.scale_shift_table + time[:, None]).to(tokens.device).chunk(2, dim=1)
        tokens = (self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens)
        out = self._unpatchified(self.proj_out(tokens)[:, :target], grid)[:, :, :frames, :height, :width]
        return Transformer2DModelOutput(sample=out) if return_dict else (out,)

    def call_over(
        self, layout: TokenLayout, timestep: torch.Tensor, text: torch.Tensor, context: Sequence[torch.Tensor]
    ) -> ModelCall:
        """The model call that begins, with the decisions of an attached ISA. layout: of all tokens."""
        isa = getattr(self, "attached_isa", None)
        if isa is None:
            return ModelCall(layout, padding=self._padding(layout.total))
        isa.recorder.called()
        contexts = context_reuse.begin(isa, self, layout, timestep / TRAIN_TIMESTEPS, [text], context)
        running = context_reuse.running_layout(layout, contexts)
        return ModelCall(running, isa.decisions(), isa.recorder, self._padding(running.total), context=contexts)

    def _run_blocks(self, call: ModelCall, tokens, text, modulation, rotary) -> torch.Tensor:
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(Carried(block, call), tokens, text, modulation, rotary)
            else:
                tokens = block(tokens, text, modulation, rotary)
        return tokens

    def _padded(self, latent: torch.Tensor) -> torch.Tensor:
        """Pad to whole patches, as ComfyUI does: with pixels from the opposite edge."""
        missing = [-side % patch for side, patch in zip(latent.shape[2:], self.config.patch_size)]
        return (
            F.pad(latent, [end for side in reversed(missing) for end in (0, side)], mode="circular") if any(missing) else latent
        )

    def _padding(self, tokens: int) -> int:
        """Number of padding tokens with which all GPUs get equal shares. Raises ValueError for another parallelism than Ulysses,
        or heads that do not divide."""
        if self._parallel_config is None:
            return 0
        degree = self._parallel_config.context_parallel_config.ulysses_degree
        if self._parallel_config.context_parallel_config.ring_degree > 1:
            raise ValueError(
                "LIVEditor's attention needs all tokens of a head on one GPU: use ulysses_degree, not ring_degree."
            )
        if self.config.num_attention_heads % degree:
            raise ValueError(f"{self.config.num_attention_heads} attention heads cannot be shared by {degree} GPUs equally.")
        return -tokens % degree

    def _unpatchified(self, tokens: torch.Tensor, grid) -> torch.Tensor:
        """[B, target tokens, channels of a patch] -> [B, 16, T, h, w]."""
        patches = tokens.unflatten(1, tuple(grid)).unflatten(-1, (*self.config.patch_size, -1))
        return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
