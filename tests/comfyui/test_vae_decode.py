"""Decoding in chunks: bit by bit what the VAE gives at once, in bounded memory, with a way out when memory is short."""

import logging
from types import SimpleNamespace

import comfy.model_management
import folder_paths
import pytest
import torch
from liveditor_isa.comfyui import vae_decode as decode
from liveditor_isa.comfyui.vae_decode import decode_chunks
from liveditor_isa.nodes.decode import DecodeVideo

# With cudaMallocAsync, ComfyUI's default on NVIDIA, some come as the second.
OOMS = [comfy.model_management.OOM_EXCEPTION, comfy.model_management.ACCELERATOR_ERROR]


@pytest.fixture(scope="module")
def vae(models):
    from liveditor_isa.comfyui.loaders import load_vae

    return load_vae(str(models / "vae/wan_tiny_vae.safetensors"))


def latent(steps: int, height: int = 4, width: int = 6) -> torch.Tensor:
    return torch.randn(1, 16, steps, height, width, generator=torch.Generator().manual_seed(steps))


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8])
def test_chunks_together_are_what_the_vae_decodes(vae, steps):
    z = latent(steps)
    before = z.clone()
    chunks = [*decode_chunks(vae, z)]
    assert all(chunk.device.type == "cpu" and chunk.dtype == torch.float32 for chunk in chunks)
    assert sum(map(len, chunks)) == 4 * steps - 3
    assert len(chunks[0]) == 1 and all(4 <= len(chunk) <= 8 for chunk in chunks[1:])
    whole = vae.decode(z)[0]
    # Else a decoder that forgets its past, or gives one colour, would pass.
    assert whole.std() > 0.01 and (steps == 1 or (whole[1:] - whole[:-1]).abs().mean() > 0.001)
    torch.testing.assert_close(torch.cat(chunks), whole, rtol=1e-5, atol=1e-6)
    assert torch.equal(z, before)


def test_another_shape_and_a_second_video_are_decoded_afresh(vae):
    first = torch.cat([*decode_chunks(vae, latent(3))])
    other = torch.cat([*decode_chunks(vae, latent(3, 6, 2))])
    assert first.shape == (9, 32, 48, 3) and other.shape == (9, 48, 16, 3)
    assert torch.equal(torch.cat([*decode_chunks(vae, latent(3))]), first)


def test_nothing_is_decoded_before_it_is_asked_for(vae):
    seen = []
    hook = vae.first_stage_model.decoder.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[2]))
    try:
        chunks = decode_chunks(vae, latent(6))
        assert seen == []
        next(chunks)
        assert seen == [1]
        next(chunks)
        assert seen == [1, 2]
        assert [len(chunk) for chunk in chunks] == [8, 4]
        assert seen == [1, 2, 2, 1]
    finally:
        hook.remove()


def test_it_can_be_interrupted_between_chunks(vae, monkeypatch):
    # Core's own layers stop as well, but only some of them.
    monkeypatch.setattr(decode, "_stream", lambda *_: iter(torch.zeros(3, 4, 32, 48, 3)))
    chunks = decode_chunks(vae, latent(6))
    next(chunks)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        next(chunks)
    assert not comfy.model_management.processing_interrupted()


@pytest.mark.parametrize("channels", [4, 15, 48])
def test_a_latent_of_another_vae_is_refused(vae, channels):
    shapes = rf"the latent is \[1, {channels}, 3, 4, 6\], the VAE decodes \[1, 16, frames, height, width\]"
    message = rf"^Latent and VAE do not belong together: {shapes}\. Connect the VAE of the model that made the latent\.$"
    with pytest.raises(ValueError, match=message):
        next(decode_chunks(vae, torch.zeros(1, channels, 3, 4, 6)))


def test_a_latent_of_an_image_is_refused(vae):
    with pytest.raises(ValueError, match=r"^Latent and VAE do not belong together: the latent is \[1, 16, 4, 6\], "):
        next(decode_chunks(vae, torch.zeros(1, 16, 4, 6)))


