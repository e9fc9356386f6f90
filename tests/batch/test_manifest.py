"""Manifests of batch jobs: what they may say, and the sentence for what they may not."""

import csv
import io
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from liveditor_isa.batch.manifest import COLUMNS, RANGES, SAFE_ID, ManifestError, read_manifest
from liveditor_isa.command import main
from liveditor_isa.pipelines.request import Edit


def manifest(folder: Path, *rows, name: str = "clips.jsonl") -> Path:
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_row_becomes_an_edit(tmp_path):
    full = {
        "video": "a/cat.mp4", "prompt": "Let it snow", "negative_prompt": "rain", "seed": 7, "steps": 20, "guidance": 3,
        "frames": 0, "fps": 12.5, "width": 832, "height": 480, "references": ["b.png", "/c.png"], "whole_frame": True, "id": "x.1",
        "mask": "m.png", "boxes": ["1,2,30,40", "-5, 0, 8, 9"], "feather": 3, "match_colors": True, "window": 33, "window_overlap": 8,
    }  # fmt: skip
    first, second = read_manifest(manifest(tmp_path, full, "", {"video": "/elsewhere/dog.mp4", "prompt": "夜晚", "seed": None}))
    assert (first.id, first.line, second.id, second.line) == ("x.1", 1, "dog", 3)
    expected = Edit(
        str(tmp_path / "a/cat.mp4"), "Let it snow", "rain", 7, 20, 3.0, 0, 12.5, (832, 480), (str(tmp_path / "b.png"), "/c.png"), True,
        mask=str(tmp_path / "m.png"), boxes=((1, 2, 30, 40), (-5, 0, 8, 9)), feather=3, match_colors=True, window=33, window_overlap=8,
    )  # fmt: skip
    assert first.edit == expected and isinstance(first.edit.guidance, float)
    assert second.edit == Edit("/elsewhere/dog.mp4", "夜晚")


