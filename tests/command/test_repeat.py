"""`liveditor edit --repeat` and `--config`: which of several values counts, and what is said of a record that is none."""

import json
from dataclasses import asdict
from fractions import Fraction

import pytest
import torch
from liveditor_isa.command import main
from liveditor_isa.command.outcome import Outcome
from liveditor_isa.pipelines.record import TAG
from liveditor_isa.pipelines.request import ModelChoice
from liveditor_isa.video.mp4 import write_mp4

RECORD = {"video": "beach.mp4", "prompt": "p", "seed": 7, "boxes": [[1, 2, 3, 4]], "references": ["hat.png"]}
CHOICE = asdict(ModelChoice())


@pytest.fixture
def run_of(tmp_path, monkeypatch):
    """The options that `edit` runs with, given arguments, beside x.mp4 that holds a record."""
    seen = {}
    monkeypatch.setattr("liveditor_isa.command.edit.run", lambda options: seen.update(vars(options)) or Outcome(0, {}))
    (tmp_path / "options.toml").write_text('[edit]\nseed = 42\nlora = ["a", "b"]\nreference = ["ring.png"]\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def run_of(record: dict, *arguments: str) -> dict:
        write_mp4("x.mp4", [torch.zeros(1, 32, 32, 3)], Fraction(8), metadata={TAG: json.dumps(record)})
        return seen if main(["edit", *arguments]) == 0 else {}

    return run_of


@pytest.mark.parametrize(
    "arguments, seed, boxes",
    [
        ("--repeat x.mp4", 7, [(1, 2, 3, 4)]),
        ("--seed 42 --repeat x.mp4 --box 5,6,7,8", 42, [(5, 6, 7, 8)]),
        ("--box 5,6,7,8 --box 1,1,1,1 --repeat x.mp4 --seed 42", 42, [(5, 6, 7, 8), (1, 1, 1, 1)]),
        ("--config options.toml --repeat x.mp4", 42, [(1, 2, 3, 4)]),
    ],
)
def test_what_is_given_beside_a_record_replaces_it(arguments, seed, boxes, run_of):
    """In any order, also where it is the option's default; one of a list replaces the whole list."""
    options = run_of(RECORD | {"model": CHOICE}, *arguments.split())
    assert (options["seed"], options["box"], str(options["video"])) == (seed, boxes, "beach.mp4")


def test_what_is_given_beside_a_file_of_options_replaces_its_list(run_of):
    options = run_of({}, "a.mp4", "p", "--config", "options.toml", "--lora", "c")
    assert (options["lora"], options["reference"]) == (["c"], ["ring.png"])


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"prompt": None}, "x.mp4 records something else than an edit ("),
        ({"steps": "two"}, "x.mp4 records something else than an edit ("),
        ({"model": CHOICE | {"dtype": "fp12"}}, "x.mp4 records the dtype 'fp12', but there are auto, bf16, fp16, fp32."),
        ({"boxes": "1,2,3,4"}, "a box is x,y,width,height"),
        ({"seed": -1}, "seed must be from 0 to"),
    ],
)
def test_a_record_that_somebody_changed_is_told_in_one_line(changed, told, run_of, capsys):
    with pytest.raises(SystemExit):
        run_of(RECORD | {"model": CHOICE} | changed, "--repeat", "x.mp4")
    shown = capsys.readouterr().err
    assert shown.startswith("liveditor edit: ") and told in shown and shown.count("\n") == 1
