"""Scoring on several workers: the plain run's numbers, whatever is killed."""

import os
import pickle
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
import torch
from evaluated import noisy, right, save, scene, write_rows
from fake_judge import GOOD, fake_judge
from liveditor_isa.command import evaluate as command
from liveditor_isa.command import main
from liveditor_isa.evaluation import scoring_job
from liveditor_isa.evaluation.items import read_items
from liveditor_isa.evaluation.judge.client import Endpoint
from liveditor_isa.evaluation.records import Run, Settings
from liveditor_isa.evaluation.results import collect
from liveditor_isa.video.mp4 import write_mp4

METRICS = ("psnr_source", "psnr_reference_inside", "mse_source", "temporal_flickering", "flicker_added")


@pytest.fixture
def clips(tmp_path) -> Path:
    rows = []
    for index, id in enumerate(("plain", "once-killed", "deadly", "another", "last")):
        video, mask = scene(index)
        videos = {"source": video, "mask": mask, "reference": right(video, mask), "edit": noisy(right(video, mask), 10 + index)}
        rows.append(
            {"id": id, "instruction": "Make the box blue"}
            | {role: save(tmp_path / f"{role}{index}", frames).name for role, frames in videos.items()}
        )
    return write_rows(tmp_path / "clips.jsonl", *rows)


def evaluate(clips, run, *options) -> int:
    return main(["evaluate", "score", str(clips), "--run", str(run), "--metrics", *METRICS, *map(str, options)])


def values(run) -> dict[str, dict[str, float]]:
    return {one.item.id: one.values for one in collect(Run(run)).scored}


@pytest.fixture
def ray_finds_support(monkeypatch):
    pytest.importorskip("ray", reason="the batch extra is not installed")
    support = str(Path(__file__).parents[1] / "support")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([support, *filter(None, [os.environ.get("PYTHONPATH")])]))


@pytest.mark.long
def test_two_workers_on_a_real_ray_give_the_plain_runs_numbers(clips, tmp_path, ray_finds_support, monkeypatch, capsys):
    """One worker is killed in the middle of an item, which another finishes; one item kills every worker, and its scores are missing."""
    monkeypatch.setattr(command, "score_by_job", partial(scoring_job.score_by_job, editor="dying_scorer"))
    assert evaluate(clips, tmp_path / "plain") == 0
    wanted = values(tmp_path / "plain")
    assert all(len(row) == len(METRICS) for row in wanted.values())

    assert evaluate(clips, tmp_path / "spread", "--workers", 2) == 1
    found = values(tmp_path / "spread")
    assert (tmp_path / "spread/killed-once-killed").exists()
    assert found.pop("deadly") == {"psnr_source": wanted.pop("deadly")["psnr_source"]} and found == wanted
    lost = {one.item.id: one.missing for one in collect(Run(tmp_path / "spread")).scored}["deadly"]
    assert lost.keys() == {*METRICS[1:]} and all("3 workers in turn were killed over this clip" in why for why in lost.values())
    assert "25 scores computed, 0 were there" in capsys.readouterr().out

    # What is missing is computed on request, here without a job; what is there is not.
    assert evaluate(clips, tmp_path / "spread", "--retry-missing") == 0
    assert "4 scores computed, 21 were there" in capsys.readouterr().out
    assert values(tmp_path / "spread") == values(tmp_path / "plain")


@pytest.mark.long
def test_edits_made_on_a_real_ray_are_those_that_are_scored(tmp_path, ray_finds_support, monkeypatch):
    """`generate` with a worker killed on the way, by an editor that gives its source back, then `score`, both with two workers."""
    frames = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 32, 32, 3)
    rows = []
    for index in range(3):
        write_mp4(tmp_path / f"{index}.mp4", [frames], Fraction(10))
        what = f"die-once {tmp_path / 'killed'}" if index == 1 else "give it back"
        rows.append({"id": f"clip{index}", "source": f"{index}.mp4", "instruction": what})
    clips = write_rows(tmp_path / "clips.jsonl", *rows)
    monkeypatch.setattr(command, "_generate", partial(command._generate, editor="fake_editor"))
    assert main(["evaluate", "generate", str(clips), "--run", str(tmp_path / "run"), "--device", "cpu", "--workers", "2"]) == 0
    assert (tmp_path / "killed").exists()
    assert evaluate(clips, tmp_path / "run", "--workers", 2) == 0
    assert evaluate(clips, tmp_path / "plain", "--edits", tmp_path / "run/edits") == 0
    found = values(tmp_path / "run")
    assert found == values(tmp_path / "plain") and len(found) == 3
    assert all(row["psnr_source"] > 40 and row["flicker_added"] == pytest.approx(0, abs=0.5) for row in found.values())


def test_a_worker_loads_what_the_command_chose_and_asks_its_judge(clips, tmp_path):
    """Without Ray: what is pickled for a worker, and what one does with an item."""
    run, items = Run(tmp_path / "run"), read_items(clips)
    run.begin(Settings(str(clips), None, "run", "corrected", "crop"), items)
    with fake_judge(GOOD) as server:
        choice = scoring_job.Choice(str(run.folder), METRICS[:1], Endpoint(server.url, "fake", "secret"))
        loaded = scoring_job.load(pickle.loads(pickle.dumps(choice)))
        made, facts = scoring_job.edit_file(loaded, scoring_job.Task(str(run.record), "another"), tmp_path / "none.mp4")
        assert (made, facts) == (None, {"computed": 2, "missing": 0}) and len(server.asked) == 1
        assert (
            scoring_job.edit_file(loaded, scoring_job.Task(str(run.record), "another"), tmp_path / "none.mp4")[1]["computed"]
            == 0
        )
    assert {one.item.id for one in collect(run).scored if one.values} == {"another"}
    assert "secret" not in repr(choice) and not choice.shared()
