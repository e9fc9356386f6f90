"""The LIVEditor network on ComfyUI's WanModel: a second patch embedding, RoPE reset per token group, a gated residual.

Facts: arXiv 2605.04569, section 3 and appendix B, and the key names of its released checkpoint.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import comfy.ldm.common_dit
import comfy.ops
import torch
from comfy.ldm.flux.math import apply_rope1
from comfy.ldm.modules.attention import optimized_attention
from comfy.ldm.wan.model import WanAttentionBlock, WanModel, WanSelfAttention, sinusoidal_embedding_1d

from ..isa_core import TokenLayout, add_coarse_residual, coarse_gate
from ..runtime.call import ModelCall
from ..runtime.core_attention import OVERRIDE, with_residual
from ..runtime.finite import require_finite
from ..runtime.in_context import CALL, CONTEXT_LATENTS, IN_CONTEXT, InContextCall, InContextNetwork

logger = logging.getLogger(__name__)

TOKENS_AT_A_TIME = 8192


def gate_projection(dim: int, operation_settings: dict) -> torch.nn.Module:
    """The one output of which `coarse_gate` makes a token's factor; a layer of core's, so that LoRA, offload and any kind of
    quantised weight work as they do elsewhere."""
    operations = operation_settings["operations"]
    if isinstance(operations, type) and issubclass(operations, comfy.ops.fp8_ops):
        operations = comfy.ops.manual_cast  # fp8 matrix products need at least 16 outputs
    return operations.Linear(dim, 1, bias=False, **{name: operation_settings.get(name) for name in ("device", "dtype")})


def rotate(x: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
    """Core's RoPE of x [B, S, H, D], which is written over, by freqs over all S tokens.

    A part at a time: where core has no kernel of its own for it, it computes in fp32, which for a whole video would be
    the highest point of a step's memory.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return apply_rope1(x, freqs)
    for start in range(0, x.shape[1], TOKENS_AT_A_TIME):
        part = slice(start, start + TOKENS_AT_A_TIME)
        x[:, part] = apply_rope1(x[:, part], freqs[:, part])
    return x


