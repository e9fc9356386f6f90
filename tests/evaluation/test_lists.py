"""Lists of benches with damaged fields, line breaks and unusual names."""

import json

import pytest
from evaluated import save, scene
from liveditor_isa.evaluation.benches import editverse, five, ive, vie
from liveditor_isa.evaluation.benches.bench import LayoutError


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def touched(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


EDITVERSE_ROW = {
    "<text>": "<video1> Make it red",
    "<video1>": "videos/7.mp4",
    "type": "combined",
    "source_prompt": "a",
    "target_prompt": "b",
}
IVE_ROW = {"src_video_name": "short_1", "category": "c", "subcategory": "s", "source_prompt": "a", "edit_prompt": "e",
           "target_prompt": "b"}  # fmt: skip
FIVE_ROW = {"video_name": "0001", "source_prompt": "a", "target_prompt": "[b]", "save_dir": "xxxx"}


@pytest.mark.parametrize(
    "bench, path, content, fault",
    [
        (editverse, editverse.FILES[0], {"7": EDITVERSE_ROW | {"<text>": None}}, "item 7: there is no <text>"),
        (editverse, editverse.FILES[0], {"7": EDITVERSE_ROW | {"<image1>": 3}}, "<image1> must be text; got 3"),
        (editverse, editverse.FILES[0], {"7": "b"}, "item 7: it should be an object"),
        (ive, ive.LISTS["short"], [IVE_ROW, IVE_ROW | {"src_video_name": 3}], "item 1: src_video_name must be text; got 3"),
        (five, "data/edit_prompt/edit1_FiVE.json", [FIVE_ROW | {"save_dir": 4}], "item 0: save_dir must be text; got 4"),
        (five, "data/edit_prompt/edit1_FiVE.json", [FIVE_ROW | {"target_prompt": None}], "item 0: there is no target_prompt"),
        (five, "data/edit_prompt/edit1_FiVE.json", [None], "item 0: it should be an object; got None"),
        (five, "data/edit_prompt/edit1_FiVE.json", None, "holds no items"),
        (vie, "list.json", [{"video": None, "instruction": "Make it red"}], "item 0: there is no video"),
    ],
)
def test_a_damaged_field_is_one_sentence_that_says_where(tmp_path, bench, path, content, fault):
    write(tmp_path / path, content)
    with pytest.raises(LayoutError) as error:
        bench.prepare(tmp_path, None)
    assert fault in str(error.value) and len(error.value.faults) == 1


def test_ive_takes_no_edit_for_its_source(tmp_path):
    """It took the last of the name, an editor's result."""
    write(tmp_path / ive.LISTS["short"], [IVE_ROW])
    touched(tmp_path / "videos/short_1.MP4")
    save(tmp_path / "videos-as-frames/short_1", scene()[0])
    assert ive.prepare(tmp_path, None)[0].source == str(tmp_path / "videos/short_1.MP4")
    touched(tmp_path / "zeroth-results/short_1.mp4")
    with pytest.raises(LayoutError, match="short_1 is there 2 times.*folder of their own"):
        ive.prepare(tmp_path, None)


@pytest.mark.parametrize(
    "name, content",
    [
        ("list.csv", 'video,instruction\na [1].mp4,"Make it red,\nthen blue"\n'),
        ("list.jsonl", '{"video": "a [1].mp4", "instruction": "Make it red,\\nthen blue", "note": "\u2028"}\n'),
    ],
)
def test_vies_list_may_hold_line_breaks_and_names_any_character(tmp_path, name, content):
    write(tmp_path / name, content)
    touched(tmp_path / "below/a [1].mp4")
    (item,) = vie.prepare(tmp_path, None)
    assert item.instruction == "Make it red,\nthen blue" and item.source == str(tmp_path / "below/a [1].mp4")
