"""Queries, keys and values to measure attention on: white noise, and inputs like those in a video model.

    python -m liveditor_isa.benchmarks.attention.inputs [--tokens 65520] [--heads 40]      prints statistics of the structured ones

For whole blocks of noise no method can be right that looks at less than everything, so errors are read off `structured`.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import torch

from ...isa_core import TokenLayout

FREQUENCIES = 128
"""Random Fourier features per field."""

CLASSES = 16
"""Number of classes of objects in the picture, with sharp edges between them."""

SAME = 0.9
"""Correlation of the context's content with the target's at the same place: the video before and after an edit."""

SIGNAL = 0.85
"""Share of a query's and of a key's variance that comes from the content; the rest is independent."""

SHARES = {"field": 0.6, "class": 0.25, "token": 0.15}
"""Parts of the content: smooth fields, the class of the object, texture of the single token."""


def half_context(tokens: int) -> TokenLayout:
    return TokenLayout(tokens // 2, (tokens - tokens // 2,))


def random(layout: TokenLayout, heads: int, dim: int = 128, seed: int = 0, device="cuda", dtype=torch.bfloat16):
    """q, k, v [1, S, H, D], independent normal numbers."""
    generator = torch.Generator(device).manual_seed(seed)
    shape = 1, layout.total, heads, dim
    return [torch.randn(shape, generator=generator, device=device, dtype=dtype) for _ in range(3)]


def gate(layout: TokenLayout, device="cuda", dtype=torch.bfloat16) -> torch.Tensor:
    """[1, S, 1, 1] over the whole range that LIVEditor's gate has, -0.25..0.25."""
    return torch.linspace(-0.25, 0.25, layout.total, device=device).to(dtype).view(1, -1, 1, 1)


def structured(layout: TokenLayout, heads: int, dim: int = 128, seed: int = 0, device="cuda", dtype=torch.bfloat16):
    """q, k, v [1, S, H, D] like those of an in-context video editor's self-attention.

    Tokens lie on a (frames, rows, columns) latent grid per group, in raster order; a context group shows the target's
    content at the same places, changed a little (`SAME`). Content is a Matérn-3/2 field over position, plus a vector per
    thing shown (`CLASSES` regions with sharp edges), plus texture of the single token. A head's q and k are two noisy
    readings of one content, so that a query meets keys of like content, mostly near it; gain and length scale run
    from sharp and local to broad over the heads (`HeadStyle`). Each head adds an offset to all keys, a few channels of
    it large, as trained models have and 8-bit formats suffer from; a smaller one to all queries; and a preference for
    keys of the query's own group. v is a field with classes, noise and a mean.

    `python -m liveditor_isa.benchmarks.attention.inputs --tokens 65520` prints what exact attention over these does, means over sampled queries:
    "keys" is exp(entropy of a query's weights), "top 10 %" its mass on its best tenth of 64-token blocks.

        head  length   gain     keys  top 10 %  top 15.5 %  target on context
           0     2.0    6.2   40,104       22%         30%                49%
          10     3.2   11.3    2,226       70%         75%                26%
          20     5.0   16.5      116       95%         97%                 9%
          25     6.3    7.1   12,580       54%         62%                11%
          35     9.8   12.2      925       91%         94%                27%
        mean     5.6   11.7    6,535       73%         78%                23%

    One public figure to hold this against: in HunyuanVideo a fixed local window of 15.5 % of all tokens takes 70 % of
    the mass (arXiv 2502.04507); blocks chosen for each query must take more. How far groups prefer themselves in a
    trained in-context editor is not public: `own_group` is a guess, which errors of context queries depend on most.

    The parameters are drawn on the CPU, the noise per token on `device`: one seed gives the same tensors on one device.
    """
    q, k, v = (torch.empty(1, layout.total, heads, dim, device=device, dtype=dtype) for _ in range(3))
    for head in range(heads):
        for tensor, values in zip((q, k, v), one_head(layout, head, heads, dim, seed, device)):
            tensor[0, :, head] = values
    return [q, k, v]


