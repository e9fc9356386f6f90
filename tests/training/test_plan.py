"""`liveditor train --plan` against what a run then has: numbers of weights, bytes of its state, and what blocks keep."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from liveditor_isa.checkpoint.keys import expected_shapes
from liveditor_isa.command import main
from liveditor_isa.training.editor import loop, plan
from liveditor_isa.training.editor.trainer import Trainer
from liveditor_isa.training.editor.work import example_flops
from safetensors.torch import save_file
from small_training import recipe, write_encoded, write_network


@pytest.mark.parametrize("trains", ["full", "lora", "new"])
def test_the_plan_counts_what_the_run_has(tmp_path, monkeypatch, trains):
    network, pairs = write_network(tmp_path / "liveditor.safetensors"), write_encoded(tmp_path / "pairs")
    of = recipe(network, pairs, trains, steps=1)
    made, before = [], Trainer.__init__
    monkeypatch.setattr(Trainer, "__init__", lambda self, *args: made.append(self) or before(self, *args))
    (counted,) = plan.planned(of)
    loop.run(of, tmp_path / "run", "cpu", progress=False)
    weights = made[-1].weights
    assert counted.trained == sum(weight.numel() for weight in weights)
    state = made[-1].optimiser.state
    moments = sum(value.nbytes for each in state.values() for name, value in each.items() if name != "step")
    assert counted.optimiser * 1e9 == pytest.approx(moments) and counted.gradients * 1e9 == pytest.approx(moments / 2)
    assert counted.average * 1e9 == pytest.approx(sum(each.nbytes for each in made[-1].averaged))
    assert counted.tokens == 2 * 2 * 3 * 4 and counted.bucket == (64, 48, 5)


@pytest.mark.parametrize("trains", ["full", "lora"])
def test_what_a_wider_block_keeps_is_what_the_small_one_says(tmp_path, trains):
    of = recipe(tmp_path, tmp_path, trains)
    config = SimpleNamespace(num_attention_heads=6, attention_head_dim=128, ffn_dim=1024, num_layers=1)
    wide = plan.small_network(of, 6, 1024, 2)
    few, many = (plan._kept(wide, frames) for frames in (1, 2))
    assert plan.kept_per_token(of, config, 2) == pytest.approx((many - few) / 128, rel=0.03)


def test_liveditor_14b_is_planned_from_its_header_alone(tmp_path, capsys, monkeypatch):
    """As the arithmetic on paper has it: 14.3 billion weights, 16 bytes of state each; 26.8 GB of inputs at 65,520 tokens."""
    with torch.device("meta"):
        shapes = expected_shapes(5120, 13824, 4096, 40)
    from liveditor_isa.training.editor import start

    monkeypatch.setattr(start, "opened", lambda model: (SimpleNamespace(shapes=shapes), False))
    of = recipe(tmp_path, tmp_path / "raw", "full", data={"buckets": [[832, 480, 81]]}, parallel={"context": 4})
    (counted,) = plan.planned(of, 8)
    assert counted.tokens == 65_520 and counted.parameters == counted.trained == pytest.approx(14.29e9, rel=1e-3)
    assert counted.weights + counted.gradients + counted.optimiser == pytest.approx(16 * 14.29 / 8, rel=1e-3)
    assert counted.inputs == pytest.approx(65_520 * 5120 * 2 * 40 / 4 / 1e9)
    lora = recipe(tmp_path, tmp_path / "raw", "lora", data={"buckets": [[832, 480, 81]]}, lora={"rank": 128})
    (counted,) = plan.planned(lora, 1)
    assert counted.trained == pytest.approx(40 * 15.3e6, rel=0.01) and counted.weights == pytest.approx(
        28.6 + 4 * 0.612, rel=0.01
    )
    with pytest.raises(ValueError, match="8 GPUs|multiple of 4"):
        plan.planned(of, 6)
    offloaded = replace(of, memory=replace(of.memory, offload_weights=True))
    (counted,) = plan.planned(offloaded, 8)
    assert counted.average == counted.weights == 0 and counted.host == pytest.approx(20 * 14.29 / 8, rel=1e-3)
    with pytest.raises(ValueError, match="40 attention heads cannot be shared by 3 GPUs equally"):
        plan.planned(replace(of, parallel=replace(of.parallel, context=3)), 3)
    with pytest.raises(ValueError, match="batch of 2 cannot be shared by 4 groups"):
        plan.planned(of, 16)


def test_the_command_prints_it_and_makes_nothing(tmp_path, capsys):
    write_encoded(tmp_path / "pairs", ((64, 48, 5), (96, 64, 9)))
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    (tmp_path / "recipe.toml").write_text(
        '[[stage]]\nsteps = 3\nbatch = 2\nattention = "isa"\nmin_tokens = 0\n[[stage.sources]]\npath = "pairs"\n',
        encoding="utf-8",
    )
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", str(tmp_path / "recipe.toml"), "--plan", "--gpus", "2", "--json"]) == 0
    shown = capsys.readouterr()
    facts = json.loads(shown.out)["plan"]
    assert [one["bucket"] for one in facts] == [[64, 48, 5], [96, 64, 9]] and "billion weights" in shown.err
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["train", str(tmp_path / "recipe.toml"), "--json"]) == 2
    assert "Name a folder for the run" in capsys.readouterr().out


def test_work_of_a_step_is_that_of_its_products():
    """Against PyTorch's own count of the products of a small network's forward and backward pass."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    of = recipe("x", "y", "full")
    network = plan.small_network(of, 2, 320, 4)
    latent, text = torch.randn(1, 16, 4, 16, 16), torch.randn(1, 32, 32)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(latent, torch.tensor([500.0]), text, [latent]).sample.square().mean().backward()
    counted = example_flops(network.config, 256, 256, 32, "full", of.stage[0])
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.08)  # embeddings and head are the rest
