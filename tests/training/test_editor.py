"""The text encoder, the latent pool and the editor's training, at sizes that a CPU takes seconds for."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import comfy.model_management
import pytest
import torch
from liveditor_isa.comfyui.architecture import register
from liveditor_isa.comfyui.loaders import is_wan_vae, load_diffusion_model, load_text_encoder, load_vae
from liveditor_isa.data.procedural.edits import all_instructions
from liveditor_isa.data.procedural.stream import EditStream
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.training.run import run_until
from liveditor_isa.training.tiny import decoder, text, vae
from liveditor_isa.training.tiny.editor import EditorSettings, EditorTrainer, Phase, new_editor
from liveditor_isa.training.tiny.exports import open_export
from liveditor_isa.training.tiny.latents import LatentPool, encode_edits
from liveditor_isa.training.tiny.preview import edit, loss_plot, sheet
from liveditor_isa.training.tiny.whole_run import EDITOR, ENCODER, STAGE_ONE, train
from safetensors import safe_open
from safetensors.torch import load_file

SIZE = (5, 48, 64, 4)
SETTINGS = EditorSettings(
    dim=128, ffn_dim=128, blocks=2, warm_up=5,
    phases=(Phase(24, (SIZE, (1, 64, 64, 4)), (2e-3, 1e-3)), Phase(4, (SIZE,), (5e-4, 1e-4), ISAConfig(block_size=16))),
)  # fmt: skip


@pytest.fixture(autouse=True)
def core_as_it_was():
    training = comfy.model_management.in_training
    yield
    comfy.model_management.in_training = training


@pytest.fixture(scope="module")
def autoencoder():
    return vae.new_network(8).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return text.Tokenizer(text.vocabulary())


@pytest.fixture
def new_trainer(autoencoder, tokenizer):
    def make(settings=SETTINGS):
        pools = {}

        def draw(step, size):
            if size not in pools:
                pools[size] = LatentPool(autoencoder, EditStream(0, size[3], *size[:3]), tokenizer, size[3], batches=2, every=4)
            return pools[size].draw(step)

        return EditorTrainer(settings, draw, "cpu")

    return make


def test_the_vocabulary_knows_every_instruction_in_any_case(tokenizer):
    sentences = list(all_instructions(500, seed=9))
    tokens = tokenizer(sentences)
    assert tokens.shape == (500, text.LENGTH) and not (tokens == text.UNKNOWN).any()
    assert torch.equal(tokens, tokenizer([sentence.upper() for sentence in sentences]))
    assert tokenizer([""])[0].tolist() == [text.END] + [text.PAD] * (text.LENGTH - 1)
    assert tokens.max() < text.CONFIG["vocab_size"]


def test_the_included_vocabulary_learns_the_words_of_filmed_clips_and_keeps_its_own():
    folder = Path(vae.__file__).parents[2] / "weights"
    model = open_export(folder / EDITOR, folder / ENCODER).vocabulary
    before, after = text.Tokenizer(model).pieces, text.Tokenizer(text.with_filmed_words(model)).pieces
    usual, filmed = (list(all_instructions(2000, seed=9, filmed=filmed)) for filmed in (False, True))
    kept = [before.encode(sentence) for sentence in usual]
    assert all(after.encode(sentence) == cut for sentence, cut in zip(usual, kept) if text.UNKNOWN not in cut)
    assert not any(text.UNKNOWN in after.encode(sentence) for sentence in usual + filmed)
    assert "▁teal" in after.encode("in teal and orange", out_type=str)
    assert after.get_piece_size() <= text.CONFIG["vocab_size"]
    assert text.with_filmed_words(text.with_filmed_words(model)) == text.with_filmed_words(model)


def test_the_encoder_gives_what_core_gives(tokenizer, tmp_path):
    encoder, file = text.new_encoder(), tmp_path / "encoder.safetensors"
    weights = {name: weight.bfloat16().float() for name, weight in encoder.state_dict().items()}
    encoder.load_state_dict(weights)
    text.save_encoder(weights, text.vocabulary(), file)
    clip = load_text_encoder(str(file))
    for sentence in ("turn the video into a pencil sketch.", "Make the red ball blue", "", "色调艳丽"):
        core = clip.encode_from_tokens_scheduled(clip.tokenize(sentence))[0][0]
        ours = text.encode_text(encoder, tokenizer([sentence]))
        assert core.shape == ours.shape == (1, text.LENGTH, text.CONFIG["d_model"])
        torch.testing.assert_close(ours, core.float(), rtol=1e-3, atol=1e-3)
        assert (ours[0, len(tokenizer.pieces.encode(sentence)) :] == 0).all()


def test_edits_become_latents_with_their_region(autoencoder, tokenizer):
    batch = EditStream(3, 7, *SIZE[:3], tasks=("remove",))[0]
    latents = encode_edits(autoencoder, tokenizer, batch)
    assert latents.source.shape == latents.target.shape == (7, 16, 2, 6, 8)
    changed = batch.region[:, 0, :1].float().unflatten(2, (6, 8)).unflatten(4, (8, 8)).amax((3, 5))
    assert torch.equal(latents.region[:, 0, :1], changed)
    assert 0 < latents.region.mean() < 0.5


def test_the_pool_depends_on_the_step_alone(autoencoder, tokenizer):
    new = lambda: LatentPool(autoencoder, EditStream(0, *SIZE[3:], *SIZE[:3]), tokenizer, 3, batches=2, every=2)  # noqa: E731
    through, resumed = new(), new()
    drawn = [through.draw(step) for step in range(7)]
    for step in (5, 6):
        assert all(torch.equal(a, b) for a, b in zip(drawn[step], resumed.draw(step)))
    assert not torch.equal(drawn[5].target, drawn[6].target)


@pytest.mark.slow
def test_training_learns_and_resumes_with_the_same_numbers(new_trainer, tmp_path):
    whole = new_trainer()
    losses = [whole.step()["loss"].item() for _ in range(SETTINGS.steps)]
    assert sum(losses[20:24]) < 0.75 * sum(losses[:4])

    first = new_trainer()
    for _ in range(23):
        first.step()
    first.save(tmp_path / "checkpoint.pt")
    second = new_trainer()
    second.load(tmp_path / "checkpoint.pt")
    # Over the border to the second phase, which trains through ISA.
    assert [second.step()["loss"].item() for _ in range(3)] == losses[23:26]
    with pytest.raises(IndexError, match="training is over after 28 steps"):
        whole.step()
    with pytest.raises(ValueError, match="another folder"):
        new_trainer(EditorSettings(dim=128, ffn_dim=64, blocks=2)).load(tmp_path / "checkpoint.pt")


def test_every_weight_is_trained_with_isa_and_without(new_trainer):
    trainer = new_trainer()
    # At the start the output layer is zero and hides the rest.
    torch.nn.init.normal_(trainer.network.head.head.weight, std=0.1)
    for isa in (None, ISAConfig(block_size=16)):
        trainer.isa = isa
        trainer.gradients(isa, *trainer.noised(trainer.batches(0, SIZE), 0))
        still = [name for name, weight in trainer.network.named_parameters() if not weight.grad.abs().sum() > 0]
        still += [name for name, weight in trainer.encoder.named_parameters() if not weight.grad.abs().sum() > 0]
        assert not still


def test_the_share_without_instruction(new_trainer):
    trainer = new_trainer()
    tokens = torch.full((4000, text.LENGTH), 7)
    tokens[:, 9] = text.END
    made = trainer._some_unconditional(tokens, torch.Generator().manual_seed(0))
    changed = (made != tokens).any(1)
    assert changed.float().mean() == pytest.approx(0.1, abs=0.02)
    assert ((made[changed] == text.END).sum(1) == 1).all()
    assert ((made[changed] == text.UNKNOWN).any(1)).float().mean() == pytest.approx(0.48, abs=0.08)
    assert not (made[changed] == 7).any()


@pytest.mark.slow
def test_what_is_exported_loads_and_edits_as_in_training(new_trainer, tokenizer, autoencoder, tmp_path):
    trainer = new_trainer()
    log = tmp_path / "log.jsonl"
    run_until(trainer, "editor", tmp_path / "checkpoint.pt", log, minutes=1)
    assert trainer.done == SETTINGS.steps and json.loads(log.read_text().splitlines()[-1])["step"] == SETTINGS.steps
    trainer.export(tmp_path / "editor.safetensors", tmp_path / "encoder.safetensors")
    resumed = new_trainer(replace(SETTINGS, phases=(replace(SETTINGS.phases[0], steps=30),)))
    resumed.load_export(tmp_path / "editor.safetensors", tmp_path / "encoder.safetensors")
    assert resumed.done == SETTINGS.steps and resumed.learning_rate == pytest.approx(0.2 * 1e-3, rel=0.05)
    assert resumed.step()["loss"] < 0.9

    trainer.use_average()
    register()
    model = load_diffusion_model(str(tmp_path / "editor.safetensors")).model.diffusion_model
    batch = trainer.batches(27, SIZE)
    words = text.encode_text(trainer.encoder, batch.tokens)
    time = torch.tensor([900.0, 500, 100, 10])
    with torch.no_grad():
        ours, loaded = (
            net(batch.target, time, words, context_latents=[batch.source]) for net in (trainer.network, model.float())
        )
    assert (ours - loaded).norm() / ours.norm() < 0.02

    seen = EditStream(0, 2, *SIZE[:3], split="held-out")[0]
    output = edit(trainer.network, trainer.encoder, tokenizer, autoencoder, seen.source, seen.instructions, steps=2)
    assert output.shape == seen.source.shape and output.isfinite().all()
    sheet(seen, output, tmp_path / "sheet.png")
    loss_plot({"editor": log}, tmp_path / "loss.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000 and (tmp_path / "loss.png").stat().st_size > 1000


def test_the_schedule_of_the_full_run():
    settings = EditorSettings()
    assert settings.phase_at(0) == (settings.phases[0], 0)
    assert settings.phase_at(settings.steps - 1)[0].isa == ISAConfig()
    assert sum(weight.numel() for weight in new_editor(settings).parameters()) * 2 < 22 * 2**20


@pytest.mark.long
def test_the_whole_command_from_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("liveditor_isa.training.tiny.whole_run.edit", partial(edit, steps=1))
    vae_settings = vae.VAESettings(dim=8, steps=2, clips=4, frames=5, size=32)
    decoder_settings = decoder.DecoderSettings(steps=1, frames=5, size=32)
    settings = replace(SETTINGS, phases=tuple(replace(phase, steps=1) for phase in SETTINGS.phases))
    everything = vae_settings, decoder_settings, settings
    train(tmp_path, 5, "cpu", *everything)
    names = {path.name for path in tmp_path.iterdir()}
    assert {
        EDITOR,
        ENCODER,
        vae.EXPORT,
        "editor_log.jsonl",
        "vae_log.jsonl",
        "decoder_log.jsonl",
        "edits-full.png",
        "edits-isa.png",
        "reconstructions.png",
        "scores.json",
    } <= names
    assert is_wan_vae(load_vae(str(tmp_path / vae.EXPORT)))
    with safe_open(tmp_path / STAGE_ONE / EDITOR, "pt") as file:
        assert int(file.metadata()["steps"]) == settings.full_attention_steps == 1
    assert decoder.steps_done(tmp_path / vae.EXPORT) == 1
    before = load_file(tmp_path / EDITOR)
    train(tmp_path, 5, "cpu", *everything)
    assert all(torch.equal(weight, before[name]) for name, weight in load_file(tmp_path / EDITOR).items())


@pytest.mark.long
def test_two_processes_follow_the_mean_of_their_gradients(tmp_path):
    script = tmp_path / "both.py"
    script.write_text(BOTH)
    paths = str(Path(__file__).parents[2] / "scripts")
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(tmp_path)],
        check=True, timeout=120, env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert one["done"] == other["done"] == 1, "both stop when the time of one is over"
    torch.testing.assert_close(one["gradient"], other["gradient"])
    assert not torch.equal(one["own"], other["own"])
    torch.testing.assert_close(one["gradient"], (one["own"] + other["own"]) / 2)
    assert all(map(torch.equal, one["weights"], other["weights"]))
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["log.jsonl"]


BOTH = """
import sys
from pathlib import Path

