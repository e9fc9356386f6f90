"""Benches: their layouts are read, what is missing is named, results are found, and published rows come out of the aggregation."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluated import noisy, right, save, scene
from liveditor_isa.command import main
from liveditor_isa.evaluation.benches import editverse, five, ive, openve, reco, vie
from liveditor_isa.evaluation.benches.bench import LayoutError
from liveditor_isa.evaluation.catalogue import BENCHES, all_metrics
from liveditor_isa.evaluation.frames import STRETCH, Inputs
from liveditor_isa.evaluation.items import Item, read_items
from liveditor_isa.evaluation.records import edit_of
from liveditor_isa.evaluation.results import Scored
from skimage.metrics import peak_signal_noise_ratio


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def touched(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


# EditVerseBench.


def editverse_row(at: int, kind: str) -> dict:
    return {
        "<text>": f"<video1> Make it {at}.", "<video1>": f"videos/{at}.mp4", "type": kind, "direction": "horizontal", "source_prompt": "a",
        "target_prompt": f"b{at}",
    }  # fmt: skip


@pytest.mark.parametrize("name", editverse.FILES)
@pytest.mark.parametrize("inner", ["", "EditVerseBench"])
def test_editverse_is_read_under_both_names_and_from_the_folder_above(tmp_path, name, inner):
    rows = {"0": editverse_row(0, "Add object"), "1": editverse_row(1, "Pose-to-video"), "2": editverse_row(2, "propagation")}
    write(tmp_path / inner / name, rows)
    items = editverse.prepare(tmp_path, None)
    assert [item.id for item in items] == ["0", "1", "2"] and items[0].source == str(tmp_path / inner / "videos/0.mp4")
    assert (items[0].instruction, items[0].facts["text"], items[0].target_prompt) == ("Make it 0.", "<video1> Make it 0.", "b0")
    assert [item.id for item in editverse.prepare(tmp_path, "text")] == ["0"]
    assert [item.id for item in editverse.prepare(tmp_path, "no-reference")] == ["0", "1"]
    touched(tmp_path / "results/1/generate.mp4")
    assert edit_of(items[1], tmp_path / "results") == str(tmp_path / "results/1/generate.mp4")


def test_editverse_has_120_and_160_items_of_its_200():
    assert 10 * len(editverse.ONE_VIDEO) == 120 and 10 * len(editverse.SUBSETS["no-reference"]) == 160


def test_editverse_averages_over_items_and_shows_consistency_times_100():
    scored = [Scored(Item(str(at), "x", task=task), "e", {"clip_temporal_consistency": value, "pick_score_video_quality": 20.0 + at})
              for at, (task, value) in enumerate([("a", 0.9), ("a", 0.9), ("b", 0.96)])]  # fmt: skip
    assert editverse.aggregate(scored, "reference") == {"CLIP temporal consistency": pytest.approx(92), "PickScore": 21}
    assert editverse.aggregate([replace(scored[0], values={})], "reference") == {}


# IVE-Bench.


def test_ive_is_read_with_videos_anywhere_below(tmp_path):
    row = {"id": 1, "src_video_name": "short_0001", "category": "style_editing", "subcategory": "anime", "source_prompt": "a",
           "edit_prompt": "Make it anime", "target_prompt": "b", "target_phrase": "anime"}  # fmt: skip
    write(tmp_path / ive.LISTS["short"], [row])
    touched(tmp_path / "videos/720p/short_0001.mp4")
    (item,) = ive.prepare(tmp_path, None)
    assert item.source == str(tmp_path / "videos/720p/short_0001.mp4") and item.facts["subcategory"] == "anime"
    save(tmp_path / "results/short_0001", scene()[0])
    assert edit_of(item, tmp_path / "results") == str(tmp_path / "results/short_0001")
    with pytest.raises(LayoutError, match="prompt_long"):
        ive.prepare(tmp_path, "long")


@pytest.mark.parametrize("row", BENCHES["ive"].published()[0]["rows"], ids=lambda row: row["method"])
def test_ives_published_totals_come_out_of_their_parts(row):
    """Parts have two decimals, vtss three: the totals are met within 0.005, and half of their own last digit."""
    published = dict(zip(BENCHES["ive"].published()[0]["columns"], row["values"]))
    parts = {name: value for name, value in published.items() if name not in ("total", *ive.GROUPS)}
    for name, value in ive.totals(parts).items():
        assert value == pytest.approx(published[name], abs=0.01), name


def test_ives_weight_of_vtss_is_4():
    """With 5, as its paper's appendix says, fewer published values of quality come out."""
    rows = [dict(zip(BENCHES["ive"].published()[0]["columns"], row["values"])) for row in BENCHES["ive"].published()[0]["rows"]]

    def errors(weight: int) -> float:
        weights = {**ive.QUALITY, "vtss": weight}
        return max(
            abs(
                sum(w * ((row[n] + 0.05) / 0.15 if n == "vtss" else row[n]) for n, w in weights.items()) / sum(weights.values())
                - row["quality"]
            )
            for row in rows
        )

    assert errors(4) < 0.01 < errors(5)


