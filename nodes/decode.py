"""Decode Video: the latent as an mp4 that carries its workflow."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction

import comfy.utils
from comfy.cli_args import args
from comfy_api.latest import InputImpl, io, ui
from comfy_execution.utils import get_executing_context

from ..comfyui.vae_decode import decode_chunks
from ..video.clip import SOURCE_CLIP, SourceClip, cut_audio
from ..video.colour import match_colours
from ..video.composite import put_back
from ..video.geometry import VAE_STRIDE, first_frames
from ..video.mp4 import write_mp4
from ..video.region import Region
from .live import with_live_changes
from .node_text import show_on_node
from .output_name import output_path

TRAINED_FPS = 16


class DecodeVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LIVEditorDecodeVideo",
            display_name="Decode Video",
            category="LIVEditor",
            description="Decodes the latent and saves it as an mp4 with the source's frame rate and sound, a few frames at a time.",
            search_aliases=["LIVEditor", "save video", "mp4", "vae decode video", "export video", "h264"],
            inputs=[
                io.Latent.Input("samples", tooltip="The sampler's latent. A latent from In-Context References carries frame rate and sound."),
                io.Vae.Input("vae", tooltip="The VAE of Load LIVEditor."),
                io.String.Input(
                    "filename_prefix", default="video/LIVEditor",
                    tooltip="Name in the output folder; subfolders and ComfyUI's placeholders such as %date:yyyy-MM-dd% are allowed.",
                ),
                io.Int.Input(
                    "crf", default=18, min=0, max=51, display_mode=io.NumberDisplay.slider, advanced=True,
                    tooltip="Quality of the mp4: lower is better and larger. At 18 the mp4 looks like the decoded frames.",
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
                    "feather", default=16, min=0, max=512, optional=True,
                    tooltip="Pixels of the source over which the edit fades in, from the edge of mask or box inwards.",
                ),
                io.Boolean.Input(
                    "match_colors", default=False, optional=True,
                    tooltip="Corrects the edit's colours. With a mask or a box, the surroundings get the source's colours: for edits of "
                    "one thing, because it cancels a style of the whole picture. Without, colours do not drift over time.",
                ),
            ],
            outputs=[io.Video.Output(tooltip="The saved video.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, samples, vae, filename_prefix, crf, fps, whole_frame=False, mask=None, box=None, feather=16, match_colors=False
    ) -> io.NodeOutput:  # fmt: skip
        latent, source = samples["samples"], samples.get(SOURCE_CLIP)
        frames = _frame_count(latent, vae, source)
        rate = _frame_rate(fps, source)
        audio = cut_audio(source.clip.audio, frames / rate) if source else None
        if audio is not None and rate != source.clip.fps:
            show_on_node(
                cls.hidden.unique_id, "The sound is left out because fps differs from the source's. 0 keeps the source's."
            )
            audio = None

        size = latent.shape[-1] * VAE_STRIDE, latent.shape[-2] * VAE_STRIDE
        chunks = _with_progress(decode_chunks(vae, latent), frames)
        whole_frame = whole_frame or mask is not None or box is not None
        if whole_frame or match_colors:
            region = cls._region(source, mask, box, feather)
            size = region.size if whole_frame else size
            chunks = _with_source(chunks, source, region, whole_frame, match_colors)
        path, subfolder = output_path(filename_prefix, *size)
        path = write_mp4(path, chunks, rate, crf, audio, cls._metadata())
        shown = ui.PreviewVideo([ui.SavedResult(path.name, subfolder, io.FolderType.output)]).as_dict()
        # Browsers do not report these; the page needs them to step through the video.
        shown["liveditor_video"] = [{"fps": float(rate), "frames": frames}]
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), ui=shown)

    @classmethod
    def _region(cls, source: SourceClip | None, mask, box, feather: int) -> Region:
        if source is None:
            raise ValueError(
                "mask, box, whole_frame and match_colors need the source video: connect a latent that comes from "
                "In-Context References."
            )
        region = Region(source.clip.size, source.crop, mask, box, feather)
        if mask is not None:
            (height, width), (across, down) = mask.shape[-2:], source.clip.size
            if abs(width * down / (height * across) - 1) > 0.02:
                stretched = f"The mask, {width}×{height}, was stretched over the source's frame, {across}×{down}."
                show_on_node(cls.hidden.unique_id, stretched)
        return region

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


def _with_source(chunks, source: SourceClip, region: Region, whole_frame: bool, match_colors: bool):
    """Chunks of the edit, composited with or corrected by the source, whose frames are read one at a time."""
    pairs = zip(itertools.chain.from_iterable(chunks), itertools.chain.from_iterable(source.clip.chunks(1)))
    if match_colors:
        pairs = match_colours(pairs, region, source.crop)
    frames = put_back(pairs, region, source.crop) if whole_frame else (edited for edited, _ in pairs)
    return (frame[None] for frame in frames)


def _with_progress(chunks, frames: int):
    """The first `frames` frames; updates the node's progress bar."""
    bar, done = comfy.utils.ProgressBar(frames), 0
    for chunk in first_frames(chunks, frames, "start ComfyUI with --fp32-vae"):
        yield chunk
        done += len(chunk)
        bar.update_absolute(done, frames)
