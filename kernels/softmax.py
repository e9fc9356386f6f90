"""One tile of the online softmax, in powers of two, shared by the sparse and the dense kernel.

query [R, D], key and value [K, D]; peak and total [R] fp32, acc [R, D] fp32: the running maximum of the scaled logits,
the sum of weights and that of weighted values. scale holds log2(e) already.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def step(query, key, value, scale, peak, total, acc):
    """All keys are valid. The exponential includes the scale, which saves one operation per score."""
    score = tl.dot(query, key.T, input_precision="ieee")
    highest = tl.maximum(peak, tl.max(score, axis=1) * scale)
    shrink = tl.exp2(peak - highest)
    weight = tl.exp2(score * scale - highest[:, None])
    acc = tl.dot(weight.to(value.dtype), value, acc * shrink[:, None], input_precision="ieee")
    return highest, total * shrink + tl.sum(weight, axis=1), acc


@triton.jit
def biased_step(query, key, value, scale, bias, peak, total, acc):
    """bias [K] is added to the scaled logits, -inf where there is no key."""
    score = tl.dot(query, key.T, input_precision="ieee") * scale + bias[None]
    return scored_step(score, value, peak, total, acc)


@triton.jit
def scored_step(score, value, peak, total, acc):
    """score [R, K]: scaled and biased logits. A row may be all -inf, also in the first tile."""
    highest = tl.maximum(tl.maximum(peak, tl.max(score, axis=1)), -1e30)
    shrink = tl.exp2(peak - highest)
    weight = tl.exp2(score - highest[:, None])
    acc = tl.dot(weight.to(value.dtype), value, acc * shrink[:, None], input_precision="ieee")
    return highest, total * shrink + tl.sum(weight, axis=1), acc