def test_csv_says_the_same(tmp_path):
    cells = {
        "guidance": "3",
        "references": "b.png | c.png",
        "width": "64",
        "height": "32",
        "whole_frame": "True",
        "boxes": "1,2,3,4|5,6,7,8",
    }
    row = {"video": "cat.mp4", "prompt": 'Two\nlines, "quoted"', "seed": "", **cells}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, row)
    writer.writeheader()
    writer.writerow(row)
    writer.writerow({"video": "cat.mp4", "prompt": "again"})
    path = tmp_path / "clips.csv"
    path.write_text("\ufeff" + text.getvalue(), encoding="utf-8")
    same = {
        "guidance": 3,
        "references": ["b.png", "c.png"],
        "width": 64,
        "height": 32,
        "whole_frame": True,
        "boxes": ["1,2,3,4", "5,6,7,8"],
    }
    lines = manifest(tmp_path, {**row, "seed": None, **same}, {"video": "cat.mp4", "prompt": "again"})
    comma, braces = read_manifest(path), read_manifest(lines)
    assert [(clip.id, clip.edit, clip.fingerprint) for clip in comma] == [
        (clip.id, clip.edit, clip.fingerprint) for clip in braces
    ]
    assert [clip.line for clip in comma] == [2, 4]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"video": "a.mp4"}, "prompt is missing"),
        ({"video": " ", "prompt": "x"}, "video is missing"),
        ({"video": "a.mp4", "prompt": "x", "promt": "y"}, "there is no column 'promt'; there are video, prompt, id"),
        ({"video": "a.mp4", "prompt": 5}, "prompt must be text; got 5"),
        ({"video": "a.mp4", "prompt": "x", "seed": 1.5}, "seed must be a whole number from 0 to"),
        ({"video": "a.mp4", "prompt": "x", "seed": True}, "seed must be a whole number from 0 to"),
        ({"video": "a.mp4", "prompt": "x", "frames": -1}, "frames must be a whole number from 0 to 100000; got -1"),
        ({"video": "a.mp4", "prompt": "x", "guidance": float("nan")}, "guidance must be a number from 0 to 100; got nan"),
        ({"video": "a.mp4", "prompt": "x", "steps": "12"}, "steps must be a whole number from 1 to 1000; got '12'"),
        ({"video": "a.mp4", "prompt": "x", "width": 64}, "width and height go together"),
        ({"video": "a.mp4", "prompt": "x", "width": 60, "height": 64}, "width must be a multiple of 16; got 60"),
        ({"video": "a.mp4", "prompt": "x", "references": "b.png"}, "references must be a list of texts; got 'b.png'"),
        ({"video": "a.mp4", "prompt": "x", "boxes": ["1,2,3"]}, "a box is x,y,width,height in pixels of the source"),
        ({"video": "a.mp4", "prompt": "x", "feather": 600}, "feather must be a whole number from 0 to 512; got 600"),
        (
            {"video": "a.mp4", "prompt": "x", "window": 33, "window_overlap": 36},
            "window_overlap must be shorter than the window",
        ),
        ({"video": "a.mp4", "prompt": "x", "window_overlap": 8}, "window_overlap belongs to windows"),
        ({"video": "a.mp4", "prompt": "x", "whole_frame": 1}, "whole_frame must be true or false; got 1"),
        ({"video": "a.mp4", "prompt": "x", "id": "../x"}, "the id '../x' cannot name a file"),
        ({"video": "a.mp4", "prompt": "x", "id": ".x"}, "the id '.x' cannot name a file"),
        ({"video": "a.mp4", "prompt": "x", "id": "Nul.1"}, "the id 'Nul.1' is the name of a device on Windows"),
        ({"video": "a.mp4", "prompt": "x", "id": "x" * 101}, "cannot name a file: use up to 100 letters"),
        ({"video": "a.mp4", "prompt": "x", "id": "ONE"}, "the id 'ONE' is line 1's already"),
        ({"video": "a\0.mp4", "prompt": "x"}, "video holds a zero character"),
        ({"video": "a.mp4", "prompt": "x", "references": ["b\0.png"]}, "references holds a zero character"),
        ({"video": "a.mp4", "prompt": "moon \ud83c"}, "prompt holds half a character, 'moon \\ud83c'"),
        ('["a.mp4", "x"]', "a row is an object in braces"),
        ("video,prompt", "this is not JSON"),
        ("[" * 100_000, "this is not JSON"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, row, sentence):
    good = {"video": "a.mp4", "prompt": "x", "id": "one"}
    with pytest.raises(ManifestError) as error:
        read_manifest(manifest(tmp_path, good, row))
    assert str(error.value).startswith("Line 2 of the manifest: ") and sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("video,prompt\na.mp4,Snow, and rain\n", "Line 2 of the manifest: there are 3 cells for 2 columns: put quotes around"),
        ("video,prompt,seed\na.mp4,x,seven\n", "Line 2 of the manifest: seed must be a whole number; got 'seven'"),
        ("video,prompt,whole_frame\na.mp4,x,maybe\n", "whole_frame must be true or false; got 'maybe'"),
        ("video,video,prompt\n", "Line 1 of the manifest: a column is there twice"),
        ('video,prompt\na.mp4,"x\n', "this is not CSV"),
        ("video,prompt\n", "clips.csv holds no clip"),
        ("", "clips.csv holds no clip"),
    ],
)
def test_bad_csv_is_named_by_its_line(tmp_path, text, sentence):
    (tmp_path / "clips.csv").write_text(text)
    with pytest.raises(ManifestError) as error:
        read_manifest(tmp_path / "clips.csv")
    assert sentence in str(error.value)


