"""A judge that answers well, badly, late, or not at all: every question ends, and no failure becomes a score."""

import base64
import io
import re
import time
from contextlib import ExitStack

import pytest
import torch
from evaluated import right, save, scene, write_rows
from fake_judge import GOOD, fake_judge, scores
from hypothesis import given
from hypothesis import strategies as st
from liveditor_isa.command import main
from liveditor_isa.errors import UnreachableError
from liveditor_isa.evaluation.frames import Inputs
from liveditor_isa.evaluation.items import Item
from liveditor_isa.evaluation.judge.client import Endpoint, JudgeError, QuestionError, ask
from liveditor_isa.evaluation.judge.judge import Judge
from liveditor_isa.evaluation.judge.parse import parsed
from liveditor_isa.evaluation.judge.rubrics import ANSWERS, FRAMES, _shrunk, editverse_frames, evenly, five_frames
from liveditor_isa.evaluation.records import Run
from liveditor_isa.evaluation.results import collect
from PIL import Image

RANGES = dict.fromkeys(("following", "preservation", "quality"), (1.0, 10.0))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    folder = tmp_path_factory.mktemp("judged")
    source, mask = scene()
    item = Item("one", str(save(folder / "source", source)), "Make the box blue")
    return Inputs(item, str(save(folder / "edit", right(source, mask))))


class Asked:
    """A judge at a fake server, without its waits, which `waits` lists."""

    def __init__(self, server, folder, mode="corrected", **options):
        self.waits = []
        options = {"timeout": 20, "attempts": 4, **options}
        self.judge = Judge(Endpoint(server.url, "fake", **options), folder / "judge", mode, self.waits.append)

    def scored(self, inputs: Inputs, bench: str = "vie"):
        return self.judge.metric(bench).compute(inputs)


def test_a_good_answer_is_scored_kept_and_not_asked_again(inputs, tmp_path):
    with fake_judge(GOOD) as server:
        asked = Asked(server, tmp_path, key="secret")
        found = asked.scored(inputs)
        assert found == {"judge_following": 7, "judge_preservation": 8, "judge_quality": 9} and found.words == "as asked"
        assert {"asked_model": "fake", "model": "fake-1", "tokens": 12, "attempts": 1, "pictures": 6}.items() <= found.facts[
            "judge"
        ][0].items()
        assert Asked(server, tmp_path).scored(inputs) == found and len(server.asked) == 1
        assert server.headers[0]["Authorization"] == "Bearer secret"
        content = server.asked[0]["messages"][1]["content"]
        assert "Make the box blue" in content[0]["text"] and sum(part["type"] == "image_url" for part in content) == 6
    assert "secret" not in (next((tmp_path / "judge").iterdir())).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "answer",
    [
        "I give it a seven.",
        scores(following=7, preservation=8),
        scores(following=7, preservation=8, quality=11),
        scores(following=7, preservation=8, quality=0),
        scores(following=True, preservation=8, quality=5),
        scores(following=7, preservation=8, quality=None),
        "{" * 10_000,
        "",
        "no completion",
        "cut",
        429,
        500,
    ],
)
def test_what_is_no_score_is_asked_again_and_in_the_end_missing(inputs, tmp_path, answer):
    with fake_judge(answer, answer, GOOD) as server:
        asked = Asked(server, tmp_path)
        assert asked.scored(inputs)["judge_quality"] == 9 and len(server.asked) == 3
    with fake_judge(answer) as server:
        asked = Asked(server, tmp_path / "other")
        with pytest.raises(JudgeError, match="no score in 4 attempts") as raised:
            asked.scored(inputs)
        assert len(server.asked) == 4 and "\n" not in str(raised.value)
    assert not (tmp_path / "other/judge").exists()


def test_it_waits_longer_each_time_and_as_long_as_the_server_asks(inputs, tmp_path):
    with fake_judge(500, 429, 503, GOOD) as server:
        asked = Asked(server, tmp_path)
        asked.scored(inputs)
    assert asked.waits == [1, 3, 4]


def test_a_server_that_never_ends_is_left_in_time(inputs, tmp_path):
    """It sends a byte every 50 ms, for minutes, which keeps a socket's own time-out from ever coming."""
    with fake_judge("slow") as server:
        asked = Asked(server, tmp_path, timeout=0.5, attempts=2)
        began = time.monotonic()
        with pytest.raises(JudgeError, match="within 0.5 s"):
            asked.scored(inputs)
        assert len(server.asked) == 2 and time.monotonic() - began < 60


