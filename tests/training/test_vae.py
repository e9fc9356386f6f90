"""Training of the small VAE: the same network as core's, latents as core expects them, runs that can be cut anywhere."""

import json

import comfy.sd
import pytest
import torch
from comfy.latent_formats import Wan21
from liveditor_isa.training.tiny import vae as training
from liveditor_isa.training.tiny.vae import VAESettings, VAETrainer, decode, encode, evaluate, fold_statistics, new_network
from safetensors.torch import load_file
from waves import clips

TINY = VAESettings(dim=8, steps=25, frames=5, size=32, warm_up=5)


def random_network(dim: int = 8):
    """None of its branches is silent, as they are at the start of training."""
    network = new_network(dim)
    generator = torch.Generator().manual_seed(1)
    for weight in network.parameters():
        torch.nn.init.normal_(
            weight, mean=float(weight.ndim in (3, 4) and weight.numel() == len(weight)), std=0.1, generator=generator
        )
    return network.requires_grad_(False)


@pytest.mark.parametrize("frames", [1, 5, 9, 17, 21])
def test_the_training_pass_is_cores(frames):
    network, video = random_network(), 2 * clips(0, frames) - 1
    latents = network.encode(video)
    torch.testing.assert_close(encode(network, video), latents)
    torch.testing.assert_close(decode(network, latents), network.decode(latents))


@pytest.mark.parametrize("latent_frames", [2, 4])
def test_an_even_number_of_latent_frames(latent_frames):
    network, latents = random_network(), torch.randn(1, 16, latent_frames, 4, 4)
    torch.testing.assert_close(decode(network, latents), network.decode(latents))


def test_every_weight_learns():
    network, video = random_network().requires_grad_(True), 2 * clips(0, 9) - 1
    decode(network, encode(network, video)).square().mean().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_folding_changes_the_latents_and_nothing_else():
    network, video = random_network(), 2 * clips(0, 9) - 1
    latents = network.encode(video)
    std, mean = torch.std_mean(latents, dim=(0, 2, 3, 4))
    normalised = (latents - mean.view(1, -1, 1, 1, 1)) / std.view(1, -1, 1, 1, 1)
    expected = network.decode(normalised)

    folded = new_network(8)
    folded.load_state_dict(fold_statistics(network.state_dict(), mean, std))
    with torch.no_grad():
        latents = folded.encode(video)
        torch.testing.assert_close(Wan21().process_in(latents), normalised, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(folded.decode(latents), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_loss_falls():
    trainer = VAETrainer(TINY, lambda step: clips(0), "cpu")
    measured = [trainer.step() for _ in range(TINY.steps)]
    assert measured[-1]["loss"] < 0.7 * measured[0]["loss"]
    assert measured[-1]["psnr"] > measured[0]["psnr"] + 2


@pytest.mark.slow
def test_a_cut_run_goes_on_with_the_same_numbers(tmp_path):
    whole = VAETrainer(TINY, clips, "cpu")
    for _ in range(6):
        whole.step()
    first = VAETrainer(TINY, clips, "cpu")
    for _ in range(3):
        first.step()
    first.save(tmp_path / "checkpoint.pt")
    second = VAETrainer(TINY, clips, "cpu")
    second.load(tmp_path / "checkpoint.pt")
    for _ in range(3):
        second.step()

    assert second.done == whole.done == 6
    assert all(torch.equal(one, other) for one, other in zip(whole.weights, second.weights))
    assert all(torch.equal(one, other) for one, other in zip(whole.averaged, second.averaged))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_of_another_width_is_refused(tmp_path):
    VAETrainer(TINY, clips, "cpu").save(tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="dim 8, not 16"):
        VAETrainer(VAESettings(dim=16), clips, "cpu").load(tmp_path / "checkpoint.pt")


@pytest.mark.slow
def test_core_opens_the_export(tmp_path):
    trainer = VAETrainer(TINY, clips, "cpu")
    for _ in range(3):
        trainer.step()
    trainer.export(tmp_path / "vae.safetensors")
    vae = comfy.sd.VAE(sd=load_file(tmp_path / "vae.safetensors"))
    latents = vae.encode(clips(0, 9)[0].movedim(0, -1))
    assert latents.shape == (1, 16, 3, 4, 4)
    assert vae.decode(latents).shape == (1, 9, 32, 32, 3)

    video = torch.cat([clips(index) for index in range(24)])
    measured = evaluate(tmp_path / "vae.safetensors", video, tmp_path / "sheet.png")
    assert abs(measured["latent_mean"]) < 0.01 and abs(measured["latent_std"] - 1) < 0.01
    assert (tmp_path / "sheet.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_run_ends_in_time_and_goes_on(tmp_path, monkeypatch):
    class Waves:
        def __init__(self, seed, batch, frames, height, width, device, split="train"):
            self.frames, self.size = frames, height

        def __getitem__(self, index):
            return type(
                "Batch", (), {"source": clips(index, self.frames, self.size), "target": clips(-index, self.frames, self.size)}
            )

    monkeypatch.setattr(training, "EditStream", Waves)
    settings = VAESettings(dim=8, steps=23, frames=5, size=32)
    assert training.train_vae(tmp_path, 0, "cpu", settings) == {"steps": 1}, "the time is looked at after every step"
    assert not (tmp_path / training.EXPORT).exists(), "it would take time too"
    assert training.train_vae(tmp_path, 1, "cpu", settings)["steps"] == 23
    entries = [json.loads(line) for line in (tmp_path / training.LOG).read_text().splitlines()]
    assert [entry["step"] for entry in entries if "step" in entry] == [1, 20, 23]
    assert {"loss", "psnr", "learning_rate", "seconds"} <= entries[0].keys()
    assert (tmp_path / training.EXPORT).exists()
