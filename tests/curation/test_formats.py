"""Formats of trainers: what is written is read back, a failed export leaves nothing, and rejected pairs stay in the native one alone."""

import json
import tarfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from liveditor_isa.curation.formats import FORMATS, collect, collect_sources, export, native
from liveditor_isa.curation.formats.files import distinct
from liveditor_isa.curation.records import Pair, read_pairs, write_pairs
from liveditor_isa.curation.sources import SourcesError, read_sources
from liveditor_isa.data import shards
from liveditor_isa.video.mp4 import write_mp4
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> list[Pair]:
    """Two accepted ones, whose ids have dots and whose words have quotes, commas and letters beyond ASCII; and a rejected one."""
    folder = tmp_path_factory.mktemp("made")
    clips = {}
    for role, level in (("context", 0.2), ("target", 0.7)):
        clips[role] = str(write_mp4(folder / f"{role}.mp4", [torch.full((5, 32, 32, 3), level)], Fraction(8)))
    found = []
    for id, text in (
        ("beach.v2-001-style-1", 'Make it "old", please'),
        ("café-001-add-2".replace("é", "e"), "Nimm den Bären weg\nsofort"),
    ):
        latents = folder / f"{id}.safetensors"
        save_file(
            {
                "context": torch.randn(16, 2, 4, 4).bfloat16(),
                "target": torch.randn(16, 2, 4, 4).bfloat16(),
                "text": torch.randn(len(text), 8).bfloat16(),
            },
            latents,
        )
        found.append(
            Pair(id, "style", text, clips["context"], clips["target"], "beach", (text, "another"), str(latents), None, 8.0, 5, 32, 32,
                 "synthetic-to-real", {"origin": "own", "licence": "CC0", "span": [0.0, 0.625]}, {"edit": "age it"},
                 {"videos": "fake@1"}, {"videos": 3}, {"videos": {"flicker_added": 0.5}}, {"videos": 1.5})
        )  # fmt: skip
    lost = Pair(
        "lost-1",
        "add",
        "x",
        None,
        clips["target"],
        status="rejected",
        reason="flicker",
        gate="flicker",
        scores={"videos": {"flicker_added": 9.0}},
    )
    return [*found, lost]