@pytest.mark.parametrize("answer, kind", [(400, QuestionError), ("I cannot help with that.", QuestionError), (500, JudgeError)])
def test_a_question_that_is_refused_or_answered_beside_it_is_the_questions_fault(inputs, tmp_path, answer, kind):
    with fake_judge(answer) as server, pytest.raises(JudgeError) as raised:
        Asked(server, tmp_path, attempts=2).scored(inputs)
    assert type(raised.value) is kind and len(server.asked) == (1 if answer == 400 else 2)


@pytest.mark.parametrize("state", [401, 404])
def test_a_refusal_is_met_once(inputs, tmp_path, state):
    with fake_judge(state) as server:
        asked = Asked(server, tmp_path)
        for _ in range(3):
            with pytest.raises(UnreachableError, match=str(state)):
                asked.scored(inputs)
        assert len(server.asked) == 1


def test_no_server_is_met_once(inputs, tmp_path):
    with fake_judge(GOOD) as server:
        asked = Asked(server, tmp_path)
    for _ in range(2):
        with pytest.raises(UnreachableError, match="cannot be reached.*start it"):
            asked.scored(inputs)
    assert len(asked.waits) == 3


def test_a_server_that_dies_over_a_question_is_gone(inputs, tmp_path):
    with fake_judge("gone") as server, pytest.raises(UnreachableError, match="cannot be reached"):
        Asked(server, tmp_path).scored(inputs)
    assert len(server.asked) == 1


def test_a_server_that_comes_back_is_not_gone():
    """Its failures are the question's then."""
    with fake_judge() as server:
        address = server.url, server.server_port
    with ExitStack() as stack:
        revive = lambda seconds: stack.enter_context(fake_judge(500, port=address[1]))  # noqa: E731
        with pytest.raises(JudgeError, match="answers 500"):
            ask(Endpoint(address[0], "fake", attempts=2), [], sleep=revive)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", ""])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="no address"):
        Endpoint(url, "fake")


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Here it is: {GOOD} I hope {{this}} helps.",
        '{"Following score (1-10)": "7 of 10", "PRESERVATION": 8.0, "quality (1-10)": "9/10", "reason": "x"}'.replace(
            " score", ""
        ),
    ],
)
def test_ways_of_writing_the_same_answer(text):
    assert parsed(text, RANGES) == {"following": 7, "preservation": 8, "quality": 9}


