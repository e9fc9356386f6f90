"""Pictures of a run: a loss curve, and edits of held-out clips."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from comfy.latent_formats import Wan21
from PIL import Image, ImageDraw

from ...data.procedural.stream import EditBatch
from . import text
from .editor import shifted
from .latents import eager_half, encode_clips
from .vae_network import decode


@torch.no_grad()
def edit(network, encoder, tokenizer, autoencoder, source, instructions, steps: int = 12, guidance: float = 1.5, shift: float = 6.0):  # fmt: skip
    """source [B, 3, 4n+1, H, W] in 0..1 -> the edited clips alike. Euler steps, with guidance away from no instruction."""
    device = source.device
    context = encode_clips(autoencoder, source)
    ids = tokenizer([*instructions, *[""] * len(instructions)]).to(device)
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(context.shape, device=device, generator=generator)
    levels = shifted(torch.linspace(1, 0, steps + 1), shift)
    words, both = text.encode_text(encoder, ids, context.dtype), torch.cat([context, context])
    with torch.compiler.set_stance("force_eager"):  # otherwise every size would be compiled
        for level, following in zip(levels.tolist(), levels[1:].tolist()):
            time = torch.full((len(both),), 1000 * level, device=device)
            velocity = network(torch.cat([x, x]).to(context.dtype), time, words, context_latents=[both]).float()
            asked, unasked = velocity.chunk(2)
            x = x + (following - level) * (unasked + guidance * (asked - unasked))
    with eager_half(device):
        clips = [decode(autoencoder, Wan21().process_out(part)) for part in x.split(4)]
    return (torch.cat(clips).float() / 2 + 0.5).clamp(0, 1)


def sheet(batch: EditBatch, output: torch.Tensor, path: Path, frames: int = 3):
    """Rows of source, ground truth and output for each clip, under its instruction."""
    chosen = torch.linspace(0, batch.source.shape[2] - 1, frames).round().long()
    rows = torch.stack([clips.float().cpu()[:, :, chosen] for clips in (batch.source, batch.target, output)], dim=1)
    # [B, 3 rows, 3, frames, H, W] -> each clip a picture of three rows.
    pictures = rows.permute(0, 1, 4, 3, 5, 2).flatten(1, 2).flatten(2, 3)
    columns, caption = 4, 14
    height, width = pictures.shape[1:3]
    page = Image.new("RGB", (columns * (width + 4), -(-len(pictures) // columns) * (height + caption)), "white")
    draw = ImageDraw.Draw(page)
    for index, picture in enumerate(pictures):
        left, top = index % columns * (width + 4), index // columns * (height + caption)
        draw.text((left, top), batch.instructions[index][: width // 6], fill="black")
        page.paste(Image.fromarray((255 * picture).round().byte().numpy()), (left, top + caption))
    page.save(path)


def loss_plot(logs: dict[str, Path], path: Path):
    """One panel for each log of `run.log_line`: its loss over its steps, smoothed, and the learning rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(logs), figsize=(6 * len(logs), 3.5), squeeze=False)
    for panel, (name, log) in zip(panels[0], logs.items()):
        lines = [line for line in map(json.loads, log.read_text(encoding="utf-8").splitlines()) if "loss" in line]
        steps, losses = zip(*((line["step"], line["loss"]) for line in lines))
        smooth = [sum(losses[max(0, i - 15) : i + 1]) / len(losses[max(0, i - 15) : i + 1]) for i in range(len(losses))]
        panel.plot(steps, losses, color="0.8", linewidth=0.6)
        panel.plot(steps, smooth, label="loss")
        panel.set(title=name, xlabel="step", yscale="log")
        rate = panel.twinx()
        rate.plot(steps, [line["learning_rate"] for line in lines], color="tab:orange", linewidth=0.8)
        rate.set(ylabel="learning rate", yscale="log")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
