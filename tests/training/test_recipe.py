"""Recipes of `liveditor train`: what is wrong with one is a sentence, and what steps see follows from seed and step alone."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.training.editor.batches import Order
from liveditor_isa.training.editor.objective import Draws, before_shift, shifted, spread
from liveditor_isa.training.editor.recipe import read_recipe, recipe_of
from liveditor_isa.training.editor.settings import LEVELS, Objective

STAGE = {"steps": 3, "sources": [{"path": "pairs"}]}
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "values, said",
    [
        ({}, "The recipe lacks stage"),
        ({"stage": []}, r"no \[\[stage\]\]"),
        ({"stage": [{"steps": 3}]}, "stage lacks sources"),
        ({"stage": [STAGE | {"sources": []}]}, "A stage has no sources"),
        ({"stage": [STAGE | {"stepz": 3}]}, "no stage.stepz; there are steps"),
        ({"stage": [STAGE | {"steps": "three"}]}, "stage.steps must be a whole number; got 'three'"),
        ({"stage": [STAGE | {"steps": True}]}, "stage.steps must be a whole number; got True"),
        ({"stage": [STAGE | {"rate_end": -1}]}, "stage.rate_end must be from 0 to 10; got -1"),
        ({"stage": [STAGE], "lora": {"alpha": 0}}, "lora.alpha must be from 1e-06 to 1e.06; got 0"),
        ({"stage": [STAGE], "operation": {"seed": 2**63}}, "operation.seed must be from 0 to 9.2"),
        ({"stage": [STAGE | {"attention": "sparse"}]}, "must be one of full, isa, error_aware, segment_top_k"),
        ({"stage": [STAGE | {"attention": "isa", "isa": {"keep": 1}}]}, "stage.isa has no 'keep'"),
        ({"stage": [STAGE | {"attention": "isa", "isa": {"keep_ratio": 2}}]}, "keep_ratio must be a number from 0 to 1"),
        ({"stage": [STAGE | {"isa": {"keep_ratio": 0.5}}]}, "which attention = \"full\" turns off"),
        ({"stage": [STAGE], "model": {"trains": "some"}}, "model.trains must be one of full, lora, new"),
        ({"stage": [STAGE], "data": {"buckets": [[100, 64, 5]]}}, "multiples of 16"),
        ({"stage": [STAGE], "data": {"buckets": [[64, 64]]}}, "data.buckets must be a list of 3"),
        ({"stage": [STAGE], "objective": {"lowest": 0.9, "highest": 0.5}}, "lowest must be below highest"),
        ({"stage": [STAGE], "memory": {"checkpointing": False, "offload_activations": True}}, "set checkpointing = true"),
        ({"stage": [STAGE], "validation": {"every": 5}}, "name a video and a prompt"),
        ({"stage": [STAGE], "optimiser": 3}, "optimiser must be a table"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(values, said):
    with pytest.raises(ValueError, match=said):
        recipe_of(values)


def test_a_file_names_what_lies_beside_it(tmp_path):
    (tmp_path / "recipe.toml").write_text(
        '[model]\nstart = "tiny"\n[[stage]]\nsteps = 5\nattention = "segment_top_k"\nisa = {exact_ratio = 0.28}\n'
        '[[stage.sources]]\npath = "pairs"\nweight = 2\n',
        encoding="utf-8",
    )
    read = read_recipe(tmp_path / "recipe.toml")
    assert read.model.start == "tiny" and read.stage[0].sources[0].path == str(tmp_path / "pairs")
    assert read.stage[0].sparse == ISAConfig(policy="segment_top_k", exact_ratio=0.28)
    with pytest.raises(ValueError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[model", encoding="utf-8")
    with pytest.raises(ValueError, match="is not TOML"):
        read_recipe(tmp_path / "bad.toml")
    (tmp_path / "bad.toml").write_text("stage = 3", encoding="utf-8")
    with pytest.raises(ValueError, match="bad.toml: stage must be a list"):
        read_recipe(tmp_path / "bad.toml")


def test_the_papers_recipe_is_read():
    paper = read_recipe(ROOT / "examples/train/paper.toml")
    assert [(stage.attention, stage.rate, stage.batch) for stage in paper.stage] == [("full", 1e-5, 16), ("isa", 5e-6, 16)]
    assert paper.stage[1].ema == 0.995 and paper.stage[1].sparse == ISAConfig()


def test_an_epoch_sees_every_pair_as_often_as_its_weight_says():
    small, large = (64, 48, 5), (96, 64, 9)
    order = Order([[small] * 5 + [large] * 4, [small] * 4], [1.0, 0.5], 2, seed=3)
    assert order.length == 4 + 2  # five and two of the small ones, four large ones
    seen = Counter()
    for step in range(order.length):
        bucket, places = order[step]
        assert len(places) == 2 and all(
            ([small] * 5 + [large] * 4, [small] * 4)[each.source][each.pair] == bucket for each in places
        )
        seen.update(places)
    assert all(seen[0, pair] >= 1 for pair in range(9)) and sum(seen.values()) == 12
    assert sum(count for (source, _), count in seen.items() if source == 1) in (2, 3)  # one pair fills up the last batch


def test_the_order_of_a_step_is_known_without_the_steps_before():
    buckets = [[(64, 48, 5)] * 7, [(64, 48, 9)] * 3]
    whole, other = Order(buckets, [1.0, 2.0], 2, seed=1), Order(buckets, [1.0, 2.0], 2, seed=1)
    sequence = [whole[step] for step in range(20)]
    assert [other[step] for step in (13, 2, 19)] == [sequence[step] for step in (13, 2, 19)]
    epochs = [sequence[start : start + whole.length] for start in (0, whole.length)]
    assert epochs[0] != epochs[1]
    assert [Order(buckets, [1.0, 2.0], 2, seed=2)[step] for step in range(8)] != sequence[:8]


def pair(generator, text=3):
    latents = {role: torch.randn(16, 3, 6, 8, generator=generator) for role in ("context", "target")}
    return latents | {"text": torch.randn(text, 8, generator=generator)}


def test_what_a_step_draws_does_not_depend_on_how_the_batch_is_shared():
    pairs = [pair(torch.Generator().manual_seed(0), text) for text in (3, 4, 3, 9)]
    draws = Draws(Objective(shift=6.0, drop_text=0.5), 7, own=5, empty=torch.ones(1, 8))
    together = draws.inputs(11, 4, 0, pairs)
    apart = [draws.inputs(11, 4, number, pairs[number : number + 1]) for number in range(4)]
    for number, alone in enumerate(apart):
        assert torch.equal(alone.mixed[0], together.mixed[number]) and alone.time[0] == together.time[number]
        assert torch.equal(alone.text[0], together.text[number, : alone.text.shape[1]])
    assert not torch.equal(draws.inputs(12, 4, 0, pairs).mixed, together.mixed)
    assert torch.equal(together.context[2], pairs[2]["context"])


def test_mixed_and_velocity_say_where_the_clean_latent_is():
    pairs = [pair(torch.Generator().manual_seed(0))]
    drawn = Draws(Objective(shift=3.0), 1, own=5, empty=torch.ones(1, 8)).inputs(0, 1, 0, pairs)
    level = drawn.time / 1000
    assert torch.allclose(drawn.mixed - level * drawn.velocity, pairs[0]["target"][None], atol=1e-5)


def test_shares_of_what_is_left_out():
    pairs = [pair(torch.Generator().manual_seed(0)) for _ in range(2)]
    draws = Draws(
        Objective(shift=6.0, drop_text=0.2, drop_context=0.3, single_frames=0.25), 1, own=5, empty=torch.full((1, 8), 9.0)
    )
    steps = [draws.inputs(step, 2, 0, pairs) for step in range(600)]
    shares = {
        "context": sum(each.context is None for each in steps) / 600,
        "frames": sum(each.mixed.shape[2] == 1 for each in steps) / 600,
        "text": sum((each.text[:, 0, 0] == 9).sum().item() for each in steps) / 1200,
    }
    assert abs(shares["context"] - 0.3) < 0.06 and abs(shares["frames"] - 0.25) < 0.06 and abs(shares["text"] - 0.2) < 0.04
    single = next(each for each in steps if each.mixed.shape[2] == 1 and each.context is not None)
    assert torch.equal(single.context[0], pairs[0]["context"][:, :1])


@pytest.mark.parametrize("levels", LEVELS)
def test_noise_levels_stay_in_their_range_and_follow_their_distribution(levels):
    places = [(number + 0.5) / 1000 for number in range(1000)]
    drawn = torch.tensor([spread(place, levels) for place in places])
    assert drawn.min() >= 0 and drawn.max() <= 1
    expected = {"uniform": 1 / 12**0.5, "logit_normal": 0.2083, "mode": 0.2148}[levels]
    assert abs(drawn.mean() - 0.5) < 2e-3 and abs(drawn.std() - expected) < 5e-3
    draws = Draws(Objective(shift=5.0, levels=levels, lowest=0.875), 0, 5, torch.ones(1, 8))
    of_range = [draws.level(place) for place in places]
    assert min(of_range) >= 0.875 and max(of_range) <= 1
    assert all(abs(before_shift(shifted(level, 5.0), 5.0) - level) < 1e-9 for level in (0.0, 0.3, 1.0))
