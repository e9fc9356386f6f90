"""Files of items: what is read, what is refused, and that writing and reading are inverses."""

import json
import shutil

import pytest
from evaluated import write_rows
from hypothesis import given
from hypothesis import strategies as st
from liveditor_isa.evaluation.items import Item, ItemsError, ItemSet, missing_files, read_items, write_items


def test_paths_are_relative_to_the_file_and_ids_come_from_names(tmp_path):
    path = write_rows(
        tmp_path / "clips.jsonl",
        {"source": "a/beach.mp4", "instruction": "Let it snow"},
        {"source": "b/beach.mp4", "instruction": "Make it night", "mask": "m.png", "facts": {"n": 2}},
    )
    items = read_items(path)
    assert (items.name, items.bench) == ("clips", "own")
    assert [item.id for item in items.items] == ["beach", "beach-2"]
    assert items.items[0].source == str(tmp_path / "a/beach.mp4")
    assert items.items[1].mask == str(tmp_path / "m.png") and items.items[1].facts == {"n": 2}


@pytest.mark.parametrize(
    "line, fault",
    [
        ("{", "not JSON"),
        ("[]", "an object in braces"),
        ('{"instruction": "x"}', "source is missing"),
        ('{"source": "a.mp4", "colour": "red"}', "no column 'colour'"),
        ('{"source": 3}', "source must be text"),
        ('{"source": "a.mp4", "pictures": "b.png"}', "pictures must be a list"),
        ('{"source": "a.mp4", "facts": {"fps": "fast"}}', "fps in facts must be a number from 0 to 1000; got 'fast'"),
        ('{"source": "a.mp4", "facts": {"fps": -3}}', "fps in facts"),
        ('{"source": "a.mp4", "task": "all"}', "no kind of edit can be named 'all'"),
        ('{"source": "a.mp4", "id": "../up"}', "cannot name a file"),
        ('{"source": "a.mp4", "id": "con"}', "device on Windows"),
    ],
)
def test_a_bad_row_is_one_sentence_with_its_line(tmp_path, line, fault):
    path = tmp_path / "clips.jsonl"
    path.write_text('{"source": "fine.mp4"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ItemsError, match="Line 2 of clips.jsonl") as raised:
        read_items(path)
    assert fault in str(raised.value) and "\n" not in str(raised.value)


def test_an_id_twice_an_empty_file_and_no_file_are_refused(tmp_path):
    with pytest.raises(ItemsError, match="twice"):
        read_items(write_rows(tmp_path / "a.jsonl", {"source": "a", "id": "X"}, {"source": "b", "id": "x"}))
    with pytest.raises(ItemsError, match="holds no item"):
        read_items(write_rows(tmp_path / "b.jsonl"))
    with pytest.raises(ItemsError, match="cannot be read"):
        read_items(tmp_path / "none.jsonl")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(TEXT, TEXT, st.dictionaries(TEXT, st.integers() | TEXT, max_size=3))
def test_written_items_are_read_as_they_were(tmp_path_factory, instruction, task, facts):
    folder = tmp_path_factory.mktemp("items")
    item = Item(
        "one", str(folder / "x.mp4"), instruction, mask=str(folder / "m.mp4"), task=task, pictures=("/p.png",), facts=facts
    )
    write_items(folder / "set.jsonl", [item])
    assert read_items(folder / "set.jsonl").items == (item,)


def test_a_folder_may_move(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/a.mp4").touch()
    write_items(tmp_path / "here/set.jsonl", [Item("a", str(tmp_path / "here/a.mp4"))])
    assert json.loads((tmp_path / "here/set.jsonl").read_text(encoding="utf-8")) == {"id": "a", "source": "a.mp4"}
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert missing_files(read_items(tmp_path / "there/set.jsonl").items) == []


def test_missing_files_are_named_and_edits_are_not_asked_for(tmp_path):
    item = Item("a", str(tmp_path / "a.mp4"), edit="/nowhere.mp4", mask=str(tmp_path), pictures=("/p.png",))
    assert missing_files([item]) == [f"a: there is no source {tmp_path / 'a.mp4'}.", "a: there is no picture /p.png."]


def test_sets_are_told_apart_by_their_items_not_their_order():
    a, b = Item("a", "x"), Item("b", "x")
    assert ItemSet("one", (a, b)).fingerprint == ItemSet("two", (b, a)).fingerprint != ItemSet("one", (a,)).fingerprint
