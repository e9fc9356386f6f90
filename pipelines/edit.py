"""Edits a video file to a video file, for the command line and batch jobs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ..checkpoint.dtypes import DTYPES
from ..errors import is_out_of_memory
from ..isa_core import ISAConfig
from ..runtime.call import layouts_seen
from ..runtime.kept_context import Keeping
from ..runtime.torchrun import is_first
from ..video.clip import Clip, SourceClip, open_clip
from ..video.folder import source_of
from ..video.geometry import crop_box, first_frames, fit_frames, size_within
from ..video.mask import read_mask
from ..video.region import box_list
from ..video.result import Result
from ..video.room import check_output
from ..video.source import FileSource
from ..video.writing.encode import write_video
from ..video.writing.formats import format_of
from .attention import attach_isa
from .folders import load_part, said_of
from .parallel import check_processes, local_device, share_gpus
from .pipeline import VAE_OVERFLOW, LIVEditorPipeline
from .record import TAG, record_of
from .request import Edit, ModelChoice
from .text_encoder import load_text_encoder
from .transformer import LIVEditorTransformer3DModel
from .vae import decode_video, load_vae

logger = logging.getLogger(__name__)

EVERYTHING = ISAConfig(keep_ratio=1, dense_query_ratio=1)
"""Full attention in ISA's terms."""


def load(choice: ModelChoice) -> LIVEditorPipeline:
    """The pipeline, ready to run. Under torchrun it shares its work with the other processes' GPUs.

    Raises ValueError, CheckpointError, OSError or BackendUnavailable in one sentence.
    """
    choice.check_files()
    check_processes()
    device, dtype = device_and_dtype(choice)
    pipe = pipeline_of(choice, dtype)
    for number, lora in enumerate(choice.loras):
        with said_of(Path(lora), "LoRA for this model"):
            pipe.load_lora_weights(lora, adapter_name=f"lora_{number}")
    if adapters := [*getattr(pipe.transformer, "peft_config", {})]:
        pipe.set_adapters(adapters)  # otherwise the last one alone is active
    if choice.storage == "fp8":
        pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    if choice.isa is not None or choice.refresh:
        config = choice.isa or EVERYTHING
        keeping = Keeping(choice.context_device, choice.context_dtype, choice.context_copies)
        attach_isa(pipe.transformer, config, min_tokens=choice.min_tokens, context_refresh=choice.refresh, keeping=keeping)
    place(pipe, choice, device)
    share_gpus(pipe.transformer)
    # For the record: "auto" would be another type on another machine.
    pipe.model_choice = replace(choice, dtype=next(name for name, each in DTYPES.items() if each == dtype))
    return pipe


def edit_file(
    pipe: LIVEditorPipeline,
    edit: Edit,
    output: str | Path,
    progress: bool = True,
    on_step: Callable[[int, int], None] | None = None,
    folder: Path | None = None,
) -> tuple[Path, dict]:
    """Edit, and write a video with the source's frame rate and sound. Returns its path and facts about the run.

    The ending of `output` chooses the format. The file appears under its name only when it is whole. Where a file has that name
    already, the new one gets the next number.
    on_step: called after each denoising step with how many are done, and of how many. What it raises ends the edit, and comes out.
    folder: where the file will lie in the end, if it is moved: its record names other files as seen from there.
    Several processes under torchrun all edit, and the first writes.
    Raises ValueError for bad input (one sentence: cause and cure), OSError for a full disk.
    """
    edit.check_files()
    check_output(output)
    began = time.perf_counter()
    pipe.set_progress_bar_config(disable=not progress or not is_first(), desc=Path(edit.video).name)
    clip = open_clip(source_of(edit.video, edit.fps), edit.frames, edit.fps, edit.start_frame, edit.every_nth)
    for notice in clip.notices:
        logger.warning("%s: %s", Path(edit.video).name, notice)
    width, height = edit.size or pipe.size_for(*clip.shown_size)
    result = _result(edit, clip, (width, height))
    for notice in result.region.notices():
        logger.warning("%s: %s", Path(edit.video).name, notice)
    references = read_references(edit, (width, height))
    read = time.perf_counter()
    with layouts_seen() as layouts:
        latents = sample(pipe, edit, clip, references, (width, height), on_step)
    sampled = time.perf_counter()
    path = Path(output)
    if is_first():
        chunks = result.frames(first_frames(decode_video(pipe.vae, latents), clip.frames, VAE_OVERFLOW))
        made = replace(edit, steps=pipe.num_timesteps, guidance=pipe.guidance_scale)
        record = record_of(
            made, getattr(pipe, "model_choice", None), folder or (path if format_of(path).is_folder else path.parent)
        )
        tags = {TAG: json.dumps(record)}
        path = write_video(
            path, chunks, clip.fps, format_of(path), audio=clip.audio, metadata=tags, pixel_aspect=result.pixel_aspect
        )
    pipe.maybe_free_model_hooks()
    facts = {
        "frames": clip.frames,
        "fps": float(clip.fps),
        "width": result.size[0],
        "height": result.size[1],
        "edit_width": width,
        "edit_height": height,
        "tokens": layouts[-1].total if layouts else 0,
        "steps": pipe.num_timesteps,
        "read_seconds": round(read - began, 3),
        "sampling_seconds": round(sampled - read, 3),
        "writing_seconds": round(time.perf_counter() - sampled, 3),
    }
    if isa := getattr(pipe.transformer, "attached_isa", None):
        facts["isa"] = isa.report().splitlines()
    return path, facts


