"""Gates: bounds over stored scores, what moves them, and what a missing score means."""

import json
import math

import pytest
from comfy_headless import ROOT
from liveditor_isa.curation.flow import STAGES
from liveditor_isa.curation.gates import (
    GATES,
    MEASURED,
    REAL_PICTURES,
    Gate,
    failing,
    moved,
    of_stage,
    parsed,
    read_changes,
    verdict,
)

TWO = (Gate("first", "videos", "a", "too little", "own", least=2), Gate("second", "videos", "b", "too much", "own", most=5))


def test_bounds_include_their_ends():
    assert verdict({"a": 2, "b": 5}, TWO).is_kept
    assert verdict({"a": 1.999, "b": 5}, TWO).reason == "too little"
    assert verdict({"a": 2, "b": 5.001}, TWO).reason == "too much"


def test_the_first_gate_that_fails_names_the_reason():
    assert verdict({"a": 0, "b": 9}, TWO).gate.name == "first"


def test_a_score_that_is_not_there_is_told_and_rejects_nothing():
    found = verdict({"b": 1, "a": None}, TWO)
    assert found.is_kept and found.unmeasured == ("first",)
    assert verdict({}, TWO).unmeasured == ("first", "second")


def test_nan_passes_no_gate():
    assert not verdict({"a": math.nan, "b": 1}, TWO).is_kept


def test_one_bound_moves_and_the_other_stays():
    first, second = moved({"first": {"most": 7}, "second": None}, TWO)
    assert (first.least, first.most) == (2, 7)
    assert not second.is_on and verdict({"a": 3, "b": 99}, (first, second)).is_kept
    assert first.source == "set by the user"


@pytest.mark.parametrize("changes", [{"thrid": {"least": 1}}, {"first": {"at_least": 1}}, {"first": {"least": "2"}},
                                     {"first": {"least": True}}, {"first": {"least": math.nan}}, {"first": 3}])  # fmt: skip
def test_a_wrong_change_is_one_sentence(changes):
    with pytest.raises(ValueError, match=r"^[A-Z].*\.$"):
        moved(changes, TWO)


def test_changes_on_the_command_line():
    assert parsed("flicker.most=2") == ("flicker", {"most": 2.0})
    assert parsed("flicker.most=") == ("flicker", {"most": None})
    assert parsed("flicker=off") == ("flicker", None)
    for wrong in ("flicker", "flicker=2", "flicker.high=2", "flicker.most=two"):
        with pytest.raises(ValueError, match="a gate is set by"):
            parsed(wrong)


def test_changes_in_a_file(tmp_path):
    path = tmp_path / "gates.json"
    path.write_text('{"flicker": {"most": 2}}', encoding="utf-8")
    assert read_changes(path) == {"flicker": {"most": 2}}
    for content in ("[1]", "{", '"text"'):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match="flicker"):
            read_changes(path)


def test_failing_gates_are_counted_and_what_is_not_measured_fails_none():
    assert failing({}, "videos") == failing({"present": None, "cuts_added": 0, "drift": 1.0}, "videos") == 0
    assert failing({"present": 1.0, "cuts_added": 2, "drift": float("nan")}, "videos") == 3


def test_every_usual_gate_names_a_stage_a_source_and_one_bound_at_least():
    assert len({gate.name for gate in GATES}) == len(GATES)
    for gate in GATES:
        assert gate.stage in STAGES and gate.source and gate.reason
        assert gate.is_on or gate.name in (
            "frame_preferred",
            "frame_objects_lost",
            "objects_lost",
            "frame_outside_object",
            "outside_object",
        )  # of models that the user chooses
    for stage, published in (("video_verdicts", [8, 9, 8]), ("frame_verdicts", [9, 9, 9])):  # SAMA, appendix B
        assert [gate.least for gate in of_stage(GATES, stage)] == published


@pytest.mark.parametrize("file, names", [
    (MEASURED, {"present", "outside", "style", "colour", "shape", "flicker", "drift", "sharpness", "duplicate"}),
    (REAL_PICTURES, {"duplicate_dino"}),
])  # fmt: skip
def test_measured_bounds_are_those_of_the_result_file(file, names):
    rows = {row["gate"]: row for row in json.loads((ROOT / file).read_text(encoding="utf-8"))["rows"]}
    measured = [gate for gate in GATES if gate.source == file]
    assert names <= {gate.name for gate in measured}
    for gate in measured:
        row = rows[gate.name.removeprefix("frame_")]
        assert getattr(gate, row["side"]) == pytest.approx(row["bound"], abs=0.006), gate.name
        assert gate.score == row["score"]
