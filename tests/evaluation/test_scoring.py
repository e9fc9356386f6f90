"""Scores are stored as they come, go on after a kill, and are never made up."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
from evaluated import noisy, right, save, scene, write_rows
from liveditor_isa.batch import job
from liveditor_isa.command import evaluate as command
from liveditor_isa.command import main
from liveditor_isa.evaluation.frames import Inputs
from liveditor_isa.evaluation.items import read_items
from liveditor_isa.evaluation.metrics.metric import Metric, NothingToMeasure
from liveditor_isa.evaluation.records import Run, Settings, edit_of
from liveditor_isa.evaluation.results import collect
from liveditor_isa.evaluation.scoring import planned, score
from waiting import until


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("clips")
    rows = []
    for index in range(3):
        video, mask = scene(index)
        names = {"source": video, "reference": right(video, mask), "mask": mask, "edit": noisy(right(video, mask))}
        rows.append({"id": f"clip{index}", "instruction": "Make it blue", "task": f"task{index % 2}"})
        for role, frames in names.items():
            rows[-1][role] = save(tmp_path / f"{role}{index}", frames).name
    return write_rows(tmp_path / "clips.jsonl", *rows)


@pytest.fixture
def clips(made, tmp_path):
    """Three items with edits, references and masks; a test's own, for tests change them."""
    shutil.copytree(made.parent, tmp_path, dirs_exist_ok=True)
    rows = [json.loads(line) for line in made.read_text(encoding="utf-8").splitlines()]
    return write_rows(tmp_path / made.name, *rows)


def begun(clips, tmp_path, edits=None) -> tuple[Run, object]:
    run, items = Run(tmp_path / "run"), read_items(clips)
    run.begin(Settings(str(clips), edits, "run", "corrected", "crop"), items)
    return run, items


def counting(name: str, calls: list, value=1.0, **options) -> Metric:
    def compute(inputs: Inputs):
        calls.append((name, inputs.item.id))
        if isinstance(value, Exception):
            raise value
        return {name: value}

    return Metric(name, compute, "A test's.", **options)


def work(run, items, *metrics, **options):
    return planned(run, items, metrics, lambda item: edit_of(item, None), **options)


def test_a_second_run_computes_nothing_and_a_new_metric_only_itself(clips, tmp_path):
    run, items = begun(clips, tmp_path)
    calls = []
    one, two = counting("one", calls), counting("two", calls)
    assert score(run, work(run, items, one)).computed == 3
    assert score(run, work(run, items, one)).computed == 0
    assert score(run, work(run, items, one, two)).computed == 3
    assert calls == [("one", f"clip{n}") for n in range(3)] + [("two", f"clip{n}") for n in range(3)]
    newer = counting("one", calls, version="2")
    assert score(run, work(run, items, newer, two)).computed == 3


def test_the_scores_of_an_item_are_read_once(clips, tmp_path, monkeypatch):
    """Before it is scored; after that they are known."""
    run, items = begun(clips, tmp_path)
    read, scores = [], Run.scores
    works = work(run, items, counting("one", []), counting("two", []))
    monkeypatch.setattr(Run, "scores", lambda run, item, *files: read.append(item.id) or scores(run, item, *files))
    assert score(run, works).computed == 6 and read == ["clip0", "clip1", "clip2"]


def test_what_fails_is_missing_with_its_reason_and_tried_again_on_request(clips, tmp_path):
    run, items = begun(clips, tmp_path)
    calls = []
    bad = counting("bad", calls, NothingToMeasure("The mask is empty."))
    bug = counting("bug", calls, AttributeError("no such part"))
    nan = counting("nan", calls, float("nan"))
    summary = score(run, work(run, items, bad, bug, nan, counting("good", calls, 2.0)))
    assert (summary.computed, summary.missing) == (12, 9)
    results = collect(run)
    assert results.of("good") == {f"clip{n}": 2.0 for n in range(3)} and results.columns == ["good"]
    assert results.scored[0].missing == {
        "bad": "The mask is empty.", "bug": "AttributeError: no such part", "nan": "nan is not finite.",
    }  # fmt: skip
    assert not any(left.metrics for left in work(run, items, bad, nan))
    assert all(left.metrics == (bad, nan) for left in work(run, items, bad, nan, retry_missing=True))


def test_what_an_item_lacks_is_not_asked_of_it(clips, tmp_path):
    path = write_rows(
        tmp_path / "bare.jsonl", {"id": "bare", "source": str(tmp_path / "source0"), "edit": str(tmp_path / "edit0")}
    )
    run, items = begun(path, tmp_path)
    metric = counting("masked", [], needs=("mask",))
    assert work(run, items, metric)[0].metrics == ()


def test_another_edit_is_scored_anew_and_old_scores_are_not_shown(clips, tmp_path):
    run, items = begun(clips, tmp_path)
    metric = counting("one", [])
    score(run, work(run, items, metric))
    save(tmp_path / "edit1", noisy(scene(1)[0], 60))
    assert collect(run).of("one").keys() == {"clip0", "clip2"}
    assert [len(left.metrics) for left in work(run, items, metric)] == [0, 1, 0]