@dataclass(frozen=True)
class HeadStyle:
    """length: of the fields, in latent pixels; a frame counts as 3. gain: logit of a query on a key of equal content.
    own_group: logit by which a query prefers keys of its own group."""

    length: float
    gain: float
    own_group: float

    @classmethod
    def of(cls, head: int, heads: int) -> HeadStyle:
        """Styles spread evenly; the golden ratio's multiples keep the three from rising together."""
        turns = [((head + 0.5) / heads + head * step) % 1 for step in (0, 0.618034, 0.414214)]
        return cls(length=2 * 6 ** turns[0], gain=6 + 12 * turns[1], own_group=2 * turns[2])


def one_head(layout: TokenLayout, head: int, heads: int, dim: int = 128, seed: int = 0, device="cpu"):
    """q, k, v [S, D] fp32 of one head of `structured`."""
    style = HeadStyle.of(head, heads)
    small = torch.Generator().manual_seed(1000 * seed + head)
    noise = torch.Generator(device).manual_seed(1000 * seed + head)

    def normal(*shape):
        return torch.randn(*shape, generator=small).to(device)

    def white():
        return torch.randn(layout.total, dim, generator=noise, device=device)

    position, group = positions(layout, device)
    content, value_field = _content(position, group, style, dim, normal, white)
    scale = math.sqrt(style.gain / (SIGNAL * math.sqrt(dim)))
    q, k = (scale * (math.sqrt(SIGNAL) * content + math.sqrt(1 - SIGNAL) * white()) for _ in range(2))
    own = math.sqrt(style.own_group / math.sqrt(dim)) * torch.nn.functional.normalize(normal(2, dim), dim=1) * math.sqrt(dim)
    q, k = q + own[group], k + own[group]

    offset = 0.5 * normal(dim)
    offset[:4] = 6 * scale * offset[:4].sign()
    v = math.sqrt(0.7) * value_field + math.sqrt(0.3) * white() + 0.5 * normal(dim)
    return q + 0.3 * scale * normal(dim), k + offset, v


def _content(position, group, style: HeadStyle, dim: int, normal, white):
    """What a head's queries and keys read, and what its values do: [S, D] each, of unit variance, alike where groups are."""
    frequency = _matern_frequencies(normal) / style.length
    phase = 2 * math.pi * normal(FREQUENCIES).frac()
    wave = math.sqrt(2 / FREQUENCIES) * torch.cos(position @ frequency + phase)
    things = _classes(position, normal)
    per_class, texture = normal(CLASSES, dim), white()

    def field():
        shared, changed = normal(FREQUENCIES, dim), normal(FREQUENCIES, dim)
        values = wave @ shared
        edited = group > 0
        values[edited] = SAME * values[edited] + math.sqrt(1 - SAME**2) * (wave[edited] @ changed)
        return values

    shares = {name: math.sqrt(share) for name, share in SHARES.items()}
    content = shares["field"] * field() + shares["class"] * per_class[things] + shares["token"] * _copied(texture, group)
    value = math.sqrt(0.75) * field() + math.sqrt(0.25) * normal(CLASSES, dim)[things]
    return content, value


