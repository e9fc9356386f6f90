"""Encoding in groups: bit by bit what the VAE gives at once, in memory that does not grow, with ways out; and whole nodes."""

import logging
import weakref
from fractions import Fraction
from types import SimpleNamespace

import comfy.model_management
import pytest
import torch
from comfy_api.latest import InputImpl, Types
from hypothesis import given, settings
from hypothesis import strategies as st
from liveditor_isa.comfyui import vae_encode as encode
from liveditor_isa.comfyui import video_source as comfy_source
from liveditor_isa.comfyui.scene import FRAMES
from liveditor_isa.comfyui.vae_encode import encode_groups
from liveditor_isa.nodes.references import READ_AT_A_TIME, InContextReferences
from liveditor_isa.runtime.in_context import CONTEXT_LATENTS
from liveditor_isa.video.clip import SOURCE_CLIP
from liveditor_isa.video.geometry import latent_groups


@pytest.fixture(scope="module")
def vae(models):
    from liveditor_isa.comfyui.loaders import load_vae

    return load_vae(str(models / "vae/wan_tiny_vae.safetensors"))


def film(count: int, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(count))


def grouped(frames):
    return lambda: latent_groups(frames.split(3))


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.integers(1, 22), st.integers(1, 3), st.integers(1, 3))
def test_groups_together_are_what_the_vae_encodes(vae, count, height, width):
    frames = film(count, 16 * height, 16 * width)
    streamed = encode_groups(vae, grouped(frames))
    padded = torch.cat([frames, frames[-1:].expand(-(count - 1) % 4, -1, -1, -1)])
    with torch.no_grad():
        whole = vae.encode(padded)
    assert streamed.shape == (1, 16, len(padded) // 4 + 1, 2 * height, 2 * width)
    assert torch.equal(streamed, whole) and streamed.dtype == whole.dtype and streamed.device == whole.device


def test_an_encoder_that_forgot_the_past_would_be_noticed(vae):
    latent = encode_groups(vae, grouped(film(9)))
    changed = film(9)
    changed[0] = 0
    assert not torch.equal(encode_groups(vae, grouped(changed))[:, :, -1], latent[:, :, -1])


def test_no_frame_is_asked_for_before_those_before_it_are_encoded(vae):
    seen, asked = [], []
    hook = vae.first_stage_model.encoder.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[2]))

    def groups():
        for group in latent_groups(film(13).split(1)):
            asked.append(sum(seen))
            yield group

    try:
        encode_groups(vae, groups)
    finally:
        hook.remove()
    assert seen == [1, 2, 2, 2, 2, 2, 2]
    # One step is held back: the last has to be known as such.
    assert asked == [0, 0, 3, 7]


def test_it_can_be_interrupted(vae):
    def groups():
        yield film(1)
        comfy.model_management.interrupt_current_processing()
        yield film(4)

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        encode_groups(vae, groups)
    assert not comfy.model_management.processing_interrupted()


def test_another_kind_of_vae_encodes_whole(caplog):
    class OtherVAE:
        pass

    asked = []
    other = SimpleNamespace(first_stage_model=OtherVAE(), throw_exception_if_invalid=lambda: None, encode=asked.append)
    with caplog.at_level(logging.INFO):
        encode_groups(other, grouped(film(5)))
    assert len(asked) == 1 and torch.equal(asked[0], film(5))
    assert [r.getMessage() for r in caplog.records] == ["OtherVAE cannot encode in chunks; encoding the whole video at once"]