def test_ive_gives_no_total_without_all_parts_and_counts_missing_videos_as_its_code_does():
    item = Item("a", "x")
    scored = [Scored(item, "e", {"temporal_flickering": 0.9}), Scored(replace(item, id="b"), None)]
    assert ive.aggregate(scored, "corrected") == {"temporal_flickering": pytest.approx(0.9)}
    assert ive.aggregate(scored, "reference") == {"temporal_flickering": pytest.approx(0.45)}


def test_anchored_consistency_is_what_the_hand_computes():
    """Frames 1, 2, 3: cosines with the one before 0.6, 0, with the first 0.6, 0 (-1 taken for 0)."""
    rows = torch.tensor([[1.0, 0.0], [3.0, 4.0], [-4.0, 3.0]])
    assert ive.anchored(rows) == pytest.approx((0.6 + 0.6 + 0 + 0) / 4)


# VIE-Bench.


def test_vies_list_is_found_whatever_its_form(tmp_path):
    write(tmp_path / "readme.json", {"licence": {"name": "x"}})
    write(
        tmp_path / "data/cases.csv",
        "video_path,instruction,edit_type\nclips/a.mp4,Add a hat,Object add\nclips/b.mp4,Swap it,reference swap\n",
    )
    touched(tmp_path / "data/clips/a.mp4")
    items = vie.prepare(tmp_path, None)
    assert [(item.id, item.instruction, item.task) for item in items] == [
        ("a", "Add a hat", "Object add"),
        ("b", "Swap it", "reference swap"),
    ]
    assert items[0].source == str(tmp_path / "data/clips/a.mp4")
    assert [item.id for item in vie.prepare(tmp_path, "text")] == ["a"]
    write(tmp_path / "other/cases.csv", "name,words\na,b\n")
    with pytest.raises(LayoutError, match=r"cases.csv \(name, words\)"):
        vie.prepare(tmp_path / "other", None)


INCONSISTENT = {("Omni-Video", "Add"), ("LIVEditor, full attention", "Add")}
"""Rows whose published average is not that of their published parts."""


def vie_rows():
    return [(part["set"], row) for part in BENCHES["vie"].published() for row in part["rows"]]


@pytest.mark.parametrize("group, row", vie_rows(), ids=lambda value: value if isinstance(value, str) else value["method"])
def test_vies_published_averages_come_out_of_their_parts(group, row):
    *parts, average = row["values"]
    off = abs(vie.average(parts) - average)
    assert off > 0.01 if (row["method"], group) in INCONSISTENT else off < 0.01  # some are cut off instead of rounded