@given(
    st.text(max_size=80)
    | st.builds(str, st.recursive(st.none() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
)
def test_no_text_is_taken_for_scores(text):
    with pytest.raises(ValueError):
        parsed(text, RANGES)


def test_frames_that_judges_see():
    assert [len(editverse_frames(n)) for n in (1, 2, 3, 4, 80, 81)] == [1, 2, 3, 4, 4, 3]
    assert evenly(10, 3) == [0, 4, 9] and evenly(2, 3) == [0, 1]
    assert five_frames(8) == [1, 3, 5, 7] and five_frames(2) == [0, 1]


def test_editverses_total_is_the_mean_over_frames_and_reference_mode_swaps_red_and_blue(inputs, tmp_path):
    """The published judge saw red boxes blue."""
    for mode, channel in (("corrected", 0), ("reference", 2)):
        low, high = scores(following=1, quality=1, background=1), scores(following=3, quality=3, background=3)
        with fake_judge(low, high, high) as server:
            asked = Asked(server, tmp_path / mode, mode)
            assert asked.scored(inputs, "editverse") == {"judge_frames": pytest.approx((3 + 9 + 9) / 3)}
            address = server.asked[0]["messages"][1]["content"][2]["image_url"]["url"]
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
            box = torch.tensor(picture.getpixel((35, 45)))
        assert int(box.argmax()) == channel
    assert FRAMES.calls(inputs.item) == 4


@pytest.mark.parametrize(
    "answers, wanted",
    [
        (("no", "yes", "b"), {"judge_yes_no": 1, "judge_choice": 1, "judge_union": 1, "judge_both": 1}),
        (("yes", "yes", "B)"), {"judge_yes_no": 0, "judge_choice": 1, "judge_union": 1, "judge_both": 0}),
        (("no", "no", "a"), {"judge_yes_no": 0, "judge_choice": 0, "judge_union": 0, "judge_both": 0}),
    ],
)
def test_fives_questions(inputs, tmp_path, answers, wanted):
    facts = {
        "source_yes_no_question": "Is it red?",
        "target_yes_no_question": "Is it blue?",
        "multiple_choice_question": "a) red b) blue",
    }
    item = Item("q", inputs.item.source, facts=facts)
    assert ANSWERS.calls(item) == 3
    with fake_judge(*(scores(answer=answer) for answer in answers)) as server:
        assert Asked(server, tmp_path).scored(Inputs(item, inputs.edit_path), "five") == wanted


def test_openves_scores_are_never_above_compliance(inputs, tmp_path):
    with fake_judge(scores(compliance=3, detail=5, stability=2)) as server:
        found = Asked(server, tmp_path).scored(inputs, "openve")
        pictures = [part for part in server.asked[0]["messages"][1]["content"] if part["type"] == "image_url"]
    assert found == {"judge_compliance": 3, "judge_detail": 3, "judge_stability": 2} and len(pictures) == 2 * len(inputs.edit)


def test_recos_nine_scores_are_three_cube_roots_of_frames_side_by_side(inputs, tmp_path):
    names = ("semantic", "scope", "preservation", "appearance", "scale", "motion", "fidelity", "steadiness", "persistence")
    with fake_judge(scores(**dict(zip(names, (8, 4, 2, 10, 0, 9, 7, 7, 7))))) as server:
        found = Asked(server, tmp_path).scored(inputs, "reco")
        content = server.asked[0]["messages"][1]["content"]
    assert found == pytest.approx({"judge_accuracy": 4, "judge_naturalness": 0, "judge_video_quality": 7})
    shown = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    picture = Image.open(io.BytesIO(base64.b64decode(shown[0].partition(",")[2])))
    height, width = inputs.edit.shape[1:3]
    assert len(shown) == len(inputs.edit) and picture.size == (2 * width, height)
    pixels = torch.tensor(list(picture.getdata())).view(height, 2 * width, 3).float()
    for half, video in zip(pixels.split(width, dim=1), (inputs.source, inputs.edit)):
        assert (half - video[0].float()).abs().mean() < 6


def test_high_frames_are_shown_lower_in_their_shape():
    assert _shrunk(torch.zeros(448, 1600, 3, dtype=torch.uint8), 224).shape == (224, 800, 3)


def test_the_waits_are_real_ones_by_default():
    with fake_judge(500, GOOD) as server:
        began = time.monotonic()
        ask(Endpoint(server.url, "fake"), [])
        assert time.monotonic() - began >= 1


def test_the_command_tells_the_number_of_questions_and_shows_the_judges_words(inputs, tmp_path, capsys, monkeypatch):
    rows = [{"id": name, "source": inputs.item.source, "edit": inputs.edit_path, "instruction": f"Do {name}"} for name in "ab"]
    clips, run = write_rows(tmp_path / "clips.jsonl", *rows), tmp_path / "run"
    monkeypatch.setenv("LIVEDITOR_JUDGE_KEY", "secret")
    with fake_judge("nonsense", GOOD, "nonsense") as server:
        command = ["evaluate", "score", str(clips), "--run", str(run), "--metrics", "psnr_source", "--judge-attempts", "2"]
        command += ["--judge-url", server.url, "--judge-model", "fake"]
        assert main([*command, "--dry-run"]) == 0 and not server.asked
        told = capsys.readouterr().out
        assert (
            "At most 2 questions to fake, each with 6 pictures" in told
            and "put 2 times at most" in told
            and "tokens" not in told
        )
        assert main(command) == 1
        assert len(server.asked) == 4
        capsys.readouterr()
        assert main([*command, "--dry-run", "--retry-missing"]) == 0
        assert "The 1 kept ones took 24 tokens each: these would take 24." in capsys.readouterr().out
        assert main(command) == 1 and len(server.asked) == 4
    results = collect(Run(run))
    assert results.of("judge_quality") == {"a": 9} and results.of("psnr_source").keys() == {"a", "b"}
    assert "no JSON object" in results.scored[1].missing["judge_pair"]
    assert main(["evaluate", "report", str(run)]) == 0
    assert "as asked" in (run / "report/items/a.html").read_text(encoding="utf-8")
    report = (run / "report/report.md").read_text(encoding="utf-8")
    # One of two items was answered, its question at the second attempt; the fake counts 12 tokens for each.
    assert "1 of 2" in report and re.search(r"\| judge_pair \| 1 \| 1 \| 2 \| 24 \| 24 \| \d+\.\d\d \|", report)
    assert "secret" not in "".join(file.read_text(encoding="utf-8") for file in run.rglob("*.json"))
