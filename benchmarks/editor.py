"""A trained small editor, the clips it is tried on, and its attention while it edits."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch

from .machine import use_comfyui

use_comfyui()

from ..comfyui.attach import OVERRIDE  # noqa: E402
from ..data.procedural.phrases import STYLE_WORDS  # noqa: E402
from ..data.procedural.stream import TASKS, EditBatch, EditStream  # noqa: E402
from ..isa_core import TokenLayout  # noqa: E402
from ..runtime.in_context import IN_CONTEXT  # noqa: E402
from ..training.tiny import text, vae  # noqa: E402
from ..training.tiny.editor import load_networks  # noqa: E402
from ..training.tiny.exports import EDITOR, ENCODER  # noqa: E402
from ..training.tiny.preview import edit  # noqa: E402
from ..video.geometry import fit_frames  # noqa: E402
from ..video.pictures import pictures_in, read_picture  # noqa: E402

REAL_STYLES = ("pencil sketch", "black and white", "night", "cartoon", "sunset", "underwater")
"""What real video is turned into: the other edits need an object that only procedural clips have."""


class Editor(NamedTuple):
    """What `training.preview.edit` takes, in its order."""

    network: torch.nn.Module
    encoder: torch.nn.Module
    tokenizer: text.Tokenizer
    autoencoder: torch.nn.Module

    def edit(self, source: torch.Tensor, instructions: list[str], steps: int, attention: Callable) -> torch.Tensor:
        """source [B, 3, 4n+1, H, W] in 0..1 -> the edited clips alike, always from the same noise.

        attention: an override for core's `transformer_options`.
        """
        network = partial(self.network, transformer_options={OVERRIDE: attention})
        return edit(network, *self[1:], source, instructions, steps=steps)


def load_editor(folder: Path, vae_folder: Path, device: torch.device | str) -> Editor:
    """From the files that training exports. Fine-tuning with ISA leaves the VAE alone, so that it may come from elsewhere."""
    return Editor(*load_networks(folder / EDITOR, folder / ENCODER, device), vae.load_export(vae_folder / vae.EXPORT, device))


@cache  # drawing takes about as long as editing, and every set of weights is tried on the same
def held_out(size: tuple[int, int, int], number: int, device: torch.device | str) -> EditBatch:
    """Batch `number` of clips of (frames, height, width) that training never shows: one for each task."""
    clips = []
    for index, task in enumerate(TASKS):
        stream = EditStream(0, 1, *size, device, split="held-out", tasks=(task,))
        # Another index for each task: the same would choose alike in all of them.
        clips.append(stream[number * len(TASKS) + index])
    source, target, region, instructions, tasks = zip(*clips)
    return EditBatch(*map(torch.cat, (source, target, region)), sum(instructions, []), sum(tasks, []))


def real_clip(path: Path, size: tuple[int, int, int], device: torch.device | str) -> tuple[torch.Tensor, list[str]]:
    """The beginning of a video, or of a folder of its frames as pictures: [B, 3, frames, H, W] in 0..1, and B instructions."""
    frames, height, width = size
    if path.is_dir():
        images = torch.stack([read_picture(file) for file in pictures_in(path)[:frames]]) / 255
    else:
        # These need PyAV, which pictures do not.
        from comfy_api.latest import InputImpl

        from ..comfyui.video_source import open_video

        images = torch.cat([*open_video(InputImpl.VideoFromFile(str(path)), frames, 0).chunks()])
    if len(images) < frames:
        raise ValueError(f"{path} holds {len(images)} frames; {frames} are needed.")
    instructions = [f"turn the video into {STYLE_WORDS[style][1][0]}" for style in REAL_STYLES]
    clip = fit_frames(images, width, height)[0].movedim(-1, 0)[None]
    return clip.expand(len(instructions), -1, -1, -1, -1).to(device), instructions


@dataclass(frozen=True)
class Call:
    """One in-context self-attention of a sampling run with full attention: q, k, v and its output `full`, [B, S, H, D]."""

    step: int
    block: int
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    full: torch.Tensor
    layout: TokenLayout
    grid: tuple[int, int, int]


def watch(editor: Editor, batch: EditBatch, steps: int, look: Callable[[Call], None]):
    """Edit with full attention and show every in-context self-attention to `look` on the way.

    The first half of each call's B are the clips with their instruction, the second half those without.
    """
    numbers = itertools.count()

    def network(x, time, words, context_latents):
        options = {OVERRIDE: partial(_watched, look, next(numbers))}
        return editor.network(x, time, words, context_latents=context_latents, transformer_options=options)

    edit(network, *editor[1:], batch.source, batch.instructions, steps=steps)


def _watched(look, step, func, q, k, v, heads, mask=None, **kwargs):
    out, options = func(q, k, v, heads, mask=mask, **kwargs), kwargs["transformer_options"]
    if IN_CONTEXT in options:
        split = (x.unflatten(2, (heads, -1)) for x in (q, k, v, out))
        look(Call(step, options["block_index"], *split, options[IN_CONTEXT].layout, tuple(options["grid_sizes"])))
    return out