@pytest.mark.parametrize("batch", [0, 2])
def test_a_batch_is_refused(vae, batch):
    with pytest.raises(ValueError, match=rf"^Decode Video takes one video; the latent holds {batch}\. Pick one with"):
        next(decode_chunks(vae, torch.zeros(batch, 16, 3, 4, 6)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_black_video_is_refused_before_it_is_decoded(vae, value):
    z = latent(5)
    z[0, 3, 4, 1, 1] = value
    with pytest.raises(ValueError, match=r"^The latent holds NaN or infinity, the video would be black\. .+\.$"):
        next(decode_chunks(vae, z))


def test_no_vae_at_all_is_refused_in_cores_words(vae, monkeypatch):
    monkeypatch.setattr(vae, "first_stage_model", None)
    with pytest.raises(RuntimeError, match="VAE is invalid"):
        next(decode_chunks(vae, latent(2)))


def test_another_kind_of_vae_is_decoded_whole(caplog):
    class OtherVAE:
        pass

    whole = torch.rand(1, 37, 8, 8, 3)
    asked = []

    def decode_whole(samples):
        asked.append(samples)
        return whole

    other = SimpleNamespace(
        first_stage_model=OtherVAE(), latent_channels=16, throw_exception_if_invalid=lambda: None, decode=decode_whole
    )
    z = latent(10)
    with caplog.at_level(logging.INFO):
        chunks = [*decode_chunks(other, z)]
    assert len(asked) == 1 and asked[0] is z
    assert torch.equal(torch.cat(chunks), whole[0]) and max(map(len, chunks)) <= 16
    assert [r.getMessage() for r in caplog.records] == [
        "OtherVAE cannot be decoded in chunks; decoding the whole video at once"
    ]


@torch.inference_mode()  # As core runs every node; its tiled decoding needs that.
@pytest.mark.parametrize("error", OOMS)
def test_short_of_memory_it_decodes_in_tiles(vae, monkeypatch, caplog, error):
    def no_memory(*_):
        raise error("CUDA error: out of memory")
        yield

    monkeypatch.setattr(decode, "_stream", no_memory)
    with caplog.at_level(logging.WARNING):
        chunks = [*decode_chunks(vae, latent(5))]
    assert warnings(caplog) == ["Not enough memory to decode at full size; decoding in tiles"]
    # One tile holds this small video.
    torch.testing.assert_close(torch.cat(chunks), vae.decode(latent(5))[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("error", OOMS)
def test_memory_running_short_inside_the_decoder_counts_too(vae, monkeypatch, caplog, error):
    def no_memory(*_, **__):
        raise error("CUDA error: out of memory")

    asked = []
    monkeypatch.setattr(vae.first_stage_model.decoder, "forward", no_memory)
    monkeypatch.setattr(vae, "decode_tiled", lambda samples: asked.append(samples.shape) or torch.zeros(1, 5, 32, 48, 3))
    assert sum(map(len, decode_chunks(vae, latent(2)))) == 5
    assert asked == [(1, 16, 2, 4, 6)] and len(warnings(caplog)) == 1


def test_memory_running_short_later_is_an_error_not_a_second_start(vae, monkeypatch, caplog):
    def one_chunk(*_):
        yield torch.zeros(1, 32, 48, 3)
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(decode, "_stream", one_chunk)
    monkeypatch.setattr(vae, "decode_tiled", lambda samples: pytest.fail("frames would come twice"))
    chunks = decode_chunks(vae, latent(3))
    assert len(next(chunks)) == 1
    with pytest.raises(torch.OutOfMemoryError):
        next(chunks)
    assert warnings(caplog) == []


def test_other_errors_are_not_taken_for_short_memory(vae, monkeypatch):
    def broken(*_):
        raise RuntimeError("a shape does not fit")
        yield

    monkeypatch.setattr(decode, "_stream", broken)
    monkeypatch.setattr(vae, "decode_tiled", lambda samples: pytest.fail("not a matter of memory"))
    with pytest.raises(RuntimeError, match="^a shape does not fit$"):
        next(decode_chunks(vae, latent(3)))


def test_the_node_runs_when_other_code_calls_it(vae, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    video, images, audio = DecodeVideo.execute({"samples": latent(2)}, vae, "edited", 20, 8.0).result
    assert video.get_frame_count() == len(images) == 5 and audio is None
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"]
