"""What a run will take, by records of a run so far."""

import pytest
from liveditor_isa.curation.funnel import Count
from liveditor_isa.curation.planning import LEAST, estimates, told
from liveditor_isa.curation.settings import Settings
from liveditor_isa.evaluation.judge.cost import Cost

SETTINGS = Settings(planner="vlm", vlm_url="http://localhost:8000/v1", vlm_model="qwen", proposals=2)


def counted(stage: str, kept: int, seconds: float = 0.0) -> Count:
    return Count(stage, stage, kept, kept, 0, 0, 0, {}, {}, seconds)


def test_questions_and_tokens_are_those_of_the_runs_own_answers_where_there_are_enough():
    counts = [counted("clips", LEAST), counted("plans", LEAST, 40.0)]
    asked = {"plans": [Cost(3, 4, 1500, 2.0)] * LEAST}  # one task did not suit, one answer was refused
    plans = estimates(counts, 1000, SETTINGS, asked)[1]
    assert (plans.questions, plans.tokens) == (3000, 1_500_000) and plans.seconds == pytest.approx(2000)
    few = estimates(counts, 1000, SETTINGS, {"plans": asked["plans"][1:]})[1]
    assert (few.questions, few.tokens) == (2000, None)
    assert told([plans])[1].split()[:6] == ["plans", "1,000", "1,000", "0.6", "3,000", "1,500,000"]


def test_published_seconds_are_of_one_candidate_and_own_rates_count_what_failed():
    settings = Settings(proposals=3, video_candidates=2)
    assert estimates([counted("videos", 0)], 10, settings)[0].seconds == 10 * 2 * 1044.0
    failed = Count("videos", "videos", 2 * LEAST, LEAST, 0, LEAST, 0, {}, {}, 0.0)
    assert estimates([failed], 10, settings)[0].kept == 5
    half_planned = [counted("plans", LEAST), Count("frames", "frames", LEAST + 10, 0, 0, 0, LEAST + 10, {}, {}, 0.0)]
    assert estimates(half_planned, 100, settings)[1].rows == 150 and estimates(half_planned[1:], 100, settings)[0].rows == 300


def test_a_server_that_counts_no_tokens_tells_none():
    plans = estimates([counted("plans", LEAST)], 10, SETTINGS, {"plans": [Cost(2, 2, 0, 1.0)] * LEAST})[0]
    assert (plans.questions, plans.tokens) == (20, None)


def test_the_planner_of_rules_asks_nobody():
    found = estimates([counted("plans", 0), counted("frame_verdicts", 0)], 10, Settings(vlm_model="qwen"))
    assert [one.questions for one in found] == [0, 10]


def test_no_more_questions_about_a_clip_than_there_are_tasks():
    one_task = Settings(planner="vlm", vlm_model="qwen", proposals=5, shares={"style": 1.0, "human": 0.0})
    assert estimates([counted("plans", 0)], 10, one_task)[0].questions == 10