def test_vies_groups_are_the_papers_and_failed_judgements_do_not_count():
    assert vie.group_of("Object Swap") == vie.group_of("colour_change") == "Swap/Change" and vie.group_of("else") is None
    item = Item("a", "x", task="object remove")
    parts = dict(zip(vie.PARTS, (6.0, 9.0, 3.0)))
    scored = [
        Scored(item, "e", parts),
        Scored(item, "e", {}, {"judge_pair": "no answer"}),
        Scored(item, "e", {"judge_following": 1.0}),
    ]
    found = vie.aggregate(scored, "corrected")
    assert found == {"Remove: following": 6, "Remove: preservation": 9, "Remove: quality": 3, "Remove: average": 6}
    judged = Scored(replace(item, task="reference add"), "e", {**parts, "judge_similarity": 10.0})
    assert vie.aggregate([judged], "corrected")["Ref-add: average"] == 7


# FiVE-Bench.


@pytest.fixture
def five_folder(tmp_path):
    source, mask = scene(frames=9)
    save(tmp_path / "data/images/0001_bus", source)
    save(tmp_path / "data/bmasks/0001_bus", mask)
    for number in five.TYPES:
        row = {"editing_type_id": str(number), "video_name": "0001_bus", "source_prompt": "a [red] bus", "target_prompt": "a [blue] bus",
               "save_dir": "x" * 9, "source_yes_no_question": "Is it red?", "target_yes_no_question": "Is it blue?"}  # fmt: skip
        write(tmp_path / f"data/edit_prompt/edit{number}_FiVE.json", [row] * (2 if number == 1 else 1))
    return tmp_path


def test_five_is_read_and_its_results_are_found(five_folder):
    items = five.prepare(five_folder, None)
    assert (
        len(items) == 7 and len({item.id for item in items}) == 7 and {item.task for item in items} == set(five.TYPES.values())
    )
    assert (items[0].source_prompt, items[0].target_prompt) == ("a red bus", "a blue bus")
    assert items[0].source == str(five_folder / "data/images/0001_bus")
    assert items[2].result == "0001_bus/2_a blue "
    touched(five_folder / "results/0001_bus/2_a blue .mp4")
    assert edit_of(items[2], five_folder / "results") == str(five_folder / "results/0001_bus/2_a blue .mp4")
    assert [item.task for item in five.prepare(five_folder, "colour")] == ["colour"]
    (five_folder / "data/edit_prompt/edit6_FiVE.json").unlink()
    with pytest.raises(LayoutError, match="edit6_FiVE.json"):
        five.prepare(five_folder, None)


def test_fives_background_as_published_step_by_step(five_folder, tmp_path):
    """Frames 0 and 8, both black within the mask, PSNR over all pixels; here of an edit at half of the size."""
    item = five.prepare(five_folder, "colour")[0]
    source, mask = scene(frames=9)
    half = noisy(right(source, mask))[:, ::2, ::2]
    inputs = Inputs(item, str(save(tmp_path / "edit", half)), STRETCH, 0.0)
    found = all_metrics()["five_background"].compute(inputs)
    wanted = []
    for at in (0, 8):
        kept = (~mask[at].numpy())[..., None]
        wanted.append(
            peak_signal_noise_ratio(source[at].numpy() / 255 * kept, inputs.edit[at].numpy() / 255 * kept, data_range=1)
        )
    assert inputs.edit.shape == source.shape and found["five_psnr"] == pytest.approx(np.mean(wanted), abs=1e-3)
    assert found["five_mse"] == pytest.approx(1e4 * np.mean([10 ** (-value / 10) for value in wanted]), rel=1e-3)


