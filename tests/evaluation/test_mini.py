"""LIVEditor-Bench-mini: its answers are exact, doing nothing is no progress, and settings compared are the presets."""

import json
import re
import shutil

import pytest
import torch
from comfy_headless import ROOT
from evaluated import noisy, save
from liveditor_isa.benchmarks.evaluation import mini as benchmark
from liveditor_isa.command import main
from liveditor_isa.evaluation.benches import mini
from liveditor_isa.evaluation.catalogue import all_metrics
from liveditor_isa.evaluation.frames import Inputs, read_video
from liveditor_isa.evaluation.items import missing_files, read_items
from liveditor_isa.evaluation.records import Run, edit_of
from liveditor_isa.isa_core import ISAConfig


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The file of items, as the command makes it."""
    folder = tmp_path_factory.mktemp("mini")
    assert (
        main(["evaluate", "prepare", "mini", str(folder / "clips"), "--subset", "quick", "--out", str(folder / "mini.jsonl")])
        == 0
    )
    return folder / "mini.jsonl"


@pytest.mark.slow
def test_right_edits_are_the_sources_outside_of_the_mask_and_other_within(drawn):
    items = read_items(drawn).items
    assert len(items) == 7 + 7 and not missing_files(items)
    for item in items:
        inputs = Inputs(item, item.reference)
        assert inputs.mask.any() and torch.equal(inputs.reference[~inputs.mask], inputs.source[~inputs.mask])
        assert all_metrics()["mini_progress"].compute(inputs) == {"mini_progress": 1}
        assert all_metrics()["mini_progress"].compute(Inputs(item, item.source)) == {"mini_progress": 0}


@pytest.mark.slow
def test_a_second_preparation_draws_nothing_anew_and_mends_what_is_broken_off(drawn, tmp_path):
    copy = shutil.copytree(drawn.parent / "clips", tmp_path / "clips")
    whole = {path: path.stat().st_mtime_ns for path in copy.rglob("*.*")}
    mini.prepare(copy, "quick")
    assert whole == {path: path.stat().st_mtime_ns for path in copy.rglob("*.*")}
    (copy / "real-add-mask/00008.png").unlink()
    mini.prepare(copy, "quick")
    assert len(read_video(str(copy / "real-add-mask")).frames) == mini.FRAMES


@pytest.mark.long
def test_the_benchmark_from_clips_to_result(drawn, tmp_path, monkeypatch):
    """With right edits, the more disturbed the less is computed, in the editor's place."""
    made = []

    def generate(items, run: Run, name: str):
        for item in items.items:
            if edit_of(item, run.made_edits) is None:
                made.append((name, item.id))
                noise = 4.0 if name == benchmark.FULL else 30.0
                save(run.made_edits / item.id, noisy(read_video(item.reference).frames, noise))

    monkeypatch.setattr(benchmark, "generate", generate)
    monkeypatch.setattr(benchmark, "EXTRA_METRICS", ())
    monkeypatch.setattr(benchmark, "write_report", lambda *arguments: None)
    shutil.copytree(drawn.parent / "clips", tmp_path / "clips")
    command = ["--folder", str(tmp_path), "--settings", "fast", "--out", str(tmp_path / "result.json")]
    benchmark.main(command)
    assert len(made) == 2 * 14
    stored = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert stored["items"]["items"] == 14 and stored["settings"]["fast"]["setting"]["context_refresh"] == 2
    change = stored["settings"]["fast"]["less_full"]["psnr_reference"]
    assert change["difference"]["high"] < 0 and change["below"] == 14
    benchmark.main(command)
    assert len(made) == 2 * 14
    rows = {row[0]: row for row in benchmark.table(stored).rows}
    assert rows["fast"][1].startswith("-") and rows["fast"][-1] == "–" and float(rows["full"][1]) > 30


def test_settings_are_the_pages_presets():
    """But for blocks, which are smaller for small clips."""
    script = (ROOT / "web/isa_presets.js").read_text(encoding="utf-8")
    for name, (isa, refresh) in benchmark.SETTINGS.items():
        found = re.search(rf"\b{name.capitalize()}: \{{.*?values: \{{(.*?)\}}", script, re.S)
        if not found:
            assert name in (benchmark.FULL, "paper, no reuse")
            continue
        values = {key: float(value) for key, value in re.findall(r"(\w+): ([\d.]+)", found[1])}
        assert values.pop("context_refresh") == refresh
        if "segment_top_k: true" in found[1]:
            assert isa.policy == "segment_top_k"
            values.pop("keep_ratio")  # has no part in it
        for key, value in values.items():
            assert getattr(isa or ISAConfig(1, 1, 1), key) == value