@pytest.mark.parametrize(
    "change", [{"instruction": "Another"}, {"target_prompt": "b"}, {"facts": {"text": "c"}}, {"pictures": ["p.png"]}]
)
def test_other_texts_are_scored_anew(clips, tmp_path, change):
    """An instruction was put right, and its judge's scores stayed. Scores of older editions, without a trace of the texts, count."""
    run, items = begun(clips, tmp_path)
    metric = counting("one", [])
    score(run, work(run, items, metric))
    rows = [json.loads(line) for line in clips.read_text(encoding="utf-8").splitlines()]
    changed = read_items(write_rows(clips, {**rows[0], **change}, *rows[1:]))
    assert [len(left.metrics) for left in work(run, changed, metric)] == [1, 0, 0]
    assert collect(run).of("one").keys() == {"clip1", "clip2"}
    stored = run.folder / "scores/clip0.json"
    old = json.loads(stored.read_text(encoding="utf-8"))
    del old["inputs"]["asked"]
    stored.write_text(json.dumps(old), encoding="utf-8")
    assert [len(left.metrics) for left in work(run, changed, metric)] == [0, 0, 0]


def test_an_item_without_edit_is_told_and_others_are_scored(clips, tmp_path):
    save(tmp_path / "results/clip1", scene()[0])
    run, items = begun(clips, tmp_path, str(tmp_path / "results"))
    metric = counting("one", [])
    summary = score(run, planned(run, items, [metric], lambda item: edit_of(item, tmp_path / "results")))
    assert summary.no_edit == ("clip0", "clip2") and collect(run).of("one") == {"clip1": 1.0}


def test_a_run_is_of_one_set_and_one_way(clips, tmp_path):
    run, items = begun(clips, tmp_path)
    score(run, work(run, items, counting("one", [])))
    with pytest.raises(ValueError, match="name another folder"):
        run.begin(Settings(str(clips), None, "run", "corrected", "stretch"), items)
    other = read_items(write_rows(tmp_path / "other.jsonl", {"source": "x"}))
    with pytest.raises(ValueError, match="sha256"):
        run.begin(Settings(str(clips), None, "run", "corrected", "crop"), other)


