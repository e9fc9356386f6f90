"""A masked edit in windows with its colours held, with ISA and context reuse: canvas, pipeline and command make the same pictures of
the same seed."""

import comfy.sd
import numpy as np
import pytest
import torch
from comfy_api.latest import InputImpl
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from liveditor_isa.checkpoint.included import path_of
from liveditor_isa.comfyui.architecture import register
from liveditor_isa.comfyui.attach import attach_isa as attach_to_comfyui
from liveditor_isa.comfyui.loaders import load_text_encoder, load_vae, read_diffusion_model
from liveditor_isa.command import main
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.nodes.decode import DecodeVideo
from liveditor_isa.nodes.references import InContextReferences
from liveditor_isa.pipelines.attention import attach_isa
from liveditor_isa.runtime.live import LiveSettings, Settings
from liveditor_isa.runtime.schedule import Schedule
from liveditor_isa.video.clip import open_clip
from liveditor_isa.video.mp4 import write_mp4
from liveditor_isa.video.source import FileSource
from PIL import Image

WIDTH, HEIGHT, FRAMES, STEPS, SEED = 96, 64, 13, 3, 7
WINDOW, OVERLAP = 9, 4
"""Frames: three latent frames of four, one of them shared."""

ISA, REFRESH = ISAConfig(keep_ratio=0.5, block_size=16), 2
FEATHER, BOX = 5, (225, 25, 50, 38)
PROMPT, NEGATIVE, GUIDANCE = "Make the video look like sunset", "night", 1.5

TOLERANCE = 1e-4
"""Of a pixel in 0..1, at most: rounding of fp32 in two implementations of the network and VAE, after three steps."""


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
    """[H, W] of bytes, in the source's frame, with grey."""
    mask = np.zeros((180, 320), np.uint8)
    mask[50:125, 100:200] = 255
    mask[75:100, 125:150] = 128
    return mask


@pytest.fixture(scope="module")
def video(sample_video, tmp_path_factory):
    """The sample, 320×180."""
    clip = open_clip(FileSource(str(sample_video)), FRAMES, 0, sound=False)
    frames = torch.cat([*clip.chunks()]).unfold(1, 4, 4).unfold(2, 4, 4).mean((-1, -2))
    return write_mp4(tmp_path_factory.mktemp("video") / "small.mp4", [frames], clip.fps)


@pytest.fixture(scope="module")
def canvas(video, mask, tmp_path_factory) -> torch.Tensor:
    """[F, H, W, 3] of Decode Video, through the nodes' own functions and core's sampler."""
    register()
    weights, metadata = read_diffusion_model(path_of("diffusion_model"))
    model = comfy.sd.load_diffusion_model_state_dict(weights, {"dtype": torch.float32}, metadata)
    clip, vae = load_text_encoder(path_of("text_encoder")), load_vae(path_of("vae"))
    model = WanContextWindowsManualNode.execute(model, WINDOW, OVERLAP, "standard_uniform", 1, False, "pyramid", True).result[0]
    model = attach_to_comfyui(model, LiveSettings(Settings(ISA, context_refresh=REFRESH)), Schedule(), "torch", print)
    texts = ([[clip.encode_from_tokens(clip.tokenize(text)), {}]] for text in (PROMPT, NEGATIVE))
    size = {"size": "custom", "width": WIDTH, "height": HEIGHT}
    read = InputImpl.VideoFromFile(str(video))
    positive, negative, latent = InContextReferences.execute(*texts, vae, read, size, FRAMES, 0).result
    empty = latent["samples"]
    latent["samples"] = comfy.sample.sample(
        model, comfy.sample.prepare_noise(empty, SEED), STEPS, GUIDANCE, "euler", "simple", positive, negative, empty, seed=SEED,
        disable_pbar=True,
    )  # fmt: skip
    box = dict(zip(("x", "y", "width", "height"), BOX))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("folder_paths.output_directory", str(tmp_path_factory.mktemp("canvas")))
        made = DecodeVideo.execute(
            latent, vae, "edit", 18, 0, mask=torch.from_numpy(mask)[None] / 255, box=box, feather=FEATHER, match_colors=True
        )
    return made.result[1]


@pytest.fixture(scope="module")
def source(video):
    return open_clip(FileSource(str(video)), FRAMES, 0, sound=False)


@pytest.mark.slow
def test_the_pipeline_makes_the_canvas_pictures(pipe, source, canvas, mask):
    def made(**changed):
        options = {"width": WIDTH, "height": HEIGHT, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
        options |= {"window": WINDOW, "window_overlap": OVERLAP, "mask": Image.fromarray(mask), "boxes": [BOX]}
        options |= {"feather": FEATHER, "match_colors": True, "generator": torch.Generator().manual_seed(SEED)}
        return torch.from_numpy(pipe(source, PROMPT, NEGATIVE, **{**options, **changed}).frames[0])

    isa = attach_isa(pipe.transformer, ISA, min_tokens=0, context_refresh=REFRESH)
    try:
        found = made()
    finally:
        isa.detach()
    assert "and reused in the others" in isa.report()
    assert found.shape == canvas.shape == (FRAMES, 180, 320, 3)
    assert (found - canvas).abs().max() <= TOLERANCE
    outside = torch.from_numpy(mask == 0)
    outside[BOX[1] : BOX[1] + BOX[3], BOX[0] : BOX[0] + BOX[2]] = False
    frames = torch.cat([*source.chunks()])
    torch.testing.assert_close(found[:, outside], frames[:, outside], rtol=0, atol=1e-6)
    assert (made(window=0, window_overlap=None) - canvas).abs().max() > 100 * TOLERANCE


@pytest.mark.slow
def test_the_command_makes_them_again_from_its_file(video, canvas, mask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(mask).save("mask.png")
    options = f"--size {WIDTH}x{HEIGHT} --frames {FRAMES} --steps {STEPS} --seed {SEED} --guidance {GUIDANCE} --dtype fp32 "
    options += f"--min-tokens 0 --keep-ratio {ISA.keep_ratio} --block-size {ISA.block_size} --context-refresh {REFRESH} "
    options += f"--window {WINDOW} --window-overlap {OVERLAP} --mask mask.png --box {','.join(map(str, BOX))} "
    options += f"--feather {FEATHER} --match-colors"
    edit = ["edit", str(video), PROMPT, "--negative-prompt", NEGATIVE, *options.split()]
    assert main([*edit, "--out", "first.mp4"]) == 0
    assert main(["edit", "--repeat", "first.mp4", "--out", "pictures"]) == 0
    found = np.stack([np.array(Image.open(path)) for path in sorted((tmp_path / "pictures").glob("*.png"))])
    # Half a level of 255 is the rounding of PNG.
    assert np.abs(found / 255 - canvas.numpy()).max() <= TOLERANCE + 0.5 / 255
