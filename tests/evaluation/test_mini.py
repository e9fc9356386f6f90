"""LIVEditor-Bench-mini: its answers are exact, doing nothing is no progress, and settings compared are the presets."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from comfy_headless import ROOT
from evaluated import noisy, save, scene, write_rows
from liveditor_isa.benchmarks.evaluation import mini as benchmark
from liveditor_isa.command import main
from liveditor_isa.evaluation.benches import editverse, five, ive, mini, openve, reco, vie
from liveditor_isa.evaluation.catalogue import all_metrics
from liveditor_isa.evaluation.frames import Inputs, read_video
from liveditor_isa.evaluation.items import missing_files, read_items
from liveditor_isa.evaluation.records import Run, edit_of
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.video.mp4 import write_mp4
from waiting import until


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


WORDS = ("source_prompt", "target_prompt")

KIND_OF = {
    "editverse": lambda task: editverse.KINDS[task],
    "ive": lambda task: ive.KINDS[task][0],
    "vie": lambda task: vie.KINDS[task] if vie.group_of(vie.KINDS[task]) else None,
    "five": lambda task: five.TYPES[five.KINDS[task]],
    "openve": lambda task: openve.KINDS[task],
    "reco": lambda task: reco.KINDS[task],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["editverse", "ive", "vie", "five", "openve", "reco"])
def test_its_items_in_another_benchs_layout_are_the_same_items(drawn, tmp_path, name):
    """Written by `export`, read by that bench's `prepare`: videos, words, kinds, and masks where the bench has them; results are found."""
    folder, file = tmp_path / "layout", tmp_path / "read.jsonl"
    assert main(["evaluate", "export", str(drawn), name, str(folder)]) == 0
    assert main(["evaluate", "prepare", name, str(folder), "--out", str(file)]) == 0
    items, read = read_items(drawn).items, read_items(file).items
    ours = {Path(item.source).name: item for item in items}
    assert len(read) == len(items) == len({Path(item.source).name for item in read})
    for item in read:
        own = ours[Path(item.source).name]
        assert Path(item.source).read_bytes() == Path(own.source).read_bytes() and item.bench == name
        assert item.task == KIND_OF[name](own.task)
        if name in ("editverse", "ive", "five"):
            assert [getattr(item, word) for word in WORDS] == [getattr(own, word) for word in WORDS] and own.target_prompt
        if name == "five":
            assert torch.equal(Inputs(item, item.source).mask, Inputs(own, own.source).mask)
        else:
            assert item.instruction == own.instruction and item.id == (f"{item.task}_{own.id}" if name == "reco" else own.id)
        result = tmp_path / "results" / f"{item.result or item.id}.mp4"
        result.parent.mkdir(parents=True, exist_ok=True)
        result.touch()
        assert edit_of(item, tmp_path / "results") == str(result)
    assert main(["evaluate", "export", str(drawn), name, str(folder)]) == 2


def test_descriptions_say_what_changes(drawn):
    items = {item.id: item for item in read_items(drawn).items}
    assert all(item.source_prompt != item.target_prompt for item in items.values())
    assert items["add-0"].target_prompt.startswith(items["add-0"].source_prompt.partition(";")[0] + ", a ")
    assert items["background-0"].target_prompt.partition(";")[0] == items["background-0"].source_prompt.partition(";")[0]


def test_what_a_layout_lacks_is_one_sentence(tmp_path, capsys):
    video, _ = scene()
    save(tmp_path / "frames", video)
    write_mp4(tmp_path / "clip.mp4", [video / 255], 10)
    for row, name, words in (
        ({"source": "frames", "instruction": "x"}, "vie", "is no video file"),
        ({"source": "clip.mp4", "instruction": "x"}, "ive", "has no source_prompt"),
        ({"source": "clip.mp4", "source_prompt": "a", "target_prompt": "b", "task": "colour"}, "five", "has no mask"),
        ({"source": "clip.mp4", "source_prompt": "a", "target_prompt": "b", "task": "dance"}, "five", "FiVE-Bench has rigid"),
        ({"source": "clip.mp4", "instruction": "a | b", "task": "add"}, "reco", "no place for an instruction with |"),
        ({"source": "clip.mp4", "instruction": "x", "task": "dance"}, "reco", "ReCo-Bench has add"),
        ({"source": "gone.mp4", "instruction": "x"}, "editverse", "there is no source"),
    ):
        items = write_rows(tmp_path / "items.jsonl", row)
        assert main(["evaluate", "export", str(items), name, str(tmp_path / "to")]) == 2
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1 and words in error[0] and not (tmp_path / "to").exists()


def test_an_export_that_breaks_off_leaves_nothing_that_the_next_would_refuse(tmp_path, monkeypatch, capsys):
    write_mp4(tmp_path / "clip.mp4", [scene()[0] / 255], 10)
    write_rows(tmp_path / "own.jsonl", {"source": "clip.mp4", "instruction": "make it red"})
    asked = ["evaluate", "export", str(tmp_path / "own.jsonl"), "vie", str(tmp_path / "cases")]
    with monkeypatch.context() as patch:
        patch.setattr(vie, "write_json", full_disk)
        assert main(asked) == 2
    assert "No space left" in capsys.readouterr().err
    assert main(asked) == 0


def full_disk(path, content):
    assert [*path.parent.iterdir()]  # clips are there already
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


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


FOUR = """
import sys
from dataclasses import replace
from liveditor_isa.benchmarks.evaluation import mini

whole = mini.prepared
mini.prepared = lambda folder, subset: replace(items := whole(folder, subset), items=items.items[:4])
mini.EXTRA_METRICS = ()
mini.main(sys.argv[1:])
"""


@pytest.mark.long
def test_the_benchmark_killed_half_way_goes_on_with_the_included_editor(tmp_path):
    """Of its first four clips: what was edited stays, the pages show scores, and another run makes nothing."""
    edits, result = tmp_path / "full/edits", tmp_path / "result.json"
    command = [sys.executable, "-c", FOUR, "--folder", str(tmp_path), "--settings", benchmark.FULL, "--out", str(result)]
    first = subprocess.Popen(command)
    try:
        until(lambda: (edits.exists() and len(times(edits)) >= 2) or first.poll() is not None, seconds=400)
    finally:
        first.kill()
    assert first.wait() == -signal.SIGKILL
    before = times(edits)
    assert 2 <= len(before) < 4 and not result.exists()
    subprocess.run(command, check=True, timeout=500)
    after = times(edits)
    assert len(after) == 4 and {name: after[name] for name in before} == before
    stored = json.loads(result.read_text(encoding="utf-8"))["settings"][benchmark.FULL]["means"]
    assert stored["psnr_reference"]["count"] == 4 and stored["psnr_reference"]["mean"] > 15
    assert "psnr_reference" in (tmp_path / "full/report/items/swap-0.html").read_text(encoding="utf-8")
    scores = times(tmp_path / "full/scores")
    subprocess.run(command, check=True, timeout=500)
    assert times(edits) == after and times(tmp_path / "full/scores") == scores


def times(folder: Path) -> dict[str, int]:
    """Without what a kill breaks off, whose names begin with a dot."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if not path.name.startswith(".")}


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
