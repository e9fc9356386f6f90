"""An editor for another VAE: where its latents are the old ones, mixed and shifted, the network predicts the same, mixed alike."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from liveditor_isa.data.procedural.stream import EditStream
from liveditor_isa.training.tiny import vae, whole_run
from liveditor_isa.training.tiny.adopt import adopt, patches
from liveditor_isa.training.tiny.clips import Sources
from liveditor_isa.training.tiny.editor import EditorSettings, EditorTrainer, new_editor
from liveditor_isa.training.tiny.exports import EDITOR, ENCODER
from liveditor_isa.training.tiny.latents import encode_clips
from liveditor_isa.training.tiny.vae_network import LATENT_CHANNELS
from liveditor_isa.training.tiny.whole_run import SMALL, begin_with
from safetensors.torch import save_file


def mixed(autoencoder, generator):
    """The same VAE, but for latents that are a rotation of its own, and shifted."""
    other, rotation = (
        deepcopy(autoencoder),
        torch.linalg.qr(torch.randn(LATENT_CHANNELS, LATENT_CHANNELS, generator=generator)).Q,
    )
    with torch.no_grad():
        weight, bias = other.conv1.weight, other.conv1.bias
        weight[:LATENT_CHANNELS] = torch.einsum("oi,ikthw->okthw", rotation, weight[:LATENT_CHANNELS].clone())
        bias[:LATENT_CHANNELS] = rotation @ bias[:LATENT_CHANNELS] + 0.3
    return other


def test_a_network_predicts_in_the_new_latents_what_it_predicted_in_the_old():
    generator = torch.Generator().manual_seed(0)
    old = vae.new_network(8).eval()
    new = mixed(old, generator)
    before = new_editor(EditorSettings(dim=128, ffn_dim=128, blocks=2)).requires_grad_(False)
    for weight in (before.head.head.weight, before.head.head.bias, before.patch_embedding.bias):
        weight.normal_(std=0.1, generator=generator)
    after = deepcopy(before)
    stream = EditStream(0, 4, 5, 64, 80)
    adopt(after, old, new, (stream[number].source for number in range(3)))

    clips = stream[3]
    answers = []
    for network, autoencoder in ((before, old), (after, new)):
        target, source = (encode_clips(autoencoder, each) for each in (clips.target, clips.source))
        text = torch.randn(4, 6, 256, generator=torch.Generator().manual_seed(1))
        answer = network(target, torch.full((4,), 500.0), text, context_latents=[source])
        # The network's word on the clip itself, whose sign it predicts.
        answers.append((patches(target), patches(-answer)))
    (old_latents, told), (new_latents, told_anew) = answers
    extended = torch.cat([old_latents, torch.ones(len(old_latents), 1)], dim=1)
    way = torch.linalg.lstsq(extended, new_latents).solution
    expected = torch.cat([told, torch.ones(len(told), 1)], dim=1) @ way
    assert (told_anew - expected).abs().max() < 1e-3 * expected.abs().max()
    assert (told_anew - told).abs().max() > 0.1 * told.abs().max()


def test_a_run_begins_with_an_earlier_editions_editor(tmp_path, monkeypatch):
    monkeypatch.setattr(whole_run, "ADOPTED", (5, 48, 64))
    monkeypatch.setattr(whole_run, "ADOPTED_BATCHES", 1)
    old, settings = vae.new_network(8).eval(), SMALL[2]
    save_file(old.state_dict(), tmp_path / vae.EXPORT)
    earlier, trainer = (EditorTrainer(replace(settings, seed=seed), None, "cpu") for seed in (1, 2))
    earlier.done = 7
    earlier.export(tmp_path / EDITOR, tmp_path / ENCODER)
    before = trainer.network.blocks[0].ffn[0].weight.clone()
    begin_with(trainer, tmp_path, mixed(old, torch.Generator().manual_seed(0)))
    kept, own = (each.network.blocks[0].ffn[0].weight for each in (trainer, earlier))
    assert torch.equal(kept, own.bfloat16().float()) and not torch.equal(kept, before)
    assert not torch.allclose(trainer.network.patch_embedding.weight, earlier.network.patch_embedding.weight, atol=0.01)
    assert all(torch.equal(*pair) for pair in zip(trainer.weights, trainer.averaged)) and trainer.done == trainer.started == 0
    other = EditorTrainer(replace(settings, ffn_dim=384), None, "cpu")
    with pytest.raises(ValueError, match="of other sizes"):
        begin_with(other, tmp_path, old)


def test_an_edition_that_cannot_be_begun_with_is_known_before_anything_is_trained(tmp_path):
    """It was known behind the VAE's training."""

    def refused(edition, settings=SMALL[2]) -> str:
        with pytest.raises(ValueError) as error:
            whole_run.train(tmp_path / "run", 1, "cpu", *SMALL[:2], settings, Sources(edition=edition))
        assert not (tmp_path / "run").exists() and "\n" not in str(error.value)
        return str(error.value)

    edition = tmp_path / "edition"
    assert EDITOR in refused(edition)
    edition.mkdir()
    save_file(vae.new_network(8).state_dict(), edition / vae.EXPORT)
    EditorTrainer(SMALL[2], None, "cpu").export(edition / EDITOR, edition / ENCODER)
    assert "other sizes" in refused(edition, replace(SMALL[2], ffn_dim=384))
    (edition / vae.EXPORT).write_bytes(b"half of a file")
    assert vae.EXPORT in refused(edition)
