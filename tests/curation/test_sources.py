"""Lists of sources, settings and the planner: what they may say, and the sentence for what they may not."""

import json
from collections import Counter

import pytest
from liveditor_isa.curation.outcomes import Work
from liveditor_isa.curation.planners.rules import propose
from liveditor_isa.curation.settings import SHARES, Settings, read_settings, write_settings
from liveditor_isa.curation.sources import SourcesError, read_sources
from liveditor_isa.data.procedural.scenes import COLOURS, PLACES
from liveditor_isa.data.procedural.styles import STYLES


def listed(folder, *rows):
    path = folder / "clips.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def test_sources_have_ids_of_their_own_and_absolute_paths(tmp_path):
    path = listed(
        tmp_path,
        {"video": "a b.mp4", "licence": "CC0"},
        "",
        {"video": "/else/a b.mp4"},
        {"video": "c.mp4", "id": "sea", "caption": "the sea"},
    )
    found = read_sources(path)
    assert [source.id for source in found] == ["a_b", "a_b-2", "sea"]
    assert [source.video for source in found] == [str(tmp_path / "a b.mp4"), "/else/a b.mp4", str(tmp_path / "c.mp4")]
    assert found[0].licence == "CC0" and found[1].licence == "" and found[2].facts["caption"] == "the sea"


def test_all_bad_rows_are_told(tmp_path):
    path = listed(
        tmp_path,
        "{",
        {"licence": "CC0"},
        {"video": "a.mp4", "license": "CC0"},
        {"video": "a.mp4", "url": 3},
        {"video": "a.mp4", "id": "../x"},
    )
    with pytest.raises(SourcesError) as told:
        read_sources(path)
    assert len(told.value.faults) == 5 and "4 more are wrong" in str(told.value)
    assert [fault.split(" of ")[0] for fault in told.value.faults] == [f"Line {number}" for number in range(1, 6)]


def test_a_double_id_an_empty_list_and_a_missing_one(tmp_path):
    with pytest.raises(SourcesError, match="'x' is there twice"):
        read_sources(listed(tmp_path, {"video": "a.mp4", "id": "x"}, {"video": "b.mp4", "id": "X"}))
    with pytest.raises(SourcesError, match="holds no video"):
        read_sources(listed(tmp_path, ""))
    with pytest.raises(SourcesError, match="cannot be read"):
        read_sources(tmp_path / "none.jsonl")


@pytest.mark.parametrize("values", [{"frames": 16}, {"width": 100}, {"fps": 0}, {"proposals": 0}, {"shares": {}}, {"shares": {"style": -1}},
                                    {"direction": "back"}, {"colour": 1}, {"frames": "17"}, {"duplicate_features": "vgg"}, {"mask_model": "sam2"}])  # fmt: skip
def test_a_wrong_setting_is_one_sentence(tmp_path, values):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ValueError, match=r"\.$"):
        read_settings(path)


def test_settings_are_read_back_as_written(tmp_path):
    settings = Settings(frames=9, shares={"style": 1.0}, steps=4)
    write_settings(tmp_path / "settings.json", settings)
    assert read_settings(tmp_path / "settings.json") == settings


def test_the_papers_shares_add_up():
    assert sum(SHARES.values()) == pytest.approx(1)
    assert (SHARES["style"], SHARES["human"], SHARES["other"]) == (0.3387, 0.1280, 0.0109)


def plans(count=300, **settings):
    return [propose(Settings(**settings), Work("clip.mp4", {"clip": f"clip-{number}"})) for number in range(count)]


def test_a_plan_is_the_same_for_the_same_clip_and_seed_and_another_for_others():
    assert plans(3) == plans(3)
    assert plans(3) != plans(3, seed=1) and plans(2)[0] != plans(2)[1]


def test_tasks_are_drawn_by_their_shares_among_those_that_are_possible():
    tasks = Counter(proposal["task"] for of_clip in plans(proposals=1) for proposal in of_clip)
    share = SHARES["style"] / (SHARES["style"] + SHARES["add"])
    assert set(tasks) == {"style", "add"} and tasks["style"] / 300 == pytest.approx(share, abs=0.08)
    assert {proposal["task"] for of_clip in plans(20, shares={"add": 1, "human": 9}) for proposal in of_clip} == {"add"}
    assert plans(1, shares={"human": 1}) == [[]]


def test_proposals_of_a_clip_differ_and_say_what_to_expect():
    for of_clip in plans(60, proposals=4):
        assert len({json.dumps(proposal["expected"]) for proposal in of_clip}) == 4
        for proposal in of_clip:
            expected = proposal["expected"]
            assert proposal["instruction"] == proposal["forward"][0] and proposal["backward"]
            assert len(set(proposal["forward"])) == len(proposal["forward"]) <= 4
            if proposal["task"] == "style":
                assert expected["style"] in STYLES
            else:
                assert expected["colour"] in COLOURS and expected["place"] in PLACES and proposal["back_task"] == "remove"
