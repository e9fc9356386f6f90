"""Decode Video: the latent as a file that carries its workflow, and as frames and sound for other nodes."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from pathlib import Path

import comfy.utils
import folder_paths
import torch
from comfy.cli_args import args
from comfy_api.latest import InputImpl, Types, io, ui
from comfy_execution.graph import ExecutionBlocker
from comfy_execution.utils import get_executing_context

from ..comfyui.vae_decode import decode_chunks
from ..errors import sentence
from ..video.beside import source_beside
from ..video.clip import SOURCE_CLIP, SourceClip
from ..video.geometry import VAE_STRIDE, first_frames
from ..video.region import FEATHER
from ..video.result import Result
from ..video.room import check_temporary
from ..video.sound import cut_audio
from ..video.source import FileSource
from ..video.writing.encode import write_video
from ..video.writing.formats import FORMATS, H264, Format, encoder_for
from .live import with_live_changes
from .node_text import OUTSIDE_A_GRAPH, Notices
from .output_name import check_prefix, output_path
from .outputs_used import outputs_used, outputs_used_by_running_prompt

TRAINED_FPS = 16

VIDEO, IMAGE, AUDIO = SLOTS = range(3)
"""Slots of the outputs."""

NOT_KEPT = "The frames of the last run were not kept, because nothing was connected to them: run Decode Video again."


class DecodeVideo(io.ComfyNode):
    hidden = OUTSIDE_A_GRAPH

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LIVEditorDecodeVideo",
            display_name="Decode Video",
            category="LIVEditor",
            description="Decodes the latent and saves it as a video with the source's frame rate and sound, a few frames at a time.",
            search_aliases=["LIVEditor", "save video", "mask", "masked edit", "edit video", "compare", "mp4", "vae decode video", "export video", "h264", "hevc", "av1", "prores", "webm", "gif", "png sequence"],
            inputs=[
                io.Latent.Input("samples", tooltip="The sampler's latent. A latent from In-Context References carries frame rate and sound."),
                io.Vae.Input("vae", tooltip="The VAE of Load LIVEditor."),
                io.String.Input(
                    "filename_prefix", default="video/LIVEditor",
                    tooltip="Name in the output folder; subfolders and ComfyUI's placeholders such as %date:yyyy-MM-dd% are allowed.",
                ),
                io.Int.Input(
                    "crf", default=18, min=0, max=51, display_mode=io.NumberDisplay.slider, advanced=True,
                    tooltip="Quality of the video: lower is better and larger. At 18 the video looks like the decoded frames. ProRes, GIF and "
                    "PNG have one quality.",
                ),
                io.Float.Input(
                    "fps", default=0.0, min=0.0, max=240.0, step=0.001, advanced=True,
                    tooltip="Frames per second; 0 keeps the source's, or 16 for a latent without a source. "
                    "If it differs from the source's, the sound is left out.",
                ),
                io.Boolean.Input(
                    "whole_frame", default=False, optional=True, label_on="source's frame", label_off="edited part",
                    tooltip="Puts the edit back into the source's whole frame, at the source's own size. A mask or a box does so too.",
                ),
                io.Mask.Input(
                    "mask", optional=True,
                    tooltip="Where the edit shows: 1 shows it, 0 keeps the source's own pixels. It covers the source's whole frame; "
                    "one mask for all frames, or one for each.",
                ),
                io.BoundingBox.Input(
                    "box", optional=True, force_input=True,
                    tooltip="A box in pixels of the source instead of a mask, from Bounding Box or a detector. With both, the edit "
                    "shows in either.",
                ),
                io.Int.Input(
                    "feather", default=FEATHER, min=0, max=512, optional=True,
                    tooltip="Pixels of the source over which the edit fades in, from the edge of mask or box inwards.",
                ),
                io.Boolean.Input(
                    "match_colors", default=False, optional=True,
                    tooltip="Corrects the edit's colours. With a mask or a box, the surroundings get the source's colours: for edits of "
                    "one thing, because it cancels a style of the whole picture. Without, colours do not drift over time.",
                ),
                io.Audio.Input("audio", optional=True, tooltip="Sound to use instead of the source's, from the first frame on."),
                io.Combo.Input(
                    "format", options=[*FORMATS], default=H264.name, optional=True,
                    tooltip="mp4 (H.264) plays everywhere. HEVC and AV1 are smaller, ProRes is for editing programs, gif and png "
                    "sequence (a folder) have no sound. All but gif carry the workflow.",
                ),
                io.Combo.Input(
                    "sound", options=["source", "off"], default="source", optional=True,
                    tooltip="The source's sound, or that of the input audio where it is connected; or none.",
                ),
                io.Boolean.Input(
                    "beside_source", default=False, optional=True,
                    tooltip="Saves the source on the left and the edit on the right, at the same height. IMAGE stays the edit.",
                ),
                io.Boolean.Input(
                    "draft", default=False, optional=True, label_on="temporary folder", label_off="output folder",
                    tooltip="Saves into the temporary folder, which ComfyUI empties when it starts.",
                ),
            ],
            outputs=[
                io.Video.Output(tooltip="The saved video."),
                io.Image.Output(tooltip="The edit's frames as decoded, before any compression. They are kept in memory only where this "
                "is connected."),
                io.Audio.Output(tooltip="The sound of the saved video; nothing where it has none."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.dynprompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, filename_prefix=None, format=None) -> bool | str:
        """Refuses what cannot be written before anything is sampled. None for what another node gives."""
        try:
            if filename_prefix is not None:
                check_prefix(filename_prefix, folder_paths.get_output_directory())
            if format is not None:
                if format not in FORMATS:
                    return f"There is no format {format!r}: choose one of {', '.join(FORMATS)}."
                encoder_for(FORMATS[format])
            check_temporary()
        except (ValueError, RuntimeError, OSError) as error:
            return sentence(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        """Frames that nobody needed were not kept: where they are needed now, the node has to run again."""
        used = outputs_used_by_running_prompt(cls.hidden.unique_id)
        return sorted(used & _kept_for(FORMATS.get(inputs.get("format"), H264)))

    @classmethod
    def execute(
        cls, samples, vae, filename_prefix, crf, fps, whole_frame=False, mask=None, box=None, feather=FEATHER, match_colors=False,
        audio=None, format=H264.name, sound="source", beside_source=False, draft=False,
    ) -> io.NodeOutput:  # fmt: skip
        say = Notices("Decode Video", cls.hidden.unique_id)
        latent, source, format = samples["samples"], samples.get(SOURCE_CLIP), FORMATS[format]
        frames = _frame_count(latent, vae, source)
        rate = _frame_rate(fps, source)
        audio = _sound(sound, audio, source, frames, rate, say)

        size = latent.shape[-1] * VAE_STRIDE, latent.shape[-2] * VAE_STRIDE
        chunks = _with_progress(decode_chunks(vae, latent), frames)
        aspect, originals, result = Fraction(1), None, None
        if whole_frame or mask is not None or box is not None or match_colors or beside_source:
            result = Result(_required(source), size, mask, box, feather, whole_frame, match_colors)
            for notice in result.region.notices():
                say(notice)
            size, aspect = result.size, result.pixel_aspect
            if beside_source:
                chunks, originals = result.frames_and_originals(chunks)
            else:
                chunks = result.frames(chunks)
        used = outputs_used(cls.hidden, len(SLOTS))
        kept = _Kept(frames, bool(used & _kept_for(format)))
        chunks = kept.passing(chunks)
        if beside_source:
            each = itertools.chain.from_iterable(chunks)
            chunks = (frame[None] for frame in source_beside(each, originals, None if result.whole_frame else source.crop))
            size = 2 * size[0], size[1]
        root, place = (
            (folder_paths.get_temp_directory(), io.FolderType.temp)
            if draft
            else (folder_paths.get_output_directory(), io.FolderType.output)
        )
        path, subfolder = output_path(filename_prefix, *size, format.suffix, root)
        path = write_video(path, chunks, rate, format, crf, audio, cls._metadata(), aspect, say)

        saved = ui.SavedResult(path.name, subfolder, place)
        shown = _shown(saved, format, kept.first)
        # Browsers do not report these; the page needs them to step through the video.
        facts = {
            "fps": float(rate),
            "frames": frames,
            "comparable": format.plays and not beside_source,
            "source": _shown_source(source),
        }
        shown["liveditor_video"] = [{**facts, **saved}]
        if not format.plays:
            say(f"Saved as {Path(subfolder) / path.name} in the {place.value} folder.")
        video = _video(path, format, kept.images, rate, audio)
        return io.NodeOutput(video, ExecutionBlocker(NOT_KEPT) if kept.images is None else kept.images, audio, ui=shown)

    @classmethod
    def _metadata(cls) -> dict[str, str]:
        """The tags that core's Save Video writes, from which the page reads the workflow."""
        if args.disable_metadata:
            return {}
        extra = cls.hidden.extra_pnginfo
        tags = dict(extra) if isinstance(extra, dict) else {}
        if cls.hidden.prompt is not None:
            tags["prompt"] = cls.hidden.prompt
        running = get_executing_context()
        tags = with_live_changes(tags, running and running.prompt_id)
        return {name: json.dumps(value) for name, value in tags.items()}


