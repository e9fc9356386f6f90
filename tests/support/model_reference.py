"""The LIVEditor network written for reading, in fp64 and without ComfyUI: the oracle for the model class.

Facts: arXiv 2605.04569, section 3 and appendix B; Wan 2.1 for what LIVEditor leaves unchanged.
"""

import torch
import torch.nn.functional as F
from liveditor_isa.isa_core import TokenLayout
from liveditor_isa.isa_core.layout import block_table

HEAD_DIM, EPS = 128, 1e-6


def reference_forward(weights: dict, x, timestep, text, contexts):
    """x [1, 16, T, h, w] with even h and w, timestep 0..1000, text [1, L, C], contexts like x -> velocity like x."""
    w = {name: weight.double() for name, weight in weights.items()}
    x, text = x.double(), text.double()

    def linear(name, y):
        return F.linear(y, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(y):
        return F.layer_norm(y, y.shape[-1:], eps=EPS)

    def rms(name, y):
        return y * torch.rsqrt(y.square().mean(-1, keepdim=True) + EPS) * w[f"{name}.weight"]

    def embed(name, latent):
        return F.conv3d(latent, w[f"{name}.weight"], w[f"{name}.bias"], stride=(1, 2, 2)).flatten(2).mT

    groups = [embed("patch_embedding", x)]
    groups += [embed("source_video_embedding_more_memory", context.double()) for context in contexts]
    angles = torch.cat([rope_angles(latent) for latent in (x, *contexts)])
    layout = TokenLayout(groups[0].shape[1], tuple(group.shape[1] for group in groups[1:]))
    hidden = torch.cat(groups, dim=1)

    frequencies = 10000.0 ** (-torch.arange(128, dtype=torch.float64) / 128)
    waves = torch.cat([(timestep * frequencies).cos(), (timestep * frequencies).sin()])[None]
    time = linear("time_embedding.2", F.silu(linear("time_embedding.0", waves)))
    modulation = linear("time_projection.1", F.silu(time)).reshape(1, 6, -1)
    text = linear("text_embedding.2", F.gelu(linear("text_embedding.0", text), approximate="tanh"))

    def split(y):
        return y.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)

    def merge(y):
        return y.transpose(1, 2).flatten(2)

    blocks = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))
    for b in (f"blocks.{index}" for index in range(blocks)):
        shift1, scale1, gate1, shift2, scale2, gate2 = (w[f"{b}.modulation"] + modulation).unbind(1)

        y = norm(hidden) * (1 + scale1) + shift1
        a = f"{b}.self_attn"
        q = rotate(split(rms(f"{a}.norm_q", linear(f"{a}.q", y))), angles)
        k = rotate(split(rms(f"{a}.norm_k", linear(f"{a}.k", y))), angles)
        v = split(linear(f"{a}.v", y))
        gate = 0.5 * (torch.sigmoid(y @ w[f"{a}.alpha_1.weight"].mT) - 0.5)
        attended = merge(softmax_attention(q, k, v)) + gate * merge(coarse_attention(q, k, v, layout))
        hidden = hidden + linear(f"{a}.o", attended) * gate1

        c = f"{b}.cross_attn"
        y = norm(hidden) * w[f"{b}.norm3.weight"] + w[f"{b}.norm3.bias"]
        q, k = split(rms(f"{c}.norm_q", linear(f"{c}.q", y))), split(rms(f"{c}.norm_k", linear(f"{c}.k", text)))
        hidden = hidden + linear(f"{c}.o", merge(softmax_attention(q, k, split(linear(f"{c}.v", text)))))

        y = norm(hidden) * (1 + scale2) + shift2
        hidden = hidden + linear(f"{b}.ffn.2", F.gelu(linear(f"{b}.ffn.0", y), approximate="tanh")) * gate2

    shift, scale = (w["head.modulation"] + time[:, None]).unbind(1)
    out = linear("head.head", norm(hidden[:, : layout.target]) * (1 + scale) + shift)
    _, _, t, h, width = x.shape
    out = out.reshape(1, t, h // 2, width // 2, 1, 2, 2, 16)
    return out.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(x.shape)


def softmax_attention(q, k, v):
    return torch.softmax(q @ k.mT / HEAD_DIM**0.5, -1) @ v


def coarse_attention(q, k, v, layout):
    """Attention between block means, each row spread over its block; blocks never straddle two groups."""
    lengths = list(block_table(layout, 64).lengths)
    means = [torch.stack([part.mean(2) for part in y.split(lengths, dim=2)], dim=2) for y in (q, k, v)]
    return softmax_attention(*means).repeat_interleave(torch.tensor(lengths), dim=2)


def rope_angles(latent) -> torch.Tensor:
    """[tokens, HEAD_DIM / 2]: positions of one group, which start at (0, 0, 0), times the axes' frequencies."""
    t, h, w = latent.shape[2], latent.shape[3] // 2, latent.shape[4] // 2
    sizes = [HEAD_DIM - 4 * (HEAD_DIM // 6), 2 * (HEAD_DIM // 6), 2 * (HEAD_DIM // 6)]
    grid = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (t, h, w)), indexing="ij")
    parts = []
    for size, position in zip(sizes, grid):
        frequencies = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        parts.append(position.reshape(-1, 1) * frequencies)
    return torch.cat(parts, dim=1)


def rotate(y, angles):
    """Neighbouring pairs of channels as complex numbers, turned by their angles."""
    turned = torch.view_as_complex(y.unflatten(-1, (-1, 2)).contiguous()) * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2)