@pytest.mark.slow
@torch.no_grad()
def test_structure_is_compared_by_the_keys_of_the_last_block():
    """A random small ViT: the keys are computed from the block's own input, and scaled input as the published code has it."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    model = ViTModel(config).eval()
    images = torch.randn(1, 3, 32, 48)
    found = five.self_similarity(model, images)
    states = model(images, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
    block = next(layer for name, layer in model.named_modules() if name.endswith("layer.2") or name.endswith("layers.2"))
    norm = next(layer for name, layer in block.named_modules() if "before" in name)
    keys = five._key_layer(model)(norm(states[2]))
    unit = keys / keys.norm(dim=-1, keepdim=True)
    assert torch.allclose(found, unit @ unit.transpose(1, 2), atol=1e-5) and found.shape == (1, 25, 25)
    frame = torch.full((1, 3, 120, 240), 0.5)
    assert five.as_published(frame, correct=True).shape == (1, 3, 224, 448)
    assert float(five.as_published(frame, correct=False).mean()) > 100 > float(five.as_published(frame, correct=True).mean())


def test_five_weighs_kinds_alike_and_its_shipped_accuracy_comes_out():
    scored = [Scored(Item(str(at), "x", task="rigid"), "e", {"five_psnr": 10.0}) for at in range(100)]
    scored += [Scored(Item("r", "x", task="removal"), "e", {"five_psnr": 30.0})]
    assert five.aggregate(scored, "reference") == {"PSNR": 20}
    shipped = dict(zip(BENCHES["five"].published()[0]["columns"], BENCHES["five"].published()[0]["rows"][0]["values"]))
    found = five.accuracy(*(shipped[name] for name in ("YN", "MC", "∪", "∩")))
    assert found == pytest.approx(shipped["FiVE-Acc"], abs=1e-3)


def test_five_in_corrected_mode_scores_what_is_outside_of_the_mask_aligned():
    values = {"psnr_source_outside": 20.0, "mse_source_outside": 0.01, "ssim_source_outside": 0.5, "five_psnr": 1.0}
    found = five.aggregate([Scored(Item("r", "x", task="rigid"), "e", values)], "corrected")
    assert found == {"PSNR outside": 20, "MSE outside": 100, "SSIM outside": 50}


# OpenVE-Bench.


def openve_list(*rows: tuple[str, str, str]) -> str:
    return "original_video,prompt,edited_type\n" + "".join(f'{video},"{text}",{kind}\n' for video, text, kind in rows)


@pytest.mark.parametrize("place", ["OpenVE-Bench", "renamed"])
@pytest.mark.parametrize("named", ["OpenVE-Bench/videos", "videos"])
def test_openve_is_read_wherever_the_list_says_that_its_folder_is(tmp_path, place, named):
    rows = [(f"{named}/a.mp4", "Make it snow, softly", "global_style"), (f"{named}/b.mp4", "Cut", "camera_edit")]
    write(tmp_path / place / openve.LIST, openve_list(*rows))
    folder = tmp_path if place == "OpenVE-Bench" else tmp_path / place
    first, second = openve.prepare(folder, None)
    assert (first.id, first.source) == ("a", str(tmp_path / place / "videos/a.mp4"))
    assert (first.instruction, first.task, second.task) == ("Make it snow, softly", "global_style", "camera_edit")
    assert [item.id for item in openve.prepare(folder, "five-kinds")] == ["a"]
    touched(tmp_path / "results/a_edited.mp4")
    assert edit_of(first, tmp_path / "results") == str(tmp_path / "results/a_edited.mp4")


def test_openve_names_what_its_list_lacks(tmp_path):
    write(tmp_path / openve.LIST, openve_list(("a.mp4", "", "global_style")))
    with pytest.raises(LayoutError, match="row 1: there is no prompt"):
        openve.prepare(tmp_path, None)
    write(tmp_path / openve.LIST, openve_list())
    with pytest.raises(LayoutError, match="has no rows"):
        openve.prepare(tmp_path, None)


@pytest.mark.parametrize("row", BENCHES["openve"].published()[0]["rows"], ids=lambda row: row["method"])
def test_openves_published_means_come_out_of_their_kinds(row):
    first, *kinds = row["values"]
    assert openve.overall(kinds) == pytest.approx(first, abs=0.006)


def test_openve_weighs_kinds_alike_and_leaves_failed_judgements_out():
    made = [("a", (5, 4, 3)), ("a", (1, 1, 1)), ("b", (2, 2, 2)), ("b", ())]
    scored = [
        Scored(Item(str(at), "x", task=kind), "e", dict(zip(openve.PARTS, values))) for at, (kind, values) in enumerate(made)
    ]
    assert openve.aggregate(scored, "reference") == {"a": 2.5, "b": 2, "overall": 2.25}


# ReCo-Bench.


def test_reco_is_read_with_its_twelve_styles_of_one_video_and_its_pictures(tmp_path):
    for task in reco.TASKS:
        lines = "# style, twelve of each\n\nv.mp4: Make it: a painting, by Monet.\nv.mp4:Draw it\n" if task == "style" else ""
        write(tmp_path / f"configs/{task}.txt", lines)
    write(tmp_path / "configs/add.txt", "855-hd.mp4: Add a rabbit | ip/rabbit.png\n")
    touched(tmp_path / "somewhere/855-hd.mp4")
    added, first, second = reco.prepare(tmp_path, None)
    assert (added.source, added.instruction) == (str(tmp_path / "somewhere/855-hd.mp4"), "Add a rabbit")
    assert added.pictures == (str(tmp_path / "ip/rabbit.png"),) and not first.pictures
    assert [first.id, second.id] == ["style_v", "style_v-2"] and first.source == str(tmp_path / "ori_videos/v.mp4")
    assert first.result == "style/v_Make_it _a_painting_by_Monet"
    assert [item.id for item in reco.prepare(tmp_path, "add")] == ["add_855-hd"]
    touched(tmp_path / "results/style/v_Make_it _a_painting_by_Monet.mp4")
    assert edit_of(first, tmp_path / "results")
    write(tmp_path / "configs/add.txt", "855-hd.mp4\n")
    with pytest.raises(LayoutError, match="add.txt, line 1"):
        reco.prepare(tmp_path, None)


def test_recos_score_is_the_mean_of_three_means_and_failed_judgements_are_left_out():
    made = [("add", (8, 6, 4)), ("add", (4, 6, 8)), ("add", ()), ("style", (9, 9, 9))]
    scored = [
        Scored(Item(str(at), "x", task=task), "e", dict(zip(reco.PARTS, values))) for at, (task, values) in enumerate(made)
    ]
    found = reco.aggregate(scored, "reference")
    assert found["add: edit accuracy"] == found["add: video naturalness"] == found["add: S"] == 6 and found["style: S"] == 9
    assert "remove: S" not in found


# All.


@pytest.mark.parametrize("name", BENCHES)
def test_benches_name_metrics_that_there_are_and_complete_rows(name):
    bench = BENCHES[name]
    assert {*bench.metrics} <= all_metrics().keys()
    for part in bench.published():
        assert part["source"] and part["items"] and part["rows"]
        assert all(len(row["values"]) == len(part["columns"]) for row in part["rows"])


@pytest.mark.parametrize("name", [name for name in BENCHES if name not in ("own", "mini")])
def test_an_empty_folder_is_one_sentence(tmp_path, capsys, name):
    assert main(["evaluate", "prepare", name, str(tmp_path), "--out", str(tmp_path / "out.jsonl")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "out.jsonl").exists()


@pytest.mark.slow
def test_a_bench_from_folder_to_report(five_folder, tmp_path, capsys):
    """FiVE's layout, another editor's results in it, both modes: published rows stand apart, with their items."""
    source, mask = scene(frames=9)
    for number in five.TYPES:
        save(five_folder / f"results/0001_bus/{number}_a blue ", noisy(right(source, mask), 10))
    items = tmp_path / "five.jsonl"
    assert main(["evaluate", "prepare", "five", str(five_folder), "--out", str(items)]) == 0
    for mode, column in (("reference", "PSNR"), ("corrected", "PSNR outside")):
        run = str(tmp_path / mode)
        scoring = ["evaluate", "score", str(items), "--run", run, "--edits", str(five_folder / "results"), "--mode", mode]
        assert main([*scoring, "--metrics", "five_background", "psnr_source_outside"]) == 0
        assert main(["evaluate", "report", run, "--no-videos"]) == 0
        text = (tmp_path / mode / "report/report.md").read_text(encoding="utf-8")
        assert f"| {column} |" in text and "Wan-Edit" in text and f"Mode {mode}" in text and "not comparable" in text
    capsys.readouterr()
    assert len(read_items(items).items) == 7