def _kept_for(format: Format) -> set[int]:
    """Outputs that need all frames: the pictures of a folder are no video that core could open."""
    return {VIDEO, IMAGE} if format.is_folder else {IMAGE}


def _required(source: SourceClip | None) -> SourceClip:
    if source is None:
        raise ValueError(
            "mask, box, whole_frame, match_colors and beside_source need the source video: connect a latent that comes "
            "from In-Context References."
        )
    return source


def _frame_count(latent, vae, source) -> int:
    """Number of frames to write: those that the VAE decodes, without the repetitions that padded the source."""
    over_time = isinstance(vae.upscale_ratio, tuple) and latent.ndim == 5
    decoded = vae.upscale_ratio[0](latent.shape[2]) if over_time else 0
    return min(source.clip.frames, decoded) if source else decoded


def _frame_rate(fps: float, source) -> Fraction:
    if fps <= 0:
        return source.clip.fps if source else Fraction(TRAINED_FPS)
    # 29.97, entered for 30000/1001, means the source's own rate.
    if source and abs(fps / source.clip.fps - 1) < 1e-3:
        return source.clip.fps
    return max(Fraction(fps).limit_denominator(1000), Fraction(1, 1000))


def _sound(choice: str, given: dict | None, source, frames: int, rate: Fraction, say) -> dict | None:
    """ComfyUI's AUDIO for the video, no longer than it."""
    if choice == "off":
        return None
    if given is not None:
        return cut_audio(given, frames / rate)
    if source is None or source.clip.audio is None:
        return None
    if rate != source.clip.fps:
        say("The sound is left out because fps differs from the source's. 0 keeps the source's.")
        return None
    return cut_audio(source.clip.audio, frames / rate)


