"""Training of the VAE's decoder alone: it learns, and nobody who holds latents of that VAE notices."""

import json
from dataclasses import replace

import pytest
import torch
from liveditor_isa.training.tiny import decoder, vae
from liveditor_isa.training.tiny.decoder import DecoderSettings, DecoderTrainer, train_decoder
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from waves import clips

SETTINGS = DecoderSettings(steps=12, clips=4, frames=5, size=32, warm_up=2, learning_rate=2e-3)
ALL = torch.arange(SETTINGS.frames)


@pytest.fixture
def export(tmp_path):
    path = tmp_path / vae.EXPORT
    save_file({name: x.half() for name, x in vae.new_network(8).state_dict().items()}, path, {"format": "pt", "steps": "7"})
    return path


@pytest.mark.slow
def test_the_decoder_learns_and_the_encoder_stays(export, tmp_path):
    before = load_file(export)
    trainer = DecoderTrainer(SETTINGS, export, lambda step: clips(0), "cpu")
    losses = [trainer.step()["loss"].item() for _ in range(SETTINGS.steps)]
    assert losses[-1] < 0.9 * losses[0]
    trainer.export(export)
    after = load_file(export)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(("decoder.", "conv2."))}
    with safe_open(export, "pt") as file:
        assert file.metadata() == {"format": "pt", "steps": "7", "decoder_steps": "12"}
    averaged = vae.load_export(export, "cpu")
    video = 2 * clips(0) - 1
    assert vae.psnr(vae.decode(averaged, vae.encode(averaged, video)), video) > vae.psnr(torch.zeros_like(video), video)


def test_noise_is_measured_by_each_channels_deviation(export):
    trainer = DecoderTrainer(SETTINGS, export, lambda step: clips(0), "cpu")
    seen = []
    trainer.network.conv2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    video = 2 * clips(0) - 1
    noise = torch.ones(vae.latent_shape(video))
    trainer.loss(video, 0 * noise, ALL)
    trainer.loss(video, noise, ALL)
    torch.testing.assert_close(vae.Wan21().process_in(seen[1]) - vae.Wan21().process_in(seen[0]), SETTINGS.noise * noise)


def test_a_cut_run_goes_on_with_the_same_numbers(export, tmp_path):
    whole, first = (DecoderTrainer(SETTINGS, export, clips, "cpu") for _ in range(2))
    for _ in range(6):
        whole.step()
    for _ in range(3):
        first.step()
    first.save(tmp_path / "checkpoint.pt")
    second = DecoderTrainer(SETTINGS, export, clips, "cpu")
    second.load(tmp_path / "checkpoint.pt")
    for _ in range(3):
        second.step()
    assert second.done == whole.done == 6
    assert all(map(torch.equal, whole.weights, second.weights)) and all(map(torch.equal, whole.averaged, second.averaged))

    # From the export alone it goes on as well, with an optimiser that starts anew.
    whole.export(export)
    third = DecoderTrainer(SETTINGS, export, clips, "cpu")
    assert third.done == third.started == 6 and third.learning_rate == pytest.approx(whole.learning_rate / 2)


@pytest.mark.slow
def test_a_whole_run(export, tmp_path):
    train_decoder(tmp_path, 1, "cpu", SETTINGS)
    assert decoder.steps_done(export) == SETTINGS.steps
    log = [json.loads(line) for line in (tmp_path / decoder.LOG).read_text().splitlines()]
    assert log[-2]["step"] == log[-1]["steps"] == SETTINGS.steps and log[-1]["psnr"] > 0
    assert (tmp_path / vae.SHEET).stat().st_size > 1000


@pytest.mark.slow
def test_a_vae_that_was_trained_further_gets_a_new_decoder(tmp_path, caplog):
    settings, decoders = replace(SETTINGS, steps=2), []
    for steps in (1, 2):
        vae.train_vae(tmp_path, 1, "cpu", vae.VAESettings(dim=8, steps=steps, clips=4, frames=5, size=32))
        train_decoder(tmp_path, 1, "cpu", settings)
        decoders.append(load_file(tmp_path / vae.EXPORT)["decoder.conv1.weight"])
    assert not torch.equal(*decoders)
    log = [json.loads(line) for line in (tmp_path / decoder.LOG).read_text().splitlines()]
    assert [entry["step"] for entry in log if "step" in entry] == [2, 2]
    assert caplog.text.count("starts anew") == caplog.text.count("another VAE than this one of 2 steps") == 1