class LIVEditorSelfAttention(WanSelfAttention):
    """Self-attention over target and context tokens, plus the coarse residual, in front of the output projection.

    Other nodes put a `forward` of their own in place of this one. So the residual is added where core's attention is called,
    by an override that a hook in front of `forward` brings; a hook behind it sees whether that happened.
    """

    def __init__(self, dim, *args, operation_settings, **kwargs):
        super().__init__(dim, *args, operation_settings=operation_settings, **kwargs)
        self.alpha_1 = gate_projection(dim, operation_settings)
        self.register_forward_pre_hook(_publish, with_kwargs=True)
        self.register_forward_hook(_require_residual, with_kwargs=True)

    def forward(self, x, freqs, transformer_options={}, **kwargs):
        """x [B, S, dim], freqs over all S tokens -> [B, S, dim]. The layout is that of `transformer_options[CALL]`.

        kwargs: what a newer core gives its attention, unseen.
        """
        options = published(self, x, transformer_options)
        q, k, v = self.heads(x, freqs)
        flat = (each.flatten(2) for each in (q, k, v))
        out = optimized_attention(*flat, heads=self.num_heads, transformer_options=options, **kwargs)
        for patch in transformer_options.get("patches", {}).get("attn1_patch", []):
            out = patch({"x": out, "q": q, "k": k, "transformer_options": transformer_options})
        return self.o(out)

    def heads(self, x, freqs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[B, S, dim] -> normed and rotated queries and keys, and values, [B, S, H, D]."""
        split = (self.num_heads, self.head_dim)
        q = rotate(self.norm_q(self.q(x)).unflatten(2, split), freqs)
        k = rotate(self.norm_k(self.k(x)).unflatten(2, split), freqs)
        return q, k, self.v(x).unflatten(2, split)

    def residual_alone(self, x, freqs, call: InContextCall) -> torch.Tensor:
        """The residual after the output projection, [B, S, dim], from the input. Computes queries, keys and values again."""
        heads = self.heads(x, freqs)
        coarse = add_coarse_residual(torch.zeros_like(heads[0]), *heads, call.coarse_gate, call.layout).flatten(2)
        return self.o(coarse) - self.o(torch.zeros_like(coarse[:1, :16]))[:, :1]  # without the projection's bias


def published(attention: LIVEditorSelfAttention, x: torch.Tensor, options: dict) -> dict:
    """`options` with the InContextCall of this attention and the override that adds its residual, unless they are there."""
    if options.get(IN_CONTEXT) is not None:
        return options
    call = InContextCall(options[CALL].layout, coarse_gate(attention.alpha_1(x)))
    return {**options, IN_CONTEXT: call, OVERRIDE: with_residual(options.get(OVERRIDE))}


def _publish(attention, args, kwargs):
    """Called before `forward`, also before one that another node has replaced."""
    (x, freqs), options, others = _arguments(*args, **kwargs)
    return (x, freqs), {"transformer_options": published(attention, x, options), **others}


def _require_residual(attention, args, kwargs, out):
    """Called after `forward`: add the residual if no override has added it. Raises RuntimeError if that is impossible."""
    call = kwargs["transformer_options"][IN_CONTEXT]
    if call.residual_added:
        return None
    by = name_of(attention.forward)
    if out.shape != args[0].shape:
        raise RuntimeError(
            f"{by} took LIVEditor's self-attention and gave back {[*out.shape]} instead of {[*args[0].shape]}, so its coarse "
            "residual, without which edits are wrong, cannot be added: remove the node that patches self-attention."
        )
    _warn_once(by)
    return out + attention.residual_alone(*args, call)


def _arguments(x, freqs, transformer_options={}, **others):
    return (x, freqs), transformer_options, others


def name_of(function) -> str:
    """Of a patch, for a user who wants to know which node brought it."""
    function = getattr(function, "__func__", function)
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"


_warned: set[str] = set()


@torch.compiler.disable
def _warn_once(by: str):
    if by not in _warned:
        _warned.add(by)
        logger.warning(
            "%s took LIVEditor's self-attention past ComfyUI's own: the coarse residual is computed by itself, which takes "
            "longer, and ISA cannot act", by,
        )  # fmt: skip


class LIVEditorBlock(WanAttentionBlock):
    """A Wan block with LIVEditor's self-attention."""

    def __init__(self, *args, operation_settings, **kwargs):
        super().__init__(*args, operation_settings=operation_settings, **kwargs)
        self.self_attn = LIVEditorSelfAttention(
            self.dim, self.num_heads, self.window_size, self.qk_norm, self.eps, operation_settings=operation_settings
        )


class LIVEditorModel(InContextNetwork, WanModel):
    """Wan 2.2 T2V with context videos: tokens are [target | context 1 | context 2 ...], the head sees the target only."""

    def __init__(self, *args, device=None, operations=None, **kwargs):
        super().__init__(*args, device=device, operations=operations, wan_attn_block_class=LIVEditorBlock, **kwargs)
        # In fp32 like Wan's own patch embedding.
        self.source_video_embedding_more_memory = operations.Conv3d(
            self.in_dim, self.dim, kernel_size=self.patch_size, stride=self.patch_size, device=device, dtype=torch.float32
        )

    def _forward(self, x, timestep, context, clip_fea=None, time_dim_concat=None, transformer_options={}, **kwargs):
        """x [B, 16, T, h, w], context (text) [B, L, C], kwargs["context_latents"] list of [B, 16, T', h', w'] -> like x."""
        frames, height, width = x.shape[2:]
        groups = [
            comfy.ldm.common_dit.pad_to_patch_size(latent, self.patch_size)
            for latent in (x, *(kwargs.get(CONTEXT_LATENTS) or ()))
        ]
        # Every group's positions start at (0, 0, 0).
        freqs = torch.cat(
            [
                self.rope_encode(*group.shape[2:], device=x.device, dtype=x.dtype, transformer_options=transformer_options)
                for group in groups
            ],
            dim=1,
        )
        out = self.forward_orig(
            groups[0], timestep, context, freqs=freqs, transformer_options=transformer_options, context_latents=groups[1:]
        )
        # A training loop checks its own loss and must not wait for the GPU here; an outer guard checks by itself.
        call = transformer_options.get(CALL)
        if not out.requires_grad and not (call and call.decisions and call.decisions.guard):
            require_finite(out, self, x)
        return out[:, :, :frames, :height, :width]

    def forward_orig(self, x, t, context, clip_fea=None, freqs=None, transformer_options={}, context_latents=(), **kwargs):
        """Groups already padded to whole patches: x [B, 16, T, h, w], freqs over all tokens -> [B, 16, T, h, w]."""
        hidden, grid, layout = self._embed(x, context_latents)

        # One timestep for all groups: [B, 1, ...] broadcasts over the tokens.
        with t.device:  # core creates the frequencies on the default device; a CUDA graph cannot record the copy
            waves = sinusoidal_embedding_1d(self.freq_dim, t.flatten())
        time = self.time_embedding(waves.to(hidden.dtype))[:, None]
        modulation = self.time_projection(time).unflatten(2, (6, self.dim))
        text = self.text_embedding(context)

        transformer_options.update(grid_sizes=grid, total_blocks=len(self.blocks), block_type="double")
        # Entries of this call go into a new dict, because the caller may use its dict for another call.
        options = {**transformer_options, CALL: replace(transformer_options.get(CALL) or ModelCall(), layout=layout)}
        replacements = options.get("patches_replace", {}).get("dit", {})
        for index, block in enumerate(self.blocks):
            # Core uses one dict for all blocks. A block that autograd may run again needs its own.
            options = {**options} if torch.is_grad_enabled() else options
            options["block_index"] = index
            hidden = self._run_block(block, index, replacements, hidden, text, modulation, freqs, options)
            for patch in options.get("patches", {}).get("double_block", []):
                args = {"img": hidden, "x": x, "vec": time, "block_index": index, "img_offset": 0}
                hidden = patch({**args, "transformer_options": options})["img"]

        return self.unpatchify(self.head(hidden[:, : layout.target], time), grid)

    def _embed(self, x, context_latents) -> tuple[torch.Tensor, torch.Size, TokenLayout]:
        """(tokens of all groups [B, S, dim], the target's grid, the layout); the fp32 embeddings are freed on return."""
        embedded = [self.patch_embedding(x.float())]
        embedded += [self.source_video_embedding_more_memory(latent.float()) for latent in context_latents]
        tokens = [group.flatten(2).transpose(1, 2).to(x.dtype) for group in embedded]
        layout = TokenLayout(tokens[0].shape[1], tuple(group.shape[1] for group in tokens[1:]))
        return torch.cat(tokens, dim=1), embedded[0].shape[2:], layout

    @staticmethod
    def _run_block(block, index, replacements, hidden, text, modulation, freqs, options):
        """Run a block, or what another node put in its place through core's `patches_replace`."""

        def original(args):
            inputs = {"e": args["vec"], "freqs": args["pe"], "context": args["txt"]}
            return {"img": block(args["img"], **inputs, transformer_options=args["transformer_options"])}

        args = {"img": hidden, "txt": text, "vec": modulation, "pe": freqs, "transformer_options": options}
        replace = replacements.get(("double_block", index))
        return (replace(args, {"original_block": original}) if replace else original(args))["img"]
