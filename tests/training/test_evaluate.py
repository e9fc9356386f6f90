"""Scores of edits whose rightness is known."""

import pytest
from liveditor_isa.data.procedural.stream import TASKS, EditStream
from liveditor_isa.training.tiny.evaluate import by_task, scores


@pytest.fixture(scope="module")
def batch():
    return EditStream(5, 14, 5, 64, 64)[0]


def test_the_ground_truth_is_right_and_the_source_is_not(batch):
    perfect, copied = scores(batch, batch.target), scores(batch, batch.source)
    assert all(score.right and score.progress == 1 and score.psnr == 100 for score in perfect)
    assert not any(score.right for score in copied)
    for score in copied:
        assert score.progress == pytest.approx(0, abs=1e-6) and score.region == score.copy
        assert score.kept is None or score.kept == 100


def test_half_way_is_three_quarters_of_the_squared_error(batch):
    for score in scores(batch, batch.source.lerp(batch.target, 0.49)):
        assert not score.right
    for score in scores(batch, (batch.source + batch.target) / 2):
        assert score.progress == pytest.approx(0.75, abs=1e-3)
        assert score.region == pytest.approx(score.copy + 6.02, abs=0.01)


def test_damage_outside_the_region_shows(batch):
    damaged = (batch.target + 0.1 * ~batch.region).clamp(0, 1)
    for score in scores(batch, damaged):
        assert score.right and (score.kept is None or 15 < score.kept < 30)


def test_means_by_task(batch):
    found = by_task([(batch, scores(batch, batch.source)), (batch, scores(batch, batch.target))])
    assert set(found) <= {*TASKS, "all"} and found["all"]["clips"] == 28
    assert all(task["edit_accuracy"] == 0.5 and task["progress"] == 0.5 for task in found.values())
