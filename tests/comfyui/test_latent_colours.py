"""ComfyUI's live preview of LIVEditor-tiny, by core's own previewer: its colours are the video's."""

import comfy.cli_args
import latent_preview
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comfy.latent_formats import Wan21
from liveditor_isa.checkpoint.included import path_of
from liveditor_isa.comfyui.architecture import register
from liveditor_isa.comfyui.latent_colours import LIVEditorTinyLatents
from liveditor_isa.comfyui.loaders import load_diffusion_model, load_vae
from liveditor_isa.video.clip import open_clip
from liveditor_isa.video.geometry import fit_frames
from liveditor_isa.video.source import FileSource
from make_tiny_model import MODEL

register()

METHODS = comfy.cli_args.LatentPreviewMethod


@pytest.fixture(scope="module")
def clip(sample_video) -> torch.Tensor:
    """[5, 112, 208, 3] in 0..1."""
    frames = torch.cat([*open_clip(FileSource(sample_video), 5, 0).chunks()])
    return fit_frames(frames, 208, 112)[0]


@pytest.fixture(scope="module")
def latent(clip) -> torch.Tensor:
    """As a sampler has it."""
    with torch.inference_mode():
        return Wan21().process_in(load_vae(path_of("vae")).encode(clip).float().cpu())


def preview(latent_format, latent) -> torch.Tensor:
    """[h, w, 3] in 0..1."""
    previewer = latent_preview.get_previewer(torch.device("cpu"), latent_format)
    return torch.from_numpy(np.array(previewer.decode_latent_to_preview(latent))).float() / 255


@pytest.mark.parametrize("method", [METHODS.Auto, METHODS.TAESD])
def test_the_preview_has_the_videos_colours(clip, latent, method, monkeypatch):
    """Also where a small decoder of Wan's latents is asked for, which would decode these wrongly."""
    monkeypatch.setattr(comfy.cli_args.args, "preview_method", method)
    pixels = F.avg_pool2d(clip[:1].movedim(-1, 1), 8)[0].movedim(0, -1)
    spread = (pixels - pixels.mean((0, 1))).square().mean()
    own = load_diffusion_model(path_of("diffusion_model")).model.latent_format
    assert own.taesd_decoder_name is None
    assert (preview(own, latent) - pixels).square().mean() < 0.1 * spread
    assert (preview(Wan21(), latent) - pixels).square().mean() > spread


def test_latents_are_wans_own(latent):
    torch.testing.assert_close(LIVEditorTinyLatents().process_out(latent), Wan21().process_out(latent), rtol=0, atol=0)


def test_other_models_keep_cores_colours(models):
    assert type(load_diffusion_model(str(models / MODEL)).model.latent_format) is Wan21