@torch.inference_mode()  # As core runs every node; its tiled encoding needs that.
@pytest.mark.parametrize("error", [comfy.model_management.OOM_EXCEPTION, comfy.model_management.ACCELERATOR_ERROR])
def test_short_of_memory_it_encodes_in_tiles(vae, monkeypatch, caplog, error):
    calls = []
    forward = vae.first_stage_model.encoder.forward

    def short_at_first(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise error("CUDA error: out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(vae.first_stage_model.encoder, "forward", short_at_first)
    latent = encode_groups(vae, grouped(film(9)))
    assert warnings(caplog) == ["Not enough memory to encode at full size; encoding in tiles"]
    # One tile holds this small video.
    torch.testing.assert_close(latent, vae.encode(film(9)), rtol=1e-4, atol=1e-4)


def test_other_errors_are_not_taken_for_short_memory(vae, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a shape does not fit")

    monkeypatch.setattr(encode, "_stream", broken)
    monkeypatch.setattr(vae, "encode_tiled", lambda *_, **__: pytest.fail("not a matter of memory"))
    with pytest.raises(RuntimeError, match="^a shape does not fit$"):
        encode_groups(vae, grouped(film(3)))


def node(vae, video, size, length=0, fps=0.0, references=None):
    cond = [[torch.zeros(1, 4, 8), {}]]
    size = {"size": "custom", "width": size[0], "height": size[1]}
    positive, _, latent = InContextReferences.execute(cond, cond, vae, video, size, length, fps, references).result
    return positive[0][1], latent


def components(images):
    return InputImpl.VideoFromComponents(Types.VideoComponents(images=images, frame_rate=Fraction(25), audio=None))


@torch.inference_mode()
@pytest.mark.parametrize("count", [1, 2, 6, 9])
def test_the_node_gives_context_pictures_and_latent_for_any_number_of_frames(vae, count):
    frames = film(count, 48, 80)
    image = film(1, 64, 64)
    values, latent = node(vae, components(frames), (64, 32), references={"reference_0": image, "reference_1": None})
    groups = -(-(count - 1) // 4) + 1
    source, reference = values[CONTEXT_LATENTS]
    assert source.shape == latent["samples"].shape == (1, 16, groups, 4, 8) and not latent["samples"].any()
    assert reference.shape == (1, 16, 1, 8, 8)
    assert [len(shown) for shown in values[FRAMES]] == [groups, 1] and values[FRAMES][0].shape[1:] == (32, 64, 3)
    again = latent[SOURCE_CLIP].clip
    assert again.frames == count and torch.equal(torch.cat([*again.chunks(4)]), frames)


class LongVideo:
    """A source that makes each frame when it is asked for; `ahead`: how many it made at most before one was encoded."""

    rate = Fraction(25)

    def __init__(self, count):
        self.count, self.encoded, self.ahead = count, 0, 0

    def stamps(self):
        return ((index / self.rate, (96, 64)) for index in range(self.count))

    def images(self, indices):
        for index in indices:
            self.ahead = max(self.ahead, index + 1 - self.encoded)
            yield torch.full((64, 96, 3), index % 100 / 100)

    def see(self, encoder, inputs, output):
        self.encoded += inputs[0].shape[2]

    def sound(self, start, seconds):
        return None

    def pixel_aspect(self):
        return Fraction(1)

    def notices(self):
        return ()


@torch.inference_mode()
def test_source_frames_held_at_once_do_not_grow_with_the_video(vae, monkeypatch):
    ahead = []
    for count in (21, 81):
        video = LongVideo(count)
        monkeypatch.setattr(comfy_source, "source_of", lambda video: video)
        hook = vae.first_stage_model.encoder.register_forward_hook(video.see)
        try:
            _, latent = node(vae, video, (32, 16))
        finally:
            hook.remove()
        assert latent[SOURCE_CLIP].clip.frames == count
        ahead.append(video.ahead)
    assert ahead[0] == ahead[1] <= 3 * READ_AT_A_TIME


@torch.inference_mode()
def test_fitted_frames_held_at_once_do_not_grow_with_the_video(vae):
    alive = []

    def groups(count):
        for group in latent_groups(torch.zeros(1, 16, 16, 3) for _ in range(count)):
            alive.append(weakref.ref(group))
            assert sum(each() is not None for each in alive) <= 3
            yield group

    encode_groups(vae, lambda: groups(81))
    assert len(alive) == 21
