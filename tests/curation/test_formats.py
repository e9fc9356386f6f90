"""Formats of trainers: what is written is read back, a failed export leaves nothing, and rejected pairs stay in the native one alone."""

import json
import tarfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from liveditor_isa.curation.formats import FORMATS, export, native
from liveditor_isa.curation.records import Pair, read_pairs, write_pairs
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


def test_pairs_without_latents_are_not_exported_for_comfyui(pairs, tmp_path):
    with pytest.raises(ValueError, match="has no latents"):
        export([replace(pairs[0], latents=None)], "comfyui", tmp_path / "out")
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