def _copied(texture: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Noise per token in which a context's token repeats the target's of the same number, changed a little."""
    target = texture[group == 0]
    context = (group > 0).nonzero()[:, 0]
    # The second half of a target and context of one length: the same grid, so the same number is the same place.
    twin = target[torch.arange(len(context), device=texture.device) % len(target)]
    copied = texture.clone()
    copied[context] = SAME * twin + math.sqrt(1 - SAME**2) * texture[context]
    return copied


def _matern_frequencies(normal) -> torch.Tensor:
    """[3, FREQUENCIES] of a Matérn-3/2 field of unit length: Student's t with 3 degrees of freedom."""
    return normal(3, FREQUENCIES) / (normal(3, FREQUENCIES).square().mean(0)).sqrt()


def _classes(position: torch.Tensor, normal) -> torch.Tensor:
    """[S] class of each token: the highest of a few smooth fields, so regions have sharp edges."""
    frequency, phase = normal(3, 32) / 10, 2 * math.pi * normal(32).frac()
    return (torch.cos(position @ frequency + phase) @ normal(32, CLASSES)).argmax(1)


def positions(layout: TokenLayout, device="cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """[S, 3] place of each token in its group's grid, a frame as far as 3 pixels, and [S] its group (0 target, 1 context)."""
    places, groups = [], []
    for index, tokens in enumerate(layout.segments):
        frames, rows, columns = grid_for(tokens)
        number = torch.arange(tokens, device=device)
        place = torch.stack([3 * (number // (rows * columns)), number // columns % rows, number % columns], dim=1)
        places.append(place.float())
        groups.append(torch.full((tokens,), min(index, 1), device=device))
    return torch.cat(places), torch.cat(groups)


def grid_for(tokens: int) -> tuple[int, int, int]:
    """(frames, rows, columns) of about 16:9 that hold `tokens`, with few places left over: 32,760 -> (21, 30, 52)."""

    def cost(grid):
        frames, rows, columns = grid
        unused = math.prod(grid) / tokens - 1
        return 20 * unused + abs(math.log(columns / rows / 1.75)) + 0.5 * abs(math.log(frames / usual))

    usual = 21 * (tokens / 32760) ** (1 / 3)
    grids = (
        (frames, rows, math.ceil(tokens / (frames * rows)))
        for frames in range(1, 2 + math.ceil(2 * usual))
        for rows in range(1, 1 + math.isqrt(math.ceil(tokens / frames)))
    )
    return min(grids, key=cost, default=(1, 1, tokens))


def describe(layout: TokenLayout, heads: int, queries: int = 128) -> list[str]:
    """A line of statistics of exact attention for every fifth head, and their means over all."""
    rows = [_statistics(layout, head, heads, queries) for head in range(heads)]
    means = [sum(column) / heads for column in zip(*rows)]
    lines = [f"{'head':>4} {'length':>7} {'gain':>6} {'keys':>8} {'top 10 %':>9} {'top 15.5 %':>11} {'target on context':>18}"]
    for name, values in [*list(enumerate(rows))[:: max(1, heads // 8)], ("mean", means)]:
        length, gain, keys, *shares = values
        lines.append(
            f"{name:>4} {length:>7.1f} {gain:>6.1f} {keys:>8,.0f} {shares[0]:>9.0%} {shares[1]:>11.0%} {shares[2]:>18.0%}"
        )
    return lines


def _statistics(layout: TokenLayout, head: int, heads: int, queries: int) -> tuple[float, ...]:
    q, k, _ = one_head(layout, head, heads)
    pick = torch.randperm(layout.total, generator=torch.Generator().manual_seed(0))[:queries]
    weight = (q[pick] @ k.T / math.sqrt(q.shape[1])).softmax(-1)
    keys = torch.special.entr(weight).sum(1).exp()
    blocks = torch.nn.functional.pad(weight, (0, -layout.total % 64)).unflatten(1, (-1, 64)).sum(2)
    top = (blocks.topk(math.ceil(blocks.shape[1] * share), dim=1).values.sum(1).mean().item() for share in (0.1, 0.155))
    context = weight[pick < layout.target, layout.target :].sum(1).mean().item()
    style = HeadStyle.of(head, heads)
    return style.length, style.gain, keys.mean().item(), *top, context


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=65520)
    parser.add_argument("--heads", type=int, default=40)
    options = parser.parse_args()
    layout = half_context(options.tokens)
    print(f"{options.tokens:,} tokens, target and context of {grid_for(layout.target)} each, {options.heads} heads")
    print("\n".join(describe(layout, options.heads)))


if __name__ == "__main__":
    main()
