"""A whole data run, with a planner and an editor that take milliseconds: every fault is rejected for its reason, nothing is made twice,
bounds move without any work, and what breaks is one row's."""

import json
import os
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

pytest.importorskip("cv2", reason="the data extra is not installed")
pytest.importorskip("scenedetect", reason="the data extra is not installed")

import fake_pairs  # noqa: E402
from evaluated import small_dino  # noqa: E402
from fake_judge import fake_judge, scores  # noqa: E402
from liveditor_isa.batch.results import JobError  # noqa: E402
from liveditor_isa.curation import duplicates, funnel  # noqa: E402
from liveditor_isa.curation.flow import ALL, CHEAP, Flow, Where  # noqa: E402
from liveditor_isa.curation.gates import Verdict, moved, of_stage  # noqa: E402
from liveditor_isa.curation.outcomes import DONE, Outcome, Work  # noqa: E402
from liveditor_isa.curation.planners.vlm import understood  # noqa: E402
from liveditor_isa.curation.records import read_pairs  # noqa: E402
from liveditor_isa.curation.report import write_report  # noqa: E402
from liveditor_isa.curation.settings import DINO, Settings  # noqa: E402
from liveditor_isa.curation.sources import Source  # noqa: E402
from liveditor_isa.evaluation.judge import local  # noqa: E402
from liveditor_isa.evaluation.judge.client import Reply  # noqa: E402
from liveditor_isa.evaluation.metrics import dino  # noqa: E402
from liveditor_isa.pipelines.request import ModelChoice  # noqa: E402
from liveditor_isa.video.mp4 import write_mp4  # noqa: E402
from small_clip import write_clip  # noqa: E402
from small_detectors import write_detector  # noqa: E402
from small_vlm import write_vlm  # noqa: E402

SETTINGS = Settings(
    frames=5, fps=8, width=128, height=96, proposals=9, planner="fake_pairs", frame_editor="fake_pairs", video_editor="fake_pairs",
    video_candidates=2,
)  # fmt: skip
GATES = moved({"length": {"least": 0.5}, "size": {"least": 64}, "motion": None, "sharpness": None})
HERE = Where(here=ALL, progress=False)


@pytest.fixture(autouse=True)
def fakes(monkeypatch, tmp_path):
    monkeypatch.setenv(fake_pairs.LOG, str(tmp_path / "edits.log"))
    monkeypatch.setenv(fake_pairs.PROPOSALS, "style sepia|box blue")


def edits(tmp_path) -> list[str]:
    log = tmp_path / "edits.log"
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def video(path: Path, *seeds: int, frames: int = 6) -> Path:
    """A shot for each seed, at 8 frames a second: a texture that moves."""
    shots = []
    for seed in seeds:
        coarse = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(seed))
        picture = torch.nn.functional.interpolate(coarse, (96, 160), mode="bicubic")[0].clamp(0, 1).movedim(0, -1)
        shots.append(torch.stack([picture.roll(index, 1)[:, 16:144] for index in range(frames)]) * (1 if seed % 2 else 0.4))
    return write_mp4(path, [torch.cat(shots)], Fraction(8), crf=10)


@pytest.fixture
def flow(tmp_path):
    """Of a video with two shots."""
    source = Source("raw", str(video(tmp_path / "raw.mp4", 1, 2)), "drawn", "CC0")
    return lambda gates=GATES, sources=(source,), settings=SETTINGS: Flow(tmp_path / "run", sources, settings, gates)


def reasons(run: Flow, stage: str) -> dict[str, str]:
    return {one.id: one.reason for one in run.outcomes(stage)}