def test_records_are_read_back_as_written_also_from_another_folder(pairs, tmp_path):
    path = tmp_path / "pairs.jsonl"
    assert write_pairs(path, pairs) == 3
    assert [*read_pairs(path)] == pairs
    inside = [Pair("a", "t", "say", str(tmp_path / "v/a.mp4"), str(tmp_path / "v/b.mp4"))]
    write_pairs(path, inside)
    assert json.loads(path.read_text(encoding="utf-8"))["context"] == "v/a.mp4"
    moved = tmp_path / "moved"
    moved.mkdir()
    path.rename(moved / "pairs.jsonl")
    assert next(read_pairs(moved / "pairs.jsonl")).context == str(moved / "v/a.mp4")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[1]\n",
        '{"id": "a"}\n',
        '{"id": "a", "task": "", "instruction": "", "context": null, "target": null, "colour": 1}\n',
    ],
)
def test_a_file_that_holds_no_pairs_is_one_sentence(tmp_path, content):
    (tmp_path / "pairs.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"cannot be read .*name a pairs.jsonl"):
        [*read_pairs(tmp_path / "pairs.jsonl")]


@pytest.mark.parametrize("name", FORMATS)
def test_round_trip(pairs, tmp_path, name):
    assert export(pairs, name, tmp_path / "out") == 2
    (tmp_path / "out").rename(tmp_path / "moved")
    found = FORMATS[name].read(tmp_path / "moved")
    accepted = [pair for pair in found if pair.status == "accepted"]
    assert [(pair.id, pair.instruction) for pair in accepted] == [(pair.id, pair.instruction) for pair in pairs[:2]]
    for pair, made in zip(accepted, pairs):
        for role in ("context", "target"):
            assert content(getattr(pair, role)) == Path(getattr(made, role)).read_bytes()
    assert len(found) == (3 if name == "native" else 2)


def content(place: str) -> bytes:
    path, _, member = place.partition("#")
    if not member:
        return Path(path).read_bytes()
    with tarfile.open(path) as tar:
        return tar.extractfile(member).read()


def test_the_native_format_keeps_all_that_is_known(pairs, tmp_path):
    export(pairs, "native", tmp_path / "out")
    found = native.read(tmp_path / "out")
    for pair, made in zip(found, pairs):
        same = (
            "task",
            "instructions",
            "source",
            "scores",
            "models",
            "seeds",
            "reason",
            "gate",
            "status",
            "direction",
            "prompts",
        )
        assert {name: getattr(pair, name) for name in same} == {name: getattr(made, name) for name in same}


def test_shards_hold_the_encoded_pairs_bit_by_bit(pairs, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    monkeypatch.setattr(shards, "SHARD_BYTES", 100)  # a shard for every pair
    export(pairs, "native", tmp_path / "out")
    found = {row["id"]: (row, tensors) for row, tensors in native.read_shards(tmp_path / "out")}
    assert [row["shard"] for row, _ in found.values()] == ["00000.safetensors", "00001.safetensors"]
    for pair in pairs[:2]:
        row, tensors = found[pair.id]
        assert row["bucket"] == [32, 32, 5] and row["tokens"] == len(pair.instruction)
        assert all(torch.equal(tensors[name], tensor) for name, tensor in load_file(pair.latents).items())


def test_comfyuis_own_node_loads_the_shards_with_latents_as_its_vae_makes_them(pairs, tmp_path, monkeypatch):
    import comfy.latent_formats
    from comfy_extras import nodes_dataset
    from safetensors.torch import load_file

    monkeypatch.setattr(FORMATS["comfyui"], "PAIRS_A_SHARD", 1)
    export(pairs, "comfyui", tmp_path / "out")
    monkeypatch.setattr(nodes_dataset, "get_dataset_dir", lambda name: str(tmp_path / name))
    latents, conditioning = nodes_dataset.LoadTrainingDataset.execute("out").args
    assert len(latents) == len(conditioning) == 2
    network_takes = comfy.latent_formats.Wan21().process_in
    for pair, latent, [[text, more]] in zip(pairs, latents, conditioning):
        made = load_file(pair.latents)
        assert torch.allclose(network_takes(latent["samples"])[0], made["target"].float(), atol=1e-4)
        assert torch.allclose(network_takes(more["context_latents"][0])[0], made["context"].float(), atol=1e-4)
        tokens = len(made["text"])
        assert text.shape == (1, 512, 8) and torch.equal(text[0, :tokens], made["text"]) and not text[0, tokens:].any()


def test_nemos_dataset_finds_what_its_own_encoder_would_have_written(pairs, tmp_path, monkeypatch):
    """What components/datasets/diffusion/text_to_video_dataset.py of NVIDIA-NeMo/Automodel reads, started in the folder."""
    from safetensors.torch import load_file

    export(pairs, "nemo", tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    shards = json.loads(Path("metadata.json").read_text(encoding="utf-8"))["shards"]
    rows = [row for shard in shards for row in json.loads(Path(shard).read_text(encoding="utf-8"))]
    assert len(rows) == 2
    for pair, row in zip(pairs, rows):
        made, cached = load_file(pair.latents), torch.load(Path(row["cache_file"]).resolve(), weights_only=True)
        assert row["bucket_resolution"] == [pair.width, pair.height] and row["aspect_ratio"] == pair.width / pair.height
        for name, role in (("video_latents", "target"), ("context_latents", "context")):
            assert cached[name].dtype == torch.float16 and torch.equal(cached[name][0], made[role].half())
        text, tokens = cached["text_embeddings"], len(made["text"])
        assert text.shape == (1, 226, 8) and torch.equal(text[0, :tokens], made["text"]) and not text[0, tokens:].any()


@pytest.mark.parametrize("name", ["comfyui", "nemo"])
def test_pairs_without_latents_are_not_exported_encoded(pairs, tmp_path, name):
    with pytest.raises(ValueError, match="has no latents"):
        export([replace(pairs[0], latents=None)], name, tmp_path / "out")
    assert [*tmp_path.iterdir()] == []


def test_an_export_that_fails_leaves_nothing(pairs, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(native, "write_shards", full)
    with pytest.raises(OSError):
        export(pairs, "native", tmp_path / "out")
    assert [*tmp_path.iterdir()] == []


def test_what_cannot_be_exported_is_one_sentence(pairs, tmp_path):
    with pytest.raises(ValueError, match="no format 'zip'"):
        export(pairs, "zip", tmp_path / "out")
    with pytest.raises(ValueError, match="no accepted pair"):
        export(pairs[2:], "kiwi", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(FileExistsError):
        export(pairs, "kiwi", tmp_path / "full")


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_of_another_format_is_one_sentence(tmp_path, name):
    with pytest.raises(ValueError, match=r"\.$"):
        FORMATS[name].read(tmp_path)


@pytest.mark.parametrize(
    "name, file, content",
    [
        ("kiwi", "metadata.csv", "src,tgt\na.mp4,b.mp4\n"),
        ("diffsynth", "metadata.csv", "video,prompt\na.mp4,x\n"),
        ("musubi", "pairs.jsonl", '{"video_path": "a.mp4", "caption": "x"}\n'),
        ("musubi", "pairs.jsonl", "{\n"),
        ("videox_fun", "metadata.json", '[{"file_path": "a.mp4", "text": "x"}]'),
    ],
)
def test_a_list_that_lacks_a_column_is_one_sentence(tmp_path, name, file, content):
    (tmp_path / file).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"(lacks|is not JSON lines).*: name a folder of this format\.$"):
        FORMATS[name].read(tmp_path)


def test_what_videox_fun_leaves_out_is_left_out(tmp_path):
    row = {"file_path": "a.mp4", "control_file_path": "b.mp4", "text": "x", "type": "video"}
    (tmp_path / "metadata.json").write_text(json.dumps([row]), encoding="utf-8")
    assert FORMATS["videox_fun"].read(tmp_path)[0].width == 0


def test_ids_are_all_different():
    files = ["/data/a/x.mp4", "/data/b/x.mp4", "x-2.mp4", "y.mp4", "y.mp4", "y-2.mp4"]
    found = distinct(files)
    assert len({*found}) == len(files) and not any("/" in id for id in found)


def test_files_that_an_export_has_linked_are_whole_in_tar_files(pairs, tmp_path):
    """webdataset's own reader leaves out whatever is no file of its own, such as a link to an earlier one."""
    export(pairs, "native", tmp_path / "native")
    export(pairs, "webdataset", tmp_path / "out")
    with tarfile.open(next((tmp_path / "out").glob("*.tar"))) as tar:
        assert all(member.isreg() for member in tar) and len(tar.getnames()) == 6


def test_a_list_elsewhere_than_a_folder_that_was_named_from_here(pairs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export(pairs, "kiwi", Path("out"))
    (tmp_path / "lists").mkdir()
    assert collect(Path("out"), "kiwi", Path("lists/list.jsonl")) == (2, 0)
    assert all(Path(pair.target).is_file() for pair in read_pairs(Path("lists/list.jsonl")))


def test_columns_are_those_that_the_trainers_read(pairs, tmp_path):
    for name in FORMATS:
        export(pairs, name, tmp_path / name)
    header = {
        name: (tmp_path / name / "metadata.csv").read_text(encoding="utf-8").split("\n")[0].strip()
        for name in ("kiwi", "diffsynth")
    }
    assert header == {"kiwi": "src_video,tgt_video,prompt,ref_image", "diffsynth": "video,prompt,vace_video"}
    first = json.loads((tmp_path / "musubi/pairs.jsonl").read_text(encoding="utf-8").split("\n")[0])
    assert [*first] == ["video_path", "control_path", "caption"]
    first = json.loads((tmp_path / "videox_fun/metadata.json").read_text(encoding="utf-8"))[0]
    assert [*first] == ["file_path", "control_file_path", "text", "type", "width", "height"]
    with tarfile.open(tmp_path / "webdataset/00000.tar") as tar:
        names = tar.getnames()
    assert [name.split(".", 1)[1] for name in names[:3]] == ["context.mp4", "target.mp4", "json"]


def laid(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def test_ditto_as_it_is_published_each_edit_once_though_lists_overlap(tmp_path):
    laid(tmp_path / "videos", "source/a.mp4", "global_style1/a.mp4", "local/a.mp4")
    (tmp_path / "training_metadata").mkdir()
    rows = [
        {"source_path": "source/a.mp4", "edited_path": f"{group}/a.mp4", "instruction": words}
        for group, words in (("global_style1", "Make it a painting"), ("local", "Remove the dog"), ("local", "Add a cat"))
    ]
    for name, listed in (("global", rows[:1]), ("global+local", rows)):
        (tmp_path / f"training_metadata/{name}.json").write_text(json.dumps(listed), encoding="utf-8")
    found = FORMATS["ditto"].read(tmp_path)
    assert [pair.id for pair in found] == ["global_style1-a", "local-a", "local-a-2"]
    assert [pair.instruction for pair in found] == [row["instruction"] for row in rows]
    assert Path(found[0].context).read_text(encoding="utf-8") == "source/a.mp4"
    assert Path(found[1].target).read_text(encoding="utf-8") == "local/a.mp4"


def test_reco_as_it_is_published_a_style_named_in_its_targets(tmp_path):
    laid(
        tmp_path,
        "add/src_videos/v.mp4",
        "add/tar_videos/v.mp4",
        "style/src_videos/v.mp4",
        "style/tar_videos/v-a_Van_Gogh_style.mp4",
    )
    for task, target in (("add", "v.mp4"), ("style", "v-a_Van_Gogh_style.mp4")):
        row = {
            "src_video": f"{task}/src_videos/v.mp4",
            "tar_video": f"{task}/tar_videos/{target}",
            "instruction_final_refine": task,
            "video_id": 3,
        }
        (tmp_path / f"{task}/{task}_data_configs.json").write_text(json.dumps([row]), encoding="utf-8")
    assert [(pair.id, pair.task) for pair in FORMATS["reco"].read(tmp_path)] == [("v", "add"), ("v-a_Van_Gogh_style", "style")]


@pytest.mark.parametrize("separator", [",", ";"])
def test_openve_by_its_columns_with_both_separators(tmp_path, separator):
    laid(tmp_path / "videos", "local_add/a_src.mp4", "local_add/a.mp4", "local_remove/a.mp4")
    (tmp_path / "csv").mkdir()
    for kind, words in (("local_add", '"Add a cat, a red one; now"'), ("local_remove", "Remove it")):
        lines = [("video", "original_video", "prompt"), (f"{kind}/a.mp4", "local_add/a_src.mp4", words)]
        text = "\n".join(separator.join(line) for line in lines)
        (tmp_path / f"csv/{kind}.csv").write_text(text, encoding="utf-8")
    found = FORMATS["openve"].read(tmp_path)
    assert [(pair.id, pair.task, pair.instruction) for pair in found] == [
        ("local_add-a", "local_add", "Add a cat, a red one; now"), ("local_remove-a", "local_remove", "Remove it"),
    ]  # fmt: skip
    assert Path(found[1].context).read_text(encoding="utf-8") == "local_add/a_src.mp4"
    assert Path(found[1].target).read_text(encoding="utf-8") == "local_remove/a.mp4"


def test_senorita_by_its_keys_though_lists_name_folders_that_are_uploaded_under_others(tmp_path):
    laid(tmp_path, "obj_swap_upload/6/a_org.mp4", "obj_swap_upload/6/a.mp4", "obj_removal_videos_upload/6/a.mp4")
    places = {"swap": "./obj_swap_videos/6/a.mp4", "removal": "./obj_removal_videos_upload/6/a.mp4"}
    for kind, place in places.items():
        row = {"source_video_path": "./obj_swap_videos/6/a_org.mp4", "target_video_path": place, "enhanced_instruction": kind}
        (tmp_path / f"{kind}.json").write_text(json.dumps([row | {"mask_id": 3}]), encoding="utf-8")
    found = {pair.task: pair for pair in FORMATS["senorita"].read(tmp_path)}
    assert {pair.id for pair in found.values()} == {"obj_swap_videos-6-a", "obj_removal_videos_upload-6-a"}
    assert Path(found["swap"].target).read_text(encoding="utf-8") == "obj_swap_upload/6/a.mp4"
    assert Path(found["removal"].target).read_text(encoding="utf-8") == "obj_removal_videos_upload/6/a.mp4"
    assert Path(found["swap"].context).read_text(encoding="utf-8") == "obj_swap_upload/6/a_org.mp4"


@pytest.mark.parametrize("name", ["native", "diffsynth", "musubi", "videox_fun", "kiwi", "ditto", "reco", "openve", "senorita"])
def test_a_collected_list_is_a_source_of_training(pairs, tmp_path, name):
    from liveditor_isa.training.editor.pairs import read_raw

    export(pairs, name, tmp_path / "out")
    assert collect(tmp_path / "out", name, tmp_path / "list.jsonl", "CC0") == (2, 0)
    listed = [*read_pairs(tmp_path / "list.jsonl")]
    assert [(pair.id, pair.source["licence"]) for pair in listed] == [(pair.id, "CC0") for pair in pairs[:2]]
    assert [row.instruction for row in read_raw(tmp_path / "list.jsonl")] == [pair.instruction for pair in pairs[:2]]
    with pytest.raises(FileExistsError, match="there already"):
        collect(tmp_path / "out", name, tmp_path / "list.jsonl")


def test_pairs_whose_videos_were_not_downloaded_are_left_out_and_counted(pairs, tmp_path):
    export(pairs, "kiwi", tmp_path / "out")
    (tmp_path / f"out/videos/{pairs[0].id}.target.mp4").unlink()
    assert collect(tmp_path / "out", "kiwi", tmp_path / "list.jsonl") == (1, 1)
    assert [pair.id for pair in read_pairs(tmp_path / "list.jsonl")] == [pairs[1].id]
    (tmp_path / f"out/videos/{pairs[1].id}.context.mp4").unlink()
    with pytest.raises(ValueError, match="None of the 2 pairs"):
        collect(tmp_path / "out", "kiwi", tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize("name", ["ditto", "reco", "openve", "senorita", "native"])
def test_videos_that_were_edited_are_sources_of_a_data_run_each_once(pairs, tmp_path, name):
    """In `native` the real clip is the target, and both pairs were made of one; the others do not know a direction."""
    export(pairs, name, tmp_path / "out")
    count, missing = collect_sources(tmp_path / "out", name, tmp_path / "clips.jsonl", "CC0")
    found = read_sources(tmp_path / "clips.jsonl")
    role = "target" if name == "native" else "context"
    wanted = [Path(getattr(pair, role)) for pair in FORMATS[name].read(tmp_path / "out") if pair.status == "accepted"]
    wanted = wanted[: 1 if name == "native" else 2]
    assert (count, missing) == (len(wanted), 0) and [Path(source.video) for source in found] == [
        path.resolve() for path in wanted
    ]
    assert {source.licence for source in found} == {"CC0"} and len({source.id for source in found}) == len(wanted)
    assert found[0].origin == ("own" if name == "native" else name)


def test_one_video_of_many_edits_is_one_source_and_missing_ones_are_counted(tmp_path):
    laid(tmp_path / "videos", "a.mp4", "a1.mp4")
    rows = [("original_video", "video", "prompt"), *((clip, "a1.mp4", "x") for clip in ("a.mp4", "a.mp4", "gone.mp4"))]
    (tmp_path / "style.csv").write_text("\n".join(map(",".join, rows)), encoding="utf-8")
    assert collect_sources(tmp_path, "openve", tmp_path / "clips.jsonl") == (1, 1)
    assert [Path(source.video).name for source in read_sources(tmp_path / "clips.jsonl")] == ["a.mp4"]
    (tmp_path / "videos/a.mp4").unlink()
    with pytest.raises(ValueError, match="None of the 2 videos"):
        collect_sources(tmp_path, "openve", tmp_path / "none.jsonl")


def test_pairs_in_the_place_of_sources_are_one_sentence_with_the_cure(pairs, tmp_path):
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    with pytest.raises(SourcesError, match="this is a pair and no raw video; liveditor data import --sources"):
        read_sources(tmp_path / "pairs.jsonl")


@pytest.mark.parametrize("content", ["{}", "[3]", '[{"source_path": "a", "edited_path": "b"}]', "[", '[{"source_path": 1}]'])
def test_a_list_of_something_else_is_one_sentence(tmp_path, content):
    laid(tmp_path, "training_metadata/x.json")
    (tmp_path / "training_metadata/x.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"name a folder of this format\.$"):
        FORMATS["ditto"].read(tmp_path)