class _Kept:
    """Frames that pass: the first one, and all of them where they are asked for.

    first: [1, H, W, 3], None before any. images: [frames, H, W, 3], or None.
    """

    def __init__(self, frames: int, keep: bool):
        self.first: torch.Tensor | None = None
        self.images: torch.Tensor | None = None
        self._frames, self._keep = frames, keep

    def passing(self, chunks):
        done = 0
        for chunk in chunks:
            if self.first is None:
                self.first = chunk[:1].clone()
                if self._keep:
                    self.images = torch.empty(self._frames, *chunk.shape[1:])
            if self.images is not None:
                self.images[done : done + len(chunk)] = chunk
            done += len(chunk)
            yield chunk
        if self.images is not None:
            self.images = self.images[:done]


def _shown(saved: ui.SavedResult, format: Format, first: torch.Tensor) -> dict:
    """What the node's preview shows: the video where browsers play it, else a picture."""
    if format.plays:
        return ui.PreviewVideo([saved]).as_dict()
    if format.is_folder:
        inside = Path(saved["subfolder"], saved["filename"]).as_posix()
        return ui.SavedImages([ui.SavedResult("00001.png", inside, saved.type)]).as_dict()
    if format.suffix == ".gif":
        return ui.SavedImages([saved]).as_dict()
    return ui.PreviewImage(first).as_dict()


def _shown_source(source: SourceClip | None) -> dict | None:
    """Where the page finds the source, and at which second its part begins; None for a source that is no file in ComfyUI's folders."""
    file = source.clip.source if source else None
    if not isinstance(file, FileSource) or not file.path:
        return None
    path = Path(file.path).absolute()
    folders = (("input", folder_paths.get_input_directory()), ("output", folder_paths.get_output_directory()))
    for kind, folder in (*folders, ("temp", folder_paths.get_temp_directory())):
        if path.is_relative_to(Path(folder).absolute()):
            inside = path.relative_to(Path(folder).absolute())
            place = {"filename": inside.name, "subfolder": inside.parent.as_posix() if inside.parent.name else "", "type": kind}
            return {**place, "start": float(file.start + source.clip.skipped)}
    return None


def _video(path: Path, format: Format, images: torch.Tensor | None, rate: Fraction, audio: dict | None):
    if not format.is_folder:
        return InputImpl.VideoFromFile(str(path))
    if images is None:
        return ExecutionBlocker(NOT_KEPT)
    return InputImpl.VideoFromComponents(Types.VideoComponents(images=images, audio=audio, frame_rate=rate))


def _with_progress(chunks, frames: int):
    """The first `frames` frames; updates the node's progress bar."""
    bar, done = comfy.utils.ProgressBar(frames), 0
    for chunk in first_frames(chunks, frames, "start ComfyUI with --fp32-vae"):
        yield chunk
        done += len(chunk)
        bar.update_absolute(done, frames)