from comfy_headless import import_comfy

import_comfy()
import torch
from liveditor_isa.training import processes, run

device, folder = processes.join("cpu"), Path(sys.argv[1])
weight = torch.nn.Parameter(torch.ones(3, 2))


class Trainer:
    weights, averaged, done, learning_rate, device = [weight], [weight.detach().clone()], 0, 0.1, torch.device(device)
    optimizer = torch.optim.SGD([weight])
    settings = type("Settings", (), {"steps": 60, "ema": 0.9})
    gradients = type("Pass", (), {"gradient": torch.zeros(6)})

    def step(self):
        generator = torch.Generator().manual_seed(processes.own_seed(self.done))
        self.gradients.gradient.copy_(0.01 * torch.randn(6, generator=generator))
        self.own = self.gradients.gradient.clone()
        weight.grad = self.gradients.gradient.view(3, 2)
        return {"gradient": run.descend(self, self.done + 1)}

    def save(self, path):
        path.touch()


trainer = Trainer()
# Only the second one's time is over.
run.run_until(trainer, "test", folder / f"checkpoint{processes.rank()}", folder / "log.jsonl", 5 * (1 - processes.rank()))
processes.wait()
state = {"done": trainer.done, "own": trainer.own, "gradient": trainer.gradients.gradient, "weights": trainer.weights}
torch.save(state, folder / f"{processes.rank()}.pt")
"""
