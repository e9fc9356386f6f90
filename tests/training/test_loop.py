"""Runs of `liveditor train` in one process: they go on as if never stopped, and what they write opens everywhere."""

import json
import os
import signal

import pytest
import torch
from liveditor_isa.checkpoint.keys import CheckpointError
from liveditor_isa.checkpoint.lora import read_lora
from liveditor_isa.checkpoint.opening import open_checkpoint
from liveditor_isa.command import main
from liveditor_isa.pipelines.transformer import LIVEditorTransformer3DModel
from liveditor_isa.training.editor import loop, start
from liveditor_isa.training.editor.trainer import Trainer
from liveditor_isa.training.stopping import Stopped
from safetensors.torch import load_file
from small_training import recipe, write_encoded, write_network

SPARSE = {"attention": "isa", "min_tokens": 0, "isa": {"block_size": 4, "keep_ratio": 0.5}}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("network") / "liveditor.safetensors")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_encoded(tmp_path_factory.mktemp("pairs") / "shards", ((64, 48, 5),) * 5 + ((48, 64, 1),) * 2)


@pytest.fixture(autouse=True)
def keep_trainers(monkeypatch):
    """The trainers that runs make, for tests to look at."""
    made, before = [], Trainer.__init__

    def init(self, *args):
        before(self, *args)
        made.append(self)

    monkeypatch.setattr(Trainer, "__init__", init)
    return made


def result(made, out, of, **changes) -> dict[str, torch.Tensor]:
    """What a whole run wrote, and its last trainer's weights."""
    file = loop.run(of, out, "cpu", progress=False).file
    weights = {name: weight.detach().clone() for name, weight in zip(made[-1].names, made[-1].weights)}
    return load_file(file) | weights


def stop_after(monkeypatch, step: int, by=signal.SIGTERM):
    before = Trainer.step

    def stepped(self):
        done = before(self)
        if self.done == step:
            os.kill(os.getpid(), by)
        return done

    monkeypatch.setattr(Trainer, "step", stepped)


@pytest.mark.parametrize(
    "trains, stage", [("full", {}), ("full", SPARSE), ("lora", {"warm_up": 2, "rate_end": 1e-4}), ("new", {})]
)
def test_a_stopped_run_goes_on_as_if_never_stopped(network, pairs, tmp_path, monkeypatch, keep_trainers, trains, stage):
    of = recipe(network, pairs, trains, steps=6, stage=stage, objective={"drop_context": 0.3, "single_frames": 0.3})
    expected = result(keep_trainers, tmp_path / "whole", of)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stopped) as stopped:
            loop.run(of, tmp_path / "stopped", "cpu", progress=False)
    assert stopped.value.signal == signal.SIGTERM
    found = result(keep_trainers, tmp_path / "stopped", of)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("whole", "stopped")
    ]
    assert [[line["step"], line["loss"], line["rate"]] for line in logs[0]] == [
        [line["step"], line["loss"], line["rate"]] for line in logs[1]
    ]
    assert [line["step"] for line in logs[0]] == [1, 2, 3, 4, 5, 6]


def test_the_command_ends_with_the_signals_status_and_goes_on(network, pairs, tmp_path, monkeypatch, capsys):
    text = f'[model]\nstart = "tiny"\n[lora]\nrank = 2\n[[stage]]\nsteps = 3\n[[stage.sources]]\npath = "{pairs}"\n'
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    command = ["train", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "run"), "--device", "cpu", "--quiet", "--json"]
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with monkeypatch.context() as patch:
            stop_after(patch, 2)
            assert main(command) == 143
        capsys.readouterr()
        assert main(command) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["steps"], facts["resumed"]) == (3, 2)
        lora = load_file(facts["file"])
        assert lora["diffusion_model.blocks.9.ffn.2.lora_up.weight"].any()
        (tmp_path / "recipe.toml").write_text(text.replace("rank = 2", "rank = 4"), encoding="utf-8")
        assert main(command) == 2
        assert "is a run with another lora.rank" in json.loads(capsys.readouterr().out)["error"]
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before):
            signal.signal(number, handler)


def test_weights_open_in_diffusers_and_comfyui_without_conversion(network, pairs, tmp_path, keep_trainers):
    from liveditor_isa.comfyui.architecture import register
    from liveditor_isa.comfyui.loaders import load_diffusion_model

    file = loop.run(recipe(network, pairs, "full"), tmp_path / "run", "cpu", progress=False).file
    trainer = keep_trainers[-1]
    assert any(not torch.equal(weight, averaged) for weight, averaged in zip(trainer.weights, trainer.averaged))
    opened = dict(LIVEditorTransformer3DModel.from_single_file(file).named_parameters())
    assert all(torch.equal(opened[name].detach(), averaged.bfloat16()) for name, averaged in trainer.written.items())
    register()
    in_comfyui = load_diffusion_model(str(file)).model.diffusion_model.state_dict()
    written = load_file(file)
    assert all(torch.equal(in_comfyui[name].cpu().bfloat16(), weight) for name, weight in written.items())


