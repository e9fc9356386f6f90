"""Stage 4: final instruction, direction, and what training reads: latents of both clips and the embedded text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..measure import read_frames
from ..outcomes import Outcome, Work
from ..settings import TO_REAL, About, Settings, StageChoice

ABOUT = About("triplets", ("frames", "width", "height", "direction"), uses_model=True)


def rows(kept: list[Outcome], settings: Settings) -> Iterator[tuple[str, Work]]:
    for video in kept:
        yield video.id, Work(video.edit, video.facts | {"synthetic": video.edit})


def load(choice: StageChoice):
    from ...pipelines import edit as headless  # whose import takes many seconds

    return choice.settings, headless.load(choice.model)


def edit_file(tools, work: Work, output: Path, progress: bool) -> tuple[Path, dict]:
    """Writes {"context", "target": [16, T, h, w], "text": [tokens, width] without padding}, all bf16, as safetensors."""
    from safetensors.torch import save

    from ...pipelines.encoded import encoded_clip, encoded_text

    settings, pipe = tools
    pair = directed(work.facts, settings)
    tensors = {role: encoded_clip(pipe, read_frames(pair[role]).float() / 255) for role in ("context", "target")}
    tensors["text"] = encoded_text(pipe, pair["instruction"])
    file = output.with_suffix(".safetensors")
    file.write_bytes(save(tensors))  # a full disk is an OSError, by which the engine knows it
    shapes = {name: [*tensor.shape] for name, tensor in tensors.items()}
    return file, {"file": file.name, "scores": {}, "pair": pair, "shapes": shapes}


def directed(facts: dict, settings: Settings) -> dict:
    """Which clip is the context and which the target, the instruction from the one to the other, its variants, and its task."""
    proposal, to_real = facts["proposal"], settings.direction == TO_REAL
    context, target = (facts["synthetic"], facts["real"]) if to_real else (facts["real"], facts["synthetic"])
    said = proposal["backward" if to_real else "forward"]
    task = proposal["back_task" if to_real else "task"]
    return {"context": context, "target": target, "instruction": said[0], "instructions": said, "task": task}