def read_references(edit: Edit, size: tuple[int, int]) -> list[torch.Tensor]:
    """Its references, [F, 3, H, W] in 0..1 each. size: width and height of the edit."""
    return [_reference(path, edit.frames, max(size)).movedim(-1, 1) for path in edit.references]


def sample(
    pipe: LIVEditorPipeline,
    edit: Edit,
    clip: Clip,
    references: list[torch.Tensor],
    size: tuple[int, int],
    on_step: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """The edit's latents, as the pipeline gives them. on_step: as in `edit_file`."""
    width, height = size
    return pipe(
        clip, edit.prompt, edit.negative_prompt, references, height, width, edit.steps, edit.guidance,
        generator=torch.Generator().manual_seed(edit.seed), output_type="latent", return_dict=False, window=edit.window,
        window_overlap=edit.window_overlap,
        callback_on_step_end=on_step and (lambda pipe, index, *_: on_step(index + 1, pipe.num_timesteps)),
    )[0]  # fmt: skip


def pipeline_of(choice: ModelChoice, dtype: torch.dtype, transformer=None) -> LIVEditorPipeline:
    """The chosen model's. transformer: the network in place of the chosen one's, which is then not loaded."""
    if choice.model == "tiny":
        return LIVEditorPipeline.included(dtype, transformer)
    if Path(choice.model).is_dir():
        return _from_folder(choice, dtype, transformer)
    assert choice.text_encoder and choice.vae
    return LIVEditorPipeline.from_files(choice.model, choice.text_encoder, choice.vae, dtype, transformer)


def _from_folder(choice: ModelChoice, dtype: torch.dtype, transformer=None) -> LIVEditorPipeline:
    """With the parts that the choice names in place of the folder's own, which are then not opened.

    Raises for missing weights, which `from_pretrained` alone would replace with random ones.
    """
    folder = Path(choice.model)
    tokenizer, encoder = load_text_encoder(choice.text_encoder or folder, dtype)
    vae = load_vae(choice.vae or folder, dtype)
    if transformer is None:
        transformer = load_part(LIVEditorTransformer3DModel, folder, "transformer", dtype)
    with said_of(folder, "LIVEditorPipeline"):
        return LIVEditorPipeline.from_pretrained(
            str(folder), tokenizer=tokenizer, text_encoder=encoder, vae=vae, transformer=transformer, local_files_only=True
        )


def device_and_dtype(choice: ModelChoice) -> tuple[torch.device, torch.dtype]:
    """Raises ValueError in one sentence for a device that cannot be used, or an offload that there is not for it."""
    device = _device(choice.device)
    if choice.offload != "none" and device.type == "cpu":
        raise ValueError(
            f"offload '{choice.offload}' moves weights between GPU and memory, but the device is the CPU: leave it out."
        )
    if choice.dtype == "auto":
        return device, torch.float32 if device.type == "cpu" else torch.bfloat16
    return device, DTYPES[choice.dtype]


def place(pipe, choice: ModelChoice, device: torch.device) -> None:
    """Put a pipeline of diffusers where the choice has its weights."""
    if choice.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif choice.offload == "layers":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)


def _device(name: str) -> torch.device:
    if name == "auto":
        return local_device()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        words = str(error).strip().split("\n")[0].rstrip(".")
        raise ValueError(f"device '{name}' cannot be used ({words}): take auto, cpu, cuda or cuda:1.") from None
    return device


def _result(edit: Edit, clip: Clip, size: tuple[int, int]) -> Result:
    """How the edit is shown; size: width and height of it."""
    # One more than the source's, of which it is told that it is longer.
    mask = read_mask(edit.mask, clip.source_frames + 1) if edit.mask else None
    source = SourceClip(clip, crop_box(clip.size, *size, clip.pixel_aspect))
    return Result(source, size, mask, box_list(edit.boxes), edit.feather, edit.whole_frame, edit.match_colors)


def _reference(path: str, frames: int, longest: int) -> torch.Tensor:
    """[F, H, W, 3] in 0..1 of a reference image or video, no longer than the edit, and no side longer than its sides."""
    clip = open_clip(FileSource(path), frames, 0, sound=False)
    size = size_within(*clip.shown_size, longest)
    return torch.cat([fit_frames(chunk, *size, clip.pixel_aspect)[0] for chunk in clip.chunks()])