def test_a_lora_does_on_both_hosts_what_it_did_in_training(network, pairs, tmp_path, keep_trainers):
    """Also merged into the weights."""
    import comfy.sd
    from liveditor_isa.comfyui.architecture import register
    from liveditor_isa.comfyui.loaders import read_diffusion_model
    from liveditor_isa.pipelines.pipeline import LIVEditorPipeline

    of = recipe(network, pairs, "lora", stage={"rate": 1e-2, "ema": 0.0}, lora={"rank": 4, "alpha": 8.0})
    file = loop.run(of, tmp_path / "run", "cpu", progress=False).file
    trained = keep_trainers[-1].network.eval()
    generator = torch.Generator().manual_seed(5)
    latents = [torch.randn(1, 16, 2, 6, 8, generator=generator) for _ in range(2)]
    inputs = latents[0], torch.tensor([700.0]), torch.randn(1, 9, 256, generator=generator), latents[1:]
    with torch.no_grad():
        expected = trained(*inputs).sample
        pipe = LIVEditorPipeline.included(torch.float32, LIVEditorTransformer3DModel.from_single_file(network, torch.float32))
        plain = pipe.transformer(*inputs).sample
        pipe.load_lora_weights(str(file))
        unmerged = pipe.transformer(*inputs).sample
        pipe.fuse_lora()
        pipe.unload_lora_weights()
        merged = pipe.transformer(*inputs).sample
        register()
        weights, metadata = read_diffusion_model(str(network))
        core = comfy.sd.load_diffusion_model_state_dict(weights, {"dtype": torch.float32}, metadata)
        core = comfy.sd.load_lora_for_models(core, None, load_file(file), 1.0, 0)[0]
        comfy.model_management.load_models_gpu([core], force_patch_weights=True)
        in_comfyui = core.model.diffusion_model(
            inputs[0], inputs[1], context=inputs[2], context_latents=inputs[3], transformer_options={}
        )
    scale = (expected - plain).abs().max()
    assert scale > 0.05
    for found in (unmerged, merged, in_comfyui):  # the file is bf16
        assert (found - expected).abs().max() < 0.05 * scale
    assert (merged - unmerged).abs().max() < 1e-3 * scale
    shapes = open_checkpoint(network).shapes
    assert len(read_lora(load_file(file), shapes).modules) == 2 * 10


def test_new_parameters_alone_change(network, pairs, tmp_path):
    file = loop.run(recipe(network, pairs, "new"), tmp_path / "run", "cpu", progress=False).file
    before = {name: open_checkpoint(network).tensor(name).bfloat16() for name in open_checkpoint(network).shapes}
    changed = {name for name, weight in load_file(file).items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if start.is_new(name)} and len(changed) == 4


def test_a_rate_that_is_a_tensor_is_filled(network, pairs, tmp_path, monkeypatch, keep_trainers):
    """torchao's optimisers compile their step with it, and refuse another object."""
    from liveditor_isa.training.editor import trainer

    rates = []

    def made(weights, settings):
        rates.append(torch.tensor(0.0))
        return torch.optim.AdamW(weights, lr=rates[0], foreach=False)

    monkeypatch.setattr(trainer, "optimiser_of", made)
    loop.run(recipe(network, pairs, "new", steps=1, stage={"rate": 3e-4}), tmp_path / "run", "cpu", progress=False)
    assert keep_trainers[-1].optimiser.param_groups[0]["lr"] is rates[0] and rates[0] == torch.tensor(3e-4)


def test_plain_wan_begins_without_its_residual_and_sees_the_context_as_the_target(pairs, tmp_path, keep_trainers):
    wan = write_network(tmp_path / "wan.safetensors", plain=True)
    with pytest.raises(CheckpointError, match="plain Wan: what LIVEditor adds"):
        loop.run(recipe(wan, pairs, "lora"), tmp_path / "run", "cpu", progress=False)
    network = start.load(recipe(wan, pairs, "full").model, torch.float32)
    assert all(not block.attn1.alpha_1.weight.any() for block in network.blocks)
    assert torch.equal(network.source_video_embedding_more_memory.weight, network.patch_embedding.weight)
    file = loop.run(recipe(wan, pairs, "new", stage={"ema": 0.0}), tmp_path / "run", "cpu", progress=False).file
    written, before = load_file(file), open_checkpoint(wan)
    assert all(torch.equal(written[name], before.tensor(name).bfloat16()) for name in before.shapes)
    assert written["blocks.1.self_attn.alpha_1.weight"].any()
    assert not torch.equal(written["source_video_embedding_more_memory.weight"], written["patch_embedding.weight"])
    LIVEditorTransformer3DModel.from_single_file(file)