@pytest.mark.parametrize("name", ["clips.jsonl", "clips.csv"])
def test_every_bad_row_is_listed_by_a_dry_run(tmp_path, name, capsys):
    rows = [("a.mp4", "x", "one", "1"), ("b.mp4", "", "", ""), ("c.mp4", "x", "", "zero"), ("d.mp4", "x", "ONE", "")]
    if name.endswith("csv"):
        text = "video,prompt,id,seed\n" + "".join(",".join(row) + "\n" for row in rows)
    else:
        names = "video", "prompt", "id", "seed"
        text = "\n" + "".join(json.dumps({key: value for key, value in zip(names, row) if value}) + "\n" for row in rows)
        text = text.replace('"seed": "1"', '"seed": 1')
    (tmp_path / name).write_text(text)
    with pytest.raises(ManifestError, match="Line 3 of the manifest: prompt is missing. 2 more rows are wrong") as error:
        read_manifest(tmp_path / name)
    faults = [
        "Line 3 of the manifest: prompt",
        "Line 4 of the manifest: seed must be a whole number",
        "Line 5 of the manifest: the id 'ONE' is line 2's",
    ]
    assert len(error.value.faults) == 3 and all(fault.startswith(start) for fault, start in zip(error.value.faults, faults))
    arguments = ["batch", str(tmp_path / name), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--dry-run"]) == 2 and capsys.readouterr().out.splitlines() == [*error.value.faults]
    assert main(arguments) == 2 and not capsys.readouterr().out


def test_what_is_no_manifest_gets_a_sentence(tmp_path):
    (tmp_path / "clips.jsonl").write_bytes(b"\xff\xfe")
    for path, sentence in [
        (tmp_path / "clips.jsonl", "is not UTF-8 text"),
        (tmp_path / "none.jsonl", "cannot be read"),
        (manifest(tmp_path, name="clips.txt"), "is neither JSON lines"),
    ]:
        with pytest.raises(ManifestError, match=sentence):
            read_manifest(path)


def test_clips_of_one_name_are_numbered_and_keep_their_ids(tmp_path):
    rows = [{"video": f"{folder}/cat.mp4", "prompt": "x"} for folder in "abc"] + [{"video": "CAT.mov", "prompt": "x"}]
    rows += [{"video": "cat-2.mp4", "prompt": "x"}, {"video": "z.mp4", "prompt": "x", "id": "cat-3"}]
    assert [clip.id for clip in read_manifest(manifest(tmp_path, *rows))] == [
        "cat",
        "cat-2",
        "cat-4",
        "CAT-5",
        "cat-2-2",
        "cat-3",
    ]
    more = [*rows, {"video": "d/cat.mp4", "prompt": "x"}]
    before, after = read_manifest(manifest(tmp_path, *rows)), read_manifest(manifest(tmp_path, *more))
    assert after[: len(before)] == before


def test_a_fingerprint_is_of_what_is_asked_and_not_of_where_it_lies(tmp_path):
    row = {"video": "cat.mp4", "prompt": "x"}
    (tmp_path / "moved").mkdir()
    (here,), (there,) = read_manifest(manifest(tmp_path, row)), read_manifest(manifest(tmp_path / "moved", row))
    (named,) = read_manifest(manifest(tmp_path, {**row, "id": "other"}))
    (changed,) = read_manifest(manifest(tmp_path, {**row, "seed": 1}))
    assert here.fingerprint == there.fingerprint == named.fingerprint != changed.fingerprint


numbers = {
    name: st.integers(low, high) if COLUMNS[name] is int else st.floats(low, high) for name, (low, high) in RANGES.items()
}
numbers |= {name: st.integers(1, 512).map(lambda n: 16 * n) for name in ("width", "height")}
text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip)


@given(st.lists(st.fixed_dictionaries({"video": text, "prompt": text, "width": numbers["width"], "height": numbers["height"]},
       optional={name: numbers[name] for name in ("seed", "frames", "fps", "steps", "guidance")}), min_size=1, max_size=6))  # fmt: skip
def test_any_row_within_the_ranges_is_read_and_travels(tmp_path_factory, rows):
    """To a worker a clip goes pickled. Ids are safe as file names and all different, whatever videos are called."""
    clips = read_manifest(manifest(tmp_path_factory.getbasetemp(), *rows, name="any.jsonl"))
    assert [(clip.edit.prompt, clip.edit.size) for clip in clips] == [
        (row["prompt"], (row["width"], row["height"])) for row in rows
    ]
    assert len({clip.id.lower() for clip in clips}) == len(clips)
    assert all(SAFE_ID.fullmatch(clip.id) for clip in clips)
    assert pickle.loads(pickle.dumps(clips)) == clips