SLOW = """
import sys, time
from liveditor_isa.evaluation.items import read_items
from liveditor_isa.evaluation.metrics.metric import Metric
from liveditor_isa.evaluation.records import Run, Settings, edit_of
from liveditor_isa.evaluation.scoring import planned, score
def compute(inputs):
    time.sleep(0.3)
    return {"slow": 1.0}
run, items = Run(sys.argv[2]), read_items(sys.argv[1])
run.begin(Settings(sys.argv[1], None, "run", "corrected", "crop"), items)
metrics = [Metric(f"slow{n}", lambda inputs, n=n: {f"slow{n}": compute(inputs)["slow"]}, "") for n in range(20)]
score(run, planned(run, items, metrics, lambda item: edit_of(item, None)))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_and_loses_no_score(clips, tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(clips), str(folder)])
    until(lambda: any((folder / "scores").glob("*.json")), "no score was stored", 120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    items, run = read_items(clips), Run(folder)
    kept = collect(run).scored[0].values
    assert 1 <= len(kept) < 20
    metrics = [Metric(f"slow{n}", lambda inputs, n=n: {f"slow{n}": 1.0}, "") for n in range(20)]
    left = work(run, items, *metrics)
    assert [len(each.metrics) for each in left] == [20 - len(kept), 20, 20]
    score(run, left)
    assert all(len(one.values) == 20 for one in collect(run).scored)


# The command.


def evaluate(*arguments) -> int:
    return main(["evaluate", *map(str, arguments)])


def test_the_command_scores_and_reports(clips, tmp_path, capsys):
    metrics = ["psnr_reference", "psnr_source_outside", "temporal_flickering"]
    assert evaluate("score", clips, "--run", tmp_path / "r", "--metrics", *metrics, "--dry-run") == 0
    assert "9 scores to compute" in capsys.readouterr().out and not (tmp_path / "r").exists()
    assert evaluate("score", clips, "--run", tmp_path / "r", "--metrics", *metrics) == 0
    assert "9 scores computed, 0 were there" in capsys.readouterr().out
    assert evaluate("score", clips, "--run", tmp_path / "r", "--metrics", *metrics) == 0
    assert "0 scores computed, 9 were there" in capsys.readouterr().out
    assert evaluate("report", tmp_path / "r") == 0
    text = (tmp_path / "r/report/report.md").read_text(encoding="utf-8")
    assert "3 items" in text and "psnr_reference" in text and "task1 (1)" in text
    assert len(list((tmp_path / "r/report/videos").glob("*.mp4"))) == 3
    assert evaluate("report", tmp_path / "r", "--against", tmp_path / "r", "--no-videos") == 0
    assert "no clear difference" in (tmp_path / "r/report/report.md").read_text(encoding="utf-8")


def test_what_cannot_be_done_is_one_sentence(clips, tmp_path, capsys):
    for arguments, words in (
        (("score", clips, "--run", tmp_path / "r", "--metrics", "beauty"), "no metric 'beauty'"),
        (("score", clips, "--run", tmp_path / "r", "--edits", tmp_path / "none"), "There is no folder"),
        (("report", tmp_path / "none"), "holds no evaluation"),
        (("prepare", "own", tmp_path / "none.jsonl", "--out", tmp_path / "o.jsonl"), "There is no"),
    ):
        assert evaluate(*arguments) == 2
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1 and words in error[0]


def test_prepare_names_what_is_missing(clips, tmp_path, capsys):
    assert evaluate("prepare", "own", clips, "--out", tmp_path / "out.jsonl") == 0
    assert read_items(tmp_path / "out.jsonl").items == read_items(clips).items
    bad = write_rows(tmp_path / "bad.jsonl", {"source": "gone.mp4", "instruction": "x"})
    assert evaluate("prepare", "own", bad, "--out", tmp_path / "out2.jsonl") == 1
    assert "there is no source" in capsys.readouterr().out


def test_generate_makes_a_batch_of_the_items(clips, tmp_path, monkeypatch, capsys):
    """The job itself is tested in tests/batch: here, what it is given, and that its edits are those that are scored."""
    asked = {}

    def run(rows, choice, out, address, workers, editor):
        asked.update(rows=rows, choice=choice, address=address, workers=workers)
        for row in rows:
            save(out / row.id, scene()[0])
        return job.Summary(3, 3, 0, 0, 3, 1.0)

    monkeypatch.setattr(job, "run", run)
    options = ["--run", tmp_path / "r", "--frames", "9", "--size", "64x48", "--seed", "7", "--no-isa", "--workers", "2"]
    assert evaluate("generate", clips, *options) == 0
    assert [row.id for row in asked["rows"]] == ["clip0", "clip1", "clip2"] and asked["workers"] == 2
    edit = asked["rows"][1].edit
    assert (edit.video, edit.prompt, edit.frames, edit.size, edit.seed) == (
        str(tmp_path / "source1"), "Make it blue", 9, (64, 48), 7,
    ) and asked["choice"].isa is None  # fmt: skip
    assert evaluate("score", clips, "--run", tmp_path / "r", "--metrics", "temporal_flickering") == 0
    assert collect(Run(tmp_path / "r")).of("temporal_flickering") != {}
    (tmp_path / "source2").rename(tmp_path / "gone")
    capsys.readouterr()
    assert evaluate("generate", clips, *options) == 2 and "there is no source" in capsys.readouterr().err


def test_generate_edits_folders_of_frames_at_the_rate_that_the_item_says(clips, tmp_path, monkeypatch, capsys):
    """By the real engine, in this process; they were given up as no files. A folder that changes is noticed."""
    asked = []

    def run(rows, *arguments, **options):
        asked.extend(rows)
        return in_a_job(rows, *arguments, here=True, **options)

    in_a_job = job.run
    monkeypatch.setattr(job, "run", run)
    monkeypatch.setattr(command, "_generate", partial(command._generate, editor="fake_editor"))
    rows = [json.loads(line) for line in clips.read_text(encoding="utf-8").splitlines()]
    clips = write_rows(clips, {**rows[0], "facts": {"fps": 24}}, *rows[1:])
    options = ["--run", tmp_path / "r", "--device", "cpu"]
    assert evaluate("generate", clips, *options) == 0
    assert [row.edit.fps for row in asked] == [24, 0, 0]
    assert evaluate("score", clips, "--run", tmp_path / "r", "--metrics", "psnr_source") == 0
    assert all(value > 30 for value in collect(Run(tmp_path / "r")).of("psnr_source").values())
    capsys.readouterr()
    assert evaluate("generate", clips, *options) == 0 and "0 made now" in capsys.readouterr().out
    shutil.copy(tmp_path / "source1/00000.png", tmp_path / "source1/00003.png")
    assert evaluate("generate", clips, *options) == 2 and "clip1 (line 2): edited already" in capsys.readouterr().err


@pytest.mark.parametrize(("fps", "wanted"), [(24, 24), (None, 16)])
def test_the_rate_of_folders_is_the_items_or_the_usual_one(clips, tmp_path, fps, wanted):
    item = replace(read_items(clips).items[0], facts={"fps": fps} if fps else {})
    assert Inputs(item, item.edit).fps == wanted


def test_ctrl_c_says_that_the_command_goes_on(clips, tmp_path, monkeypatch, capsys):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "score", stopped)
    assert evaluate("score", clips, "--run", tmp_path / "r", "--metrics", "psnr_source") == 130
    assert "goes on from there" in capsys.readouterr().err
