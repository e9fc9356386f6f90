"""In-Context References: the video to edit and its references, as context of the model."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import comfy.model_management
import comfy.utils
import node_helpers
import torch
from comfy_api.latest import io

from ..comfyui.loaders import is_wan_vae
from ..comfyui.scene import FRAMES, shown_frames
from ..comfyui.vae_encode import encode_groups
from ..comfyui.video_source import open_video
from ..runtime.in_context import CONTEXT_LATENTS
from ..video.clip import SOURCE_CLIP, SourceClip
from ..video.geometry import SIZE_STEP, closest_bucket, crop_box, fit_frames, latent_groups, size_within
from .node_text import OUTSIDE_A_GRAPH, Notices

READ_AT_A_TIME = 4
"""Frames held at the source's size."""


class InContextReferences(io.ComfyNode):
    hidden = OUTSIDE_A_GRAPH

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LIVEditorInContextReferences",
            display_name="In-Context References",
            category="LIVEditor",
            description="Encodes the video to edit and optional references as the model's context, and creates the latent of the result.",
            search_aliases=["LIVEditor", "edit", "source video", "video to edit", "context video", "reference image", "video editing"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="The instruction, from CLIP Text Encode."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, from CLIP Text Encode."),
                io.Vae.Input("vae", tooltip="The Wan 2.1 VAE, from Load LIVEditor."),
                io.Video.Input("video", tooltip="The video to edit. Decode Video gives the edit its frame rate and sound."),
                io.DynamicCombo.Input(
                    "size",
                    options=[
                        io.DynamicCombo.Option("closest bucket", []),
                        io.DynamicCombo.Option("custom", [
                            io.Int.Input("width", default=832, min=SIZE_STEP, max=4096, step=SIZE_STEP, tooltip="Width of the edit."),
                            io.Int.Input("height", default=480, min=SIZE_STEP, max=4096, step=SIZE_STEP, tooltip="Height of the edit."),
                        ]),
                    ],
                    tooltip="The trained size closest in shape (960×544, 544×960, 720×720, 960×480 or 480×960), or your own. "
                    "The video is resized without distortion and centre-cropped.",
                ),
                io.Int.Input(
                    "length", default=81, min=0, max=100_000,
                    tooltip="Frames to edit from the start, 0 for all. Any number: the model needs 4n+1, so the last frame "
                    "is repeated up to that and the repetitions are cut off after decoding.",
                ),
                io.Float.Input(
                    "fps", default=0.0, min=0.0, max=240.0, step=0.001, advanced=True,
                    tooltip="Frames per second of the edit, taken by nearest frame; 0 keeps the video's. The model was trained at 16.",
                ),
                io.Autogrow.Input(
                    "references", optional=True,
                    template=io.Autogrow.TemplatePrefix(
                        io.Image.Input("reference", optional=True, tooltip="An image the edit may refer to, or the frames of a short video."),
                        prefix="reference_", min=0, max=8,
                    ),
                    tooltip="Reference images or videos; each becomes a context group of its own.",
                ),
                io.Int.Input(
                    "start_frame", default=0, min=0, max=1_000_000, optional=True, advanced=True,
                    tooltip="Frames to skip at the start, counted at fps. Sound and masks follow.",
                ),
                io.Int.Input(
                    "every_nth", default=1, min=1, max=1000, optional=True, advanced=True,
                    tooltip="Takes every n-th frame only. The edit has as many fewer frames per second, and lasts as long.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With the context, for the sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="With the context, for the sampler."),
                io.Latent.Output(display_name="latent", tooltip="Empty latent of the edit, for the sampler."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, positive, negative, vae, video, size, length, fps, references=None, start_frame=0, every_nth=1
    ) -> io.NodeOutput:
        _require_wan_vae(vae)
        clip = open_video(video, length, fps, start_frame, every_nth)
        say = Notices("In-Context References", cls.hidden.unique_id)
        for notice in clip.notices:
            say(notice)
        if size["size"] == "custom":
            width, height = size["width"], size["height"]
        else:
            width, height = closest_bucket(*clip.shown_size)
        videos = [(clip.chunks, clip.frames, (width, height, clip.pixel_aspect))]
        for _, images in sorted((references or {}).items()):
            if images is not None:
                shape = size_within(images.shape[2], images.shape[1], max(width, height))
                videos.append((images[..., :3].split, len(images), shape))
        context, shown = zip(*_encoded(vae, videos))
        values = {CONTEXT_LATENTS: list(context), FRAMES: list(shown)}
        positive, negative = (node_helpers.conditioning_set_values(c, values) for c in (positive, negative))
        samples = torch.zeros_like(context[0], device=comfy.model_management.intermediate_device())
        source = SourceClip(clip, crop_box(clip.size, width, height, clip.pixel_aspect))
        return io.NodeOutput(positive, negative, {"samples": samples, SOURCE_CLIP: source})


def _encoded(vae, videos):
    """`_encode` of each (read, frames, shape), with the node's progress bar over the frames of all."""
    bar, before = comfy.utils.ProgressBar(sum(frames for _, frames, _ in videos)), 0

    def tell(before: int, frames: int, done: int):
        bar.update_absolute(before + min(done, frames))  # the last group may hold repeated frames

    for read, frames, shape in videos:
        yield _encode(vae, read, partial(tell, before, frames), *shape)
        before += frames


def _encode(vae, read, tell, width: int, height: int, pixel_aspect=Fraction(1)) -> tuple[torch.Tensor, torch.Tensor]:
    """The latent of the frames from `read(frames at a time)`, resized and cropped, and a small picture per latent frame.

    tell: called with the number of frames that are encoded; it starts anew where encoding does.
    """
    shown = []

    def groups():
        shown.clear()
        done = 0
        for group in latent_groups(fit_frames(chunk, width, height, pixel_aspect)[0] for chunk in read(READ_AT_A_TIME)):
            shown.append(shown_frames(group[-1:]))
            yield group
            done += len(group)
            tell(done)

    latent = encode_groups(vae, groups)
    return latent, torch.cat(shown)


def _require_wan_vae(vae):
    vae.throw_exception_if_invalid()
    if not is_wan_vae(vae):
        raise ValueError(
            f"In-Context References needs the Wan 2.1 VAE with 16 channels, this one has {vae.latent_channels}: "
            "connect the VAE of Load LIVEditor."
        )