def test_shots_become_clips_and_clips_pairs(flow, tmp_path):
    run = flow()
    run.run(ModelChoice(), HERE, until="videos")
    assert [one.id for one in run.outcomes("clips")] == ["raw-001", "raw-002"]
    spans = [one.work.facts["span"] for one in run.outcomes("clips")]
    assert spans == [[0, 5 / 8], [6 / 8, 11 / 8]]  # one clip within each shot of 6 frames
    found = run.outcomes("videos")
    assert [one.id for one in found] == ["raw-001-style-1", "raw-001-add-2", "raw-002-style-1", "raw-002-add-2"]
    assert all(one.is_kept for one in found), [(one.id, one.reason, one.scores) for one in found]
    assert all(Path(one.file).is_file() for one in found)
    assert len(found[0].made["candidates"]) == 2
    assert found[0].work.facts["source"] == {"id": "raw", "origin": "drawn", "licence": "CC0", "url": "", "caption": ""}
    assert len(edits(tmp_path)) == 4 * (1 + 2)  # a frame and two candidates each


def test_a_second_run_does_nothing(flow, tmp_path):
    flow().run(ModelChoice(), HERE, until="videos")
    before = edits(tmp_path)
    done = flow().run(ModelChoice(), HERE, until="videos")
    assert edits(tmp_path) == before
    assert all(summary.edited == 0 for summary in done.values())


def test_a_clip_that_changes_is_made_anew_with_all_that_follows(flow, tmp_path):
    """The frames of the new clip are those that are read, within one process too."""
    run = flow()
    run.run(ModelChoice(), HERE, until="videos")
    before = [one.scores["present"] for one in run.outcomes("videos")]
    raw = Path(run.sources[0].video)
    raw.unlink()
    video(raw, 3, 4)
    again = flow()
    done = again.run(ModelChoice(), HERE, until="videos")
    assert {stage: done[stage].edited for stage in ("shots", "clips", "frames", "videos")} == {
        "shots": 1,
        "clips": 2,
        "frames": 4,
        "videos": 4,
    }
    assert [one.status for one in again.outcomes("videos")] == ["done"] * 4
    assert [one.scores["present"] for one in again.outcomes("videos")] != before


def test_what_is_known_of_a_source_may_change_and_no_edit_is_made_again(flow, tmp_path):
    run = flow()
    run.run(ModelChoice(), HERE, until="videos")
    before, source = edits(tmp_path), run.sources[0]
    told = replace(
        source, licence="CC-BY-4.0", url="https://example.org/raw", origin="archive", caption="A texture that moves."
    )
    again = flow(sources=[told])
    done = again.run(ModelChoice(), HERE, until="videos")
    assert {stage: summary.edited for stage, summary in done.items() if summary.edited} == {
        "plans": 2
    }  # which the caption may change
    assert edits(tmp_path) == before
    assert again.outcomes("videos")[0].work.facts["source"] == told.facts
    withdrawn = flow(sources=[replace(told, licence="")])
    withdrawn.run(ModelChoice(), HERE, until="videos")
    assert reasons(withdrawn, "shots") == {"raw": "no licence stated"} and withdrawn.outcomes("videos") == []


def test_a_target_frame_that_is_made_anew_has_its_video_made_anew(flow, tmp_path):
    run = flow()
    run.run(ModelChoice(), HERE, until="videos")
    frame = run.outcomes("frames")[0]
    record = next(run.stage_folder("frames").rglob(f"{frame.id}.json"))
    record.write_text(
        record.read_text(encoding="utf-8").replace(f'"bytes": {frame.edit_bytes}', '"bytes": 1'), encoding="utf-8"
    )
    done = flow().run(ModelChoice(), HERE, until="videos")
    assert {stage: summary.edited for stage, summary in done.items() if summary.edited} == {"videos": 1}


def test_files_of_earlier_stages_may_be_removed(flow, tmp_path):
    run = flow()
    run.run(ModelChoice(), HERE, until="videos")
    before = edits(tmp_path)
    for stage in ("clips", "frames"):
        for file in run.stage_folder(stage).rglob("*.mp4"):
            file.unlink()
    again = flow()
    assert all(summary.edited == 0 for summary in again.run(ModelChoice(), HERE, until="videos").values())
    assert edits(tmp_path) == before and all(one.is_kept for one in again.outcomes("videos"))