@pytest.mark.parametrize(
    "memory, exact",
    [
        ({"checkpointing": True}, True),
        ({"checkpointing": True, "offload_activations": True}, True),
        ({"micro_batch": 2}, False),
    ],
)
def test_what_saves_memory_changes_no_number(network, pairs, tmp_path, keep_trainers, memory, exact):
    stage = SPARSE | {"ema": 0.0}
    plain = result(keep_trainers, tmp_path / "plain", recipe(network, pairs, stage=stage, memory={"checkpointing": False}))
    saving = result(keep_trainers, tmp_path / "saving", recipe(network, pairs, stage=stage, memory=memory))
    for name, tensor in plain.items():
        if exact:
            assert torch.equal(saving[name], tensor), name
        elif tensor.dtype == torch.float32:
            assert torch.allclose(saving[name], tensor, atol=2e-4), name


def test_offloaded_inputs_of_blocks_are_what_is_kept(network, pairs, tmp_path, monkeypatch):
    from liveditor_isa.training.editor import activations

    moved, before = [], activations.save_on_cpu

    class Counted(before):
        def __init__(self, **options):
            super().__init__(**options)
            pack = self.pack_hook
            self.pack_hook = lambda tensor: moved.append(tuple(tensor.shape)) or pack(tensor)

    monkeypatch.setattr(activations, "save_on_cpu", Counted)
    loop.run(recipe(network, pairs, steps=1, memory={"offload_activations": True}), tmp_path / "run", "cpu", progress=False)
    tokens = [shape for shape in moved if shape != (0,)]
    assert len(tokens) == 2 * 2 and {shape[::2] for shape in tokens} == {(1, 256)}  # two examples, two blocks, nothing else


@pytest.mark.parametrize("attention", ["isa", "error_aware", "segment_top_k"])
def test_every_policy_trains(network, pairs, tmp_path, keep_trainers, attention):
    stage = {"attention": attention, "min_tokens": 0, "isa": {"block_size": 4, "exact_ratio": 0.25}, "ema": 0.0}
    sparse = result(keep_trainers, tmp_path / "sparse", recipe(network, pairs, steps=2, stage=stage))
    full = result(keep_trainers, tmp_path / "full", recipe(network, pairs, steps=2, stage={"ema": 0.0}))
    weight = "blocks.0.attn1.to_q.weight"
    assert torch.isfinite(sparse[weight]).all() and not torch.equal(sparse[weight], full[weight])


def test_stages_follow_each_other_and_the_rate_with_them(network, pairs, tmp_path, keep_trainers):
    of = recipe(network, pairs, steps=2, stage={"warm_up": 1})
    two = type(of)(
        stage=(of.stage[0], type(of.stage[0])(steps=3, sources=of.stage[0].sources, rate=2e-4, rate_end=1e-4, batch=1)),
        model=of.model, operation=of.operation,
    )  # fmt: skip
    loop.run(two, tmp_path / "run", "cpu", progress=False)
    rates = [json.loads(line)["rate"] for line in (tmp_path / "run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rates[:3] == [5e-4, 1e-3, 2e-4] and rates[2] > rates[3] > rates[4] > 1e-4


def test_it_learns_what_one_pair_shows(network, tmp_path):
    pair = write_encoded(tmp_path / "shards", ((64, 48, 5),))
    of = recipe(
        network, pair, steps=120, stage={"batch": 1, "rate": 2e-3}, objective={"drop_text": 0.0}, operation={"log_every": 20}
    )
    loop.run(of, tmp_path / "run", "cpu", progress=False)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert losses[-1] < 0.6 * losses[0]


def test_old_checkpoints_go_and_unfinished_ones_are_not_taken(network, pairs, tmp_path, keep_trainers):
    of = recipe(network, pairs, steps=3, operation={"save_every": 1, "keep": 2, "log_every": 1})
    loop.run(of, tmp_path / "run", "cpu", progress=False)
    folder = tmp_path / "run/checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", "step-00000003"]
    (folder / "step-00000003/.metadata").unlink()
    (folder / "step-00000001").mkdir()  # never finished, and never gone on from
    log = tmp_path / "run/log.jsonl"
    log.write_text(log.read_text(encoding="utf-8")[:-9], encoding="utf-8")  # the disk was full
    assert loop.run(of, tmp_path / "run", "cpu", progress=False).resumed == 2
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", "step-00000003"]
    assert [json.loads(line)["step"] for line in log.read_text(encoding="utf-8").splitlines()] == [1, 2, 3]


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(network, tmp_path, keep_trainers):
    pairs = write_encoded(tmp_path / "shards")
    of = recipe(network, pairs, steps=3, stage={"rate": 10.0, "ema": 0.0}, operation={"log_every": 1})
    pair = {name: tensor.clone() for name, tensor in load_file(pairs / "00000.safetensors").items()}
    pair["pair-1/target"][0, 0, 0, 0] = float("nan")
    from safetensors.torch import save_file

    save_file(pair, pairs / "00000.safetensors")
    from liveditor_isa.data import shards

    shards._opened.cache_clear()
    with pytest.raises(ValueError, match="The loss of step [1-3] or its gradient is not finite"):
        loop.run(of, tmp_path / "run", "cpu", progress=False)
    assert all(torch.isfinite(weight).all() for weight in keep_trainers[-1].weights)
