"""Core's nodes for attention as cores after 0.30 register them, for a core that lacks them. Needs ComfyUI."""

import comfy.patcher_extension
import torch
from liveditor_isa.runtime.core_attention import OVERRIDE

OF_SPARSE = "/ComfyUI/comfy_extras/nodes_sparse_attention"
"""The module of *Model Sparse Attention* on a server, which gives such files their path for a name."""


def sparse_override(log: list, previous):
    """Takes every self-attention without a mask, which it answers with the mean of all values; appends its number of tokens."""

    def override(func, q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, skip_output_reshape=False, **kwargs):
        if mask is None and q.shape == k.shape:
            log.append(q.shape[1])
            return v.mean(1, keepdim=True).expand_as(v)
        keywords = {"mask": mask, "attn_precision": attn_precision, "skip_reshape": skip_reshape, **kwargs}
        keywords["skip_output_reshape"] = skip_output_reshape
        return func(q, k, v, heads, **keywords) if previous is None else previous(func, q, k, v, heads, **keywords)

    override.__module__ = OF_SPARSE
    return override


def model_sparse_attention(model, log: list):
    """As *Model Sparse Attention*: in front when it is patched in, and again at every step."""
    clone, own = model.clone(), set()

    def install(options: dict):
        current = options.get(OVERRIDE)
        if current not in own:
            options[OVERRIDE] = sparse_override(log, current)
            own.add(options[OVERRIDE])

    install(clone.model_options["transformer_options"])
    clone.add_callback_with_key(
        comfy.patcher_extension.CallbacksMP.ON_PREPARE_STATE,
        "block_sparse_attention",
        lambda patcher, timestep, model_options: install(model_options["transformer_options"]),
    )
    return clone


def sparse_in_blocks(model, log: list):
    """As *Model Sparse Attention* on MiniMax H3: each block is given another attention from its place, past any override."""
    clone = model_sparse_attention(model, [])

    def attention(h, rope_freqs=None, transformer_options={}):
        log.append(len(h))
        return h * 0

    attention.__module__ = OF_SPARSE
    for number in range(len(clone.model.diffusion_model.blocks)):
        clone.set_model_patch_replace(
            lambda args, extra: extra["original_block"]({**args, "attention": attention}), "dit", "double_block", number
        )
    return clone


def blocks_that_take_an_attention(model):
    """A clone whose blocks do as a newer core's: with another attention, which is all that they compute here."""
    clone = model.clone()

    def taking(earlier):
        def block(args, extra):
            def original(given):
                if "attention" in given:
                    return {"img": given["img"] + given["attention"](given["img"])}
                return extra["original_block"](given)

            return earlier(args, {"original_block": original})

        return block

    def wrapper(executor, x, timestep, context, transformer_options={}, **kwargs):
        replaced = transformer_options["patches_replace"]["dit"]
        options = {**transformer_options, "patches_replace": {"dit": {key: taking(each) for key, each in replaced.items()}}}
        return executor(x, timestep, context, transformer_options=options, **kwargs)

    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "newer core", wrapper)
    return clone


def model_attention_backend(model, log: list):
    """As *Model Attention Backend*: in the place of any override. Exact attention, which appends (queries, keys)."""
    clone = model.clone()

    def attention(q, k, v, heads, mask=None, **kwargs):
        log.append((q.shape[1], k.shape[1]))
        q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    if hasattr(clone, "set_model_optimized_attention"):
        clone.set_model_optimized_attention(attention)
        return clone

    def override(_, *args, **kwargs):
        return attention(*args, **kwargs)

    override.__module__ = "comfy.model_patcher"
    clone.model_options["transformer_options"][OVERRIDE] = override
    return clone