def test_a_moved_folder_with_its_raw_videos_goes_on_where_it_was(flow, tmp_path):
    run = flow()
    run.run(ModelChoice(), HERE, until="videos")
    before = edits(tmp_path)
    os.rename(run.folder, tmp_path / "moved")
    raw = run.sources[0]
    (tmp_path / "elsewhere").mkdir()
    os.rename(raw.video, tmp_path / "elsewhere/raw.mp4")
    again = Flow(tmp_path / "moved", [replace(raw, video=str(tmp_path / "elsewhere/raw.mp4"))], SETTINGS, GATES)
    again.run(ModelChoice(), HERE, until="videos")
    assert edits(tmp_path) == before and all(one.is_kept for one in again.outcomes("videos"))


@pytest.mark.parametrize("fault, stage, reason", [
    ("box blue nothing", "frames", "edit missing"),
    ("box blue elsewhere", "frames", "edit missing"),
    ("style sepia nothing", "frames", "edit missing"),
    ("style sepia flicker", "videos", "flicker"),
    ("box blue cut", "videos", "background changed"),
    ("style sepia cut", "videos", "wrong style"),
])  # fmt: skip
def test_a_planted_fault_is_rejected_for_its_reason_and_keeps_its_scores(flow, monkeypatch, fault, stage, reason):
    monkeypatch.setenv(fake_pairs.PROPOSALS, fault)
    run = flow()
    run.run(ModelChoice(), HERE, until="videos")
    found = run.outcomes(stage)
    assert {one.reason for one in found} == {reason}, [one.scores for one in found]
    assert all(one.scores["present"] is not None for one in found)
    pair = next(funnel.pairs(run))
    assert (pair.status, pair.reason) == ("rejected", reason) and pair.scores[stage]


def test_bounds_move_without_an_edit_and_only_what_newly_passes_is_made(flow, monkeypatch, tmp_path):
    monkeypatch.setenv(fake_pairs.PROPOSALS, "style sepia flicker|box blue nothing")
    flow().run(ModelChoice(), HERE, until="videos")
    before = edits(tmp_path)
    lenient = flow(moved({"flicker": None}, GATES))
    assert [one.reason for one in lenient.outcomes("videos")] == ["", ""]
    assert edits(tmp_path) == before
    # The frame gate let nothing through to the next stage; without it two videos are to be made.
    open_gates = flow(
        moved({"frame_present": None, "frame_style": None, "frame_colour": None, "frame_shape": None, "flicker": None}, GATES)
    )
    assert Counter(one.status for one in open_gates.outcomes("videos")) == {"done": 2, "waiting": 2}
    open_gates.run(ModelChoice(), HERE, until="videos")
    assert len(edits(tmp_path)) == len(before) + 2 * 2


def test_a_clip_without_licence_or_too_short_goes_no_further(tmp_path):
    sources = [
        Source("free", str(video(tmp_path / "a.mp4", 1)), licence=""),
        Source("short", str(video(tmp_path / "b.mp4", 3, frames=3)), licence="CC0"),
    ]
    run = Flow(tmp_path / "run", sources, SETTINGS, GATES)
    run.run(ModelChoice(), HERE)
    assert reasons(run, "shots") == {"free": "no licence stated", "short": "too short"}
    assert run.outcomes("clips") == []
    first = funnel.counts(run)[0]
    assert (first.entered, first.kept, first.rejected) == (2, 0, 2)


