"""Metrics of a user's module: scored, reported and completing a bench's totals as this package's own."""

import sys

import pytest
from evaluated import noisy, save, scene
from liveditor_isa.command import main
from liveditor_isa.evaluation import scoring_job
from liveditor_isa.evaluation.items import Item, write_items
from liveditor_isa.evaluation.metrics.plugins import metrics_of
from liveditor_isa.evaluation.records import Run
from liveditor_isa.evaluation.results import collect

MODULE = """
from liveditor_isa.evaluation.metrics.metric import Metric

def smooth(inputs):
    return {"motion_smoothness": inputs.edit.float().mean().item() / 255}

METRICS = [Metric("motion_smoothness", smooth, "How bright it is.", higher=False)]
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_metrics.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_metrics"
    sys.modules.pop("my_metrics", None)


def test_a_users_metric_is_scored_and_reported(module, tmp_path, capsys):
    source, _ = scene()
    item = Item(
        "one", str(save(tmp_path / "one.mp4", source)), "Brighten it.", edit=str(save(tmp_path / "edit.mp4", noisy(source)))
    )
    write_items(tmp_path / "items.jsonl", [item])
    run, items = str(tmp_path / "run"), str(tmp_path / "items.jsonl")
    assert main(["evaluate", "score", items, "--run", run, "--metrics", "psnr_source", "--own-metrics", module]) == 0
    found = collect(Run(run)).of("motion_smoothness")
    assert found.keys() == {"one"} and 0 < found["one"] < 1
    assert main(["evaluate", "report", run, "--no-videos", "--own-metrics", module]) == 0
    assert "How bright it is." in (tmp_path / "run/report/report.md").read_text(encoding="utf-8")
    choice = scoring_job.Choice(run, (), modules=(module,))
    assert [metric.name for metric in scoring_job.load(choice).metrics] == ["motion_smoothness"]


@pytest.mark.parametrize("name, words", [("no.such.module", "no module 'no.such.module'"), ("json", "json has no METRICS")])
def test_a_module_without_metrics_is_one_sentence(name, words):
    with pytest.raises(ValueError, match=words):
        metrics_of([name])