def test_a_corrupt_video_is_in_quarantine_and_stops_no_other(flow, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video" * 100)
    good = Source("raw", str(video(tmp_path / "raw.mp4", 1)), licence="CC0")
    run = flow(sources=(Source("broken", str(broken), licence="CC0"), good))
    run.run(ModelChoice(), HERE, until="videos")
    first = {one.id: one for one in run.outcomes("shots")}
    assert first["broken"].status == "quarantined" and first["broken"].why.endswith(".") and first["raw"].is_kept
    assert len(run.outcomes("videos")) == 2


def test_a_full_disk_stops_the_run_and_costs_no_pair(flow, monkeypatch, tmp_path):
    monkeypatch.setenv(fake_pairs.PROPOSALS, f"box blue|style sepia full-once {tmp_path / 'was-full'}")
    run = flow()
    with pytest.raises(JobError, match="No space left on device"):
        run.run(ModelChoice(), HERE, until="videos")
    assert not any(run.stage_folder("frames").glob("quarantine/*.json"))
    before = {path.name for path in run.stage_folder("frames").glob("records/*.json")}
    assert before == {"raw-001-add-1.json"}
    again = flow()
    done = again.run(ModelChoice(), HERE, until="videos")
    assert (done["frames"].edited, done["frames"].done, done["videos"].done) == (3, 4, 4)
    assert all(one.is_kept for one in again.outcomes("videos"))


@pytest.mark.long
def test_a_killed_worker_costs_no_pair_and_makes_none_twice(flow, monkeypatch, tmp_path):
    """On Ray, which gives the pair to a new worker."""
    monkeypatch.setenv(fake_pairs.PROPOSALS, f"box blue|style sepia die-once {tmp_path / 'was-killed'}")
    support = str(Path(fake_pairs.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([support, *filter(None, [os.environ.get("PYTHONPATH")])]))
    run = flow()
    done = run.run(ModelChoice(device="cpu"), Where(CHEAP, workers=1, progress=False), until="frames")
    assert (done["frames"].done, done["frames"].quarantined) == (4, 0)
    began = Counter(line.rsplit(" ", 1)[0] for line in edits(tmp_path))
    assert sorted(began.values()) == [1, 1, 1, 2]  # the one whose worker was killed began twice
    records = run.stage_folder("frames").glob("records/*.json")
    assert sorted(json.loads(path.read_text(encoding="utf-8"))["attempt"] for path in records) == [1, 1, 1, 2]


def test_an_editors_refusal_is_its_own_pairs_fault(flow, monkeypatch):
    monkeypatch.setenv(fake_pairs.PROPOSALS, "style sepia refuse|box blue")
    run = flow(sources=(Source("raw", run_video(flow), licence="CC0"),))
    run.run(ModelChoice(), HERE, until="videos")
    found = {one.id: one for one in run.outcomes("frames")}
    assert found["raw-001-style-1"].why == "The fake refuses this edit." and found["raw-001-add-2"].is_kept
    rejected = [pair for pair in funnel.pairs(run) if pair.reason]
    assert {pair.reason for pair in rejected if "style" in pair.id} == {"The fake refuses this edit."}


def run_video(flow) -> str:
    return flow().sources[0].video


def test_near_duplicates_push_each_other_out_in_order(tmp_path, monkeypatch):
    """Features are given: what is tested is who is kept."""
    vectors = iter([[1.0, 0.0], [0.0, 1.0], [0.999, 0.045], [0.7, 0.714]])
    monkeypatch.setattr(
        "liveditor_isa.curation.measure.features", lambda frames, network: next(vectors) if len(frames) > 1 else None
    )
    sources = [
        Source(name, str(video(tmp_path / f"{name}.mp4", seed)), licence="CC0")
        for seed, name in ((1, "a"), (3, "b"), (5, "c"), (7, "d"))
    ]
    run = Flow(tmp_path / "run", sources, SETTINGS, GATES)
    run.run(ModelChoice(), HERE, until="clips")
    assert reasons(run, "clips") == {"a-001": "", "b-001": "", "c-001": "near duplicate", "d-001": ""}
    assert run.outcomes("clips")[2].scores["duplicate"] == pytest.approx(0.999)
    strict = Flow(run.folder, sources, SETTINGS, moved({"duplicate": {"most": 0.7}}, GATES))
    assert reasons(strict, "clips")["d-001"] == "near duplicate"


def test_near_duplicates_are_found_among_more_clips_than_fit_at_first_and_features_are_not_kept():
    """One after the other, so that the features of all are never in memory as lists."""
    vectors = torch.eye(200)
    taken = []

    def clips():
        for number in [*range(200), 5, 130]:
            taken.append(number)
            yield Outcome(
                str(len(taken)), Work(""), DONE, Verdict(None), made={"scores": {}, "features": vectors[number].tolist()}
            )

    found = duplicates.scored(clips(), of_stage(GATES, "clips"))
    first = next(found)
    assert len(taken) == 1 and "features" not in first.made
    rest = [*found]
    assert [one.scores["duplicate"] for one in rest] == [0.0] * 199 + [1.0, 1.0]
    assert [one.id for one in rest if one.reason == "near duplicate"] == ["201", "202"]


def test_near_duplicates_by_dinov2_have_a_gate_of_their_own(tmp_path, monkeypatch):
    """With random weights, of a video and its copy."""
    monkeypatch.setattr(dino, "ready", lambda: None)
    monkeypatch.setattr(dino, "_model", small_dino)
    sources = [Source(name, str(video(tmp_path / f"{name}.mp4", 1)), licence="CC0") for name in ("a", "b")]
    run = Flow(tmp_path / "run", sources, replace(SETTINGS, duplicate_features=DINO), GATES)
    run.run(ModelChoice(), HERE, until="clips")
    assert [one.scores["duplicate_dino"] for one in run.outcomes("clips")] == [0, pytest.approx(1, abs=1e-3)]
    assert run.outcomes("clips")[1].verdict.gate.name == "duplicate_dino" and reasons(run, "clips")["a-001"] == ""


def test_features_of_unlike_networks_are_not_compared():
    """As in a run that was begun before there were two."""
    made = [{"features": [1.0, 0.0, 0.0]}, {"features": [1.0, 0.0], "features_by": DINO}, {"features": [1.0, 0.0, 0.0]}]
    clips = [Outcome(str(number), Work(""), DONE, Verdict(None), made=one) for number, one in enumerate(made)]
    scores = [one.scores for one in duplicates.scored(clips, of_stage(GATES, "clips"))]
    assert scores == [{"duplicate": 0}, {"duplicate_dino": 0}, {"duplicate": 1}]


def test_without_dinov2s_weights_no_video_is_read(flow, monkeypatch, tmp_path):
    monkeypatch.setenv("LIVEDITOR_MODELS", str(tmp_path))
    run = flow(settings=replace(SETTINGS, duplicate_features=DINO))
    with pytest.raises(JobError, match="is not here: liveditor evaluate models dinov2_s fetches it"):
        run.run(ModelChoice(), HERE)
    assert [one.status for one in run.outcomes("shots")] == ["waiting"]


def test_other_settings_in_the_same_folder_are_refused_in_one_sentence(flow):
    flow().run(ModelChoice(), HERE, until="clips")
    other = flow(settings=Settings(**{**vars(SETTINGS), "width": 160}))
    with pytest.raises(JobError, match=r"width"):
        other.run(ModelChoice(), HERE, until="clips")


def test_settings_of_a_later_stage_leave_the_earlier_ones_alone(flow, tmp_path):
    flow().run(ModelChoice(), HERE, until="frames")
    before = edits(tmp_path)
    flow(settings=Settings(**{**vars(SETTINGS), "video_candidates": 1})).run(ModelChoice(), HERE, until="videos")
    assert len(edits(tmp_path)) == len(before) + 4


def test_the_funnel_adds_up_and_the_report_shows_it(flow, monkeypatch):
    monkeypatch.setenv(fake_pairs.PROPOSALS, "style sepia|style sepia flicker|box blue nothing")
    run = flow()
    run.run(ModelChoice(), HERE, until="videos")
    for count in funnel.counts(run):
        assert count.entered == count.kept + count.rejected + count.quarantined + count.waiting
    by_stage = {count.stage: count for count in funnel.counts(run)}
    assert by_stage["frames"].reasons == {"edit missing": 2} and by_stage["videos"].reasons == {"flicker": 2}
    assert set(by_stage["clips"].unmeasured.items()) <= {("duplicate", 2), ("duplicate_dino", 2), ("safety", 2)}
    page = write_report(run).read_text(encoding="utf-8")
    assert "Rejected: flicker (2)" in page and "Rejected: edit missing (2)" in page
    shown = list((run.folder / "samples").glob("*.mp4"))
    assert len(shown) == 4 and all(f"samples/{path.name}" in page for path in shown)  # of waiting pairs nothing is shown
    stored = {pair.id: pair for pair in read_pairs(run.folder / "pairs.jsonl")}
    assert len(stored) == 4 and Counter(pair.reason for pair in stored.values()) == {"edit missing": 2, "flicker": 2}
    numbers = json.loads((run.folder / "report.json").read_text(encoding="utf-8"))
    assert (numbers["tasks"]["style"]["tried"], numbers["tasks"]["style"]["accepted"]) == (2, 0)
    assert sum(task["share"] for task in numbers["tasks"].values()) == pytest.approx(1)


VLM_PLAN = json.dumps(
    {"suitable": True, "forward": ["style sepia", "style sepia "], "backward": ["undo the sepia"], "target": "A sepia street"}
)


def judged(server, **more) -> Settings:
    return Settings(**{**vars(SETTINGS), "vlm_url": server.url, "vlm_model": "fake", **more})


def test_a_vlm_judges_frames_and_videos_after_the_cheap_gates(flow, monkeypatch):
    """Of two clips the second one's frame is bad, and the first one's video."""
    monkeypatch.setenv(fake_pairs.PROPOSALS, "style sepia|box blue nothing")
    good, fair = (scores(following=number, preservation=number, quality=number) for number in (9, 8))
    with fake_judge(good, fair, fair) as server:
        run = flow(settings=judged(server))
        run.run(ModelChoice(), HERE, until="video_verdicts")
        assert len(server.asked) == 3  # the frames without an edit were rejected before
    assert [one.reason for one in run.outcomes("frame_verdicts")] == ["", "instruction not followed"]
    assert [one.reason for one in run.outcomes("video_verdicts")] == ["low quality"]  # SAMA: quality 9, the others 8
    pair = next(pair for pair in funnel.pairs(run) if pair.gate == "judged_quality")
    assert pair.scores["video_verdicts"]["judge_following"] == 8 and Path(pair.context).is_file()
    write_report(run)
    report = (run.folder / "report.md").read_text(encoding="utf-8")
    assert "| verdicts on frames | 2 | 2 | 2 | 24 | 12 |" in report and "| verdicts on videos | 1 | 1 | 1 | 12 | 12 |" in report


def test_a_vlm_that_answers_nonsense_is_asked_again_and_then_given_up(flow, monkeypatch):
    monkeypatch.setenv(fake_pairs.PROPOSALS, "style sepia")
    monkeypatch.setattr("liveditor_isa.evaluation.judge.client.WAITS", (0,))
    good = scores(following=10, preservation=10, quality=10)
    with fake_judge("I like it.", good, 500) as server:
        run = flow(settings=judged(server))
        run.run(ModelChoice(), HERE, until="frame_verdicts")
        assert len(server.asked) == 2 + 4  # four attempts for the second pair
    first, second = run.outcomes("frame_verdicts")
    assert first.is_kept and second.status == "quarantined" and "the server answers 500" in second.why


@pytest.mark.slow
def test_a_vlm_in_a_folder_plans_and_judges_in_the_place_of_a_server(flow, monkeypatch, tmp_path):
    folder = write_vlm(tmp_path / "vlm")
    settings = replace(SETTINGS, vlm_model=str(folder), planner="vlm", proposals=1, shares={"style": 1.0})
    model, processor = local._loaded(str(folder), "auto")
    answers = [VLM_PLAN, VLM_PLAN, scores(following=10, preservation=10, quality=10)]

    def generate(input_ids, **more):
        text = answers.pop(0) if len(answers) > 1 else answers[0]
        return torch.cat(
            [input_ids, processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]], dim=1
        )

    monkeypatch.setattr(model, "generate", generate)
    run = flow(settings=settings)
    run.run(ModelChoice(device="cpu"), HERE, until="frame_verdicts")
    assert [one.made["proposals"][0]["target"] for one in run.outcomes("plans")] == ["A sepia street"] * 2
    assert [one.scores["judge_quality"] for one in run.outcomes("frame_verdicts")] == [10, 10]
    # Its stages want a worker's GPU, where there is one; the others do not.
    wanted = {stage: run.choice(stage, ModelChoice(device="cuda")).device for stage in run.stages}
    assert wanted["plans"] == wanted["frame_verdicts"] == "cuda" and wanted["clips"] == "cpu"
    served = flow(settings=replace(settings, vlm_url="http://localhost:1/v1"))
    assert served.choice("plans", ModelChoice(device="cuda")).device == "cpu"


@pytest.mark.parametrize(
    ("url", "words"), [(None, "qwen is no folder of a model of transformers"), ("localhost:8", "no address")]
)
def test_a_vlm_that_is_neither_served_nor_a_folder_stops_the_run(flow, url, words):
    """It put every row into quarantine."""
    run = flow(settings=replace(SETTINGS, vlm_url=url, vlm_model="qwen", planner="vlm"))
    with pytest.raises(JobError, match=words):
        run.run(ModelChoice(), HERE, until="plans")
    assert {one.status for one in run.outcomes("plans")} == {"waiting"}


@pytest.mark.slow
def test_a_preference_model_scores_target_frames_by_what_they_should_show(flow, monkeypatch, tmp_path):
    monkeypatch.setenv(fake_pairs.PROPOSALS, "style sepia")
    settings = replace(
        SETTINGS, preference_model=str(write_clip(tmp_path / "likes")), detector_model=str(write_detector(tmp_path / "sees"))
    )
    run = flow(settings=settings)
    run.run(ModelChoice(), HERE, until="frames")
    assert all("objects_lost" in one.scores and "object_left" not in one.scores for one in run.outcomes("frames"))
    found = [one.scores["preference"] for one in run.outcomes("frames")]
    assert len(found) == 2 and found[0] != found[1] and all(one.is_kept for one in run.outcomes("frames"))
    between = moved({"frame_preferred": {"least": sum(found) / 2}}, GATES)
    moved_run = flow(gates=between, settings=settings)
    assert sorted(reasons(moved_run, "frames").values()) == ["", "low preference"]
    assert [(pair.gate, pair.prompts["target"]) for pair in funnel.pairs(moved_run)] == [("frame_preferred", "a clip in sepia")]


@pytest.mark.parametrize("name", ["preference_model", "grounding_model"])
def test_a_model_that_is_not_there_stops_the_run_before_a_frame_is_made(flow, tmp_path, name):
    run = flow(settings=replace(SETTINGS, **{name: "nobody/likes"}))
    with pytest.raises(JobError, match="nobody/likes at main is no folder"):
        run.run(ModelChoice(), HERE, until="frames")
    assert not edits(tmp_path)


def test_a_vlm_that_dies_stops_the_run_and_loses_no_row(flow, monkeypatch):
    monkeypatch.setenv(fake_pairs.PROPOSALS, "style sepia")
    monkeypatch.setattr("liveditor_isa.evaluation.judge.client.WAITS", (0,))
    good = scores(following=10, preservation=10, quality=10)
    with fake_judge(good, "gone") as server:
        settings = judged(server)
        with pytest.raises(JobError, match="cannot be reached"):
            flow(settings=settings).run(ModelChoice(), HERE, until="frame_verdicts")
    assert [one.status for one in flow(settings=settings).outcomes("frame_verdicts")] == ["done", "waiting"]
    with fake_judge(good, port=server.server_port) as again:
        flow(settings=settings).run(ModelChoice(), HERE, until="frame_verdicts")
        assert len(again.asked) == 1
    assert all(one.is_kept for one in flow(settings=settings).outcomes("frame_verdicts"))


def test_a_vlm_that_refuses_some_clips_does_not_stop_the_others(flow, monkeypatch):
    """Three in a row stopped the run, which then met the same three first."""
    monkeypatch.setenv(fake_pairs.PROPOSALS, "style sepia|box red|box blue")
    good = scores(following=10, preservation=10, quality=10)
    with fake_judge(400, 400, 400, 400, good) as server:
        run = flow(settings=judged(server))
        run.run(ModelChoice(), HERE, until="frame_verdicts")
    assert [one.status for one in run.outcomes("frame_verdicts")] == ["quarantined"] * 4 + ["done"] * 2


@pytest.mark.parametrize("step", ["gone", 401])
def test_a_planner_whose_vlm_is_gone_or_refuses_all_stops_the_run(flow, monkeypatch, step):
    monkeypatch.setattr("liveditor_isa.evaluation.judge.client.WAITS", (0,))
    with fake_judge(VLM_PLAN, step) as server:
        run = flow(settings=judged(server, planner="vlm", proposals=1, shares={"style": 1.0}))
        with pytest.raises(JobError, match="cannot be reached|check the key"):
            run.run(ModelChoice(), HERE, until="plans")
    assert [one.status for one in run.outcomes("plans")] == ["done", "waiting"]


def test_a_vlm_plans_by_the_shares(flow):
    unsuitable = json.dumps({"suitable": False, "forward": [], "backward": []})
    with fake_judge("nothing", VLM_PLAN, unsuitable) as server:
        run = flow(settings=judged(server, planner="vlm", proposals=1, shares={"style": 1.0, "human": 0.0}))
        run.run(ModelChoice(), HERE, until="plans")
        assert "change the style of the whole video" in json.dumps(server.asked[0]) and len(server.asked) == 3
    first, second = run.outcomes("plans")
    assert first.made["proposals"][0]["forward"] == ["style sepia"] and first.made["proposals"][0]["task"] == "style"
    assert first.made["proposals"][0]["target"] == "A sepia street"
    assert second.reason == "no suitable task"
    # The refused answer and the one without a plan were paid for too.
    assert [(one.made["judge"]["questions"], one.made["judge"]["attempts"]) for one in (first, second)] == [(1, 2), (1, 1)]
    write_report(run)
    assert "| plans | 2 | 2 | 3 | 36 | 18 |" in (run.folder / "report.md").read_text(encoding="utf-8")


def test_plans_without_style_and_place_pass_the_gates_that_need_neither(flow):
    """Of the planner vlm: what the others would look at, nobody knows."""
    more = {"suitable": True, "backward": ["undo"], "target": "A box", "object": "", "new_object": "a blue box"}
    plans = [json.dumps({**more, "forward": [said]}) for said in ("box blue", "box blue nothing")]
    with fake_judge(*plans, scores(following=10, preservation=10, quality=10)) as server:
        run = flow(settings=judged(server, planner="vlm", proposals=1, shares={"add": 1.0}))
        run.run(ModelChoice(), HERE, until="videos")
    assert [one.made["proposals"][0]["expected"] for one in run.outcomes("plans")] == [{}, {}]
    assert [one.reason for one in run.outcomes("frames")] == ["", "edit missing"]
    (whole,) = run.outcomes("videos")
    assert whole.is_kept and {"present", "flicker_added", "drift", "cuts_added", "frame_psnr"} <= {
        name for name, value in whole.scores.items() if value is not None
    }
    assert {"outside", "style", "colour", "shape"} <= {*whole.verdict.unmeasured}


@pytest.mark.parametrize("answer", ["[]", '{"forward": ["a"], "backward": ["b"]}', '{"suitable": "yes"}', '{"suitable": true, "forward": "a", "backward": ["b"]}',
                                    '{"suitable": true, "forward": [""], "backward": ["b"]}', '{"suitable": true, "forward": [1], "backward": ["b"]}',
                                    '{"suitable": true, "forward": ["a"], "backward": ["b"]}', '{"suitable": true, "forward": ["a"], "backward": ["b"], "target": " "}'])  # fmt: skip
def test_a_plan_in_another_form_is_refused(answer):
    with pytest.raises(ValueError):
        understood(Reply(answer, "fake", None), 4)
