"""What `liveditor train` reads: raw pairs, encoded once as they would be on the fly, and shards; validation edits of what it trains."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from drawn_pairs import INSTRUCTION, write_pairs
from liveditor_isa.checkpoint.included import path_of
from liveditor_isa.data.shards import TENSORS
from liveditor_isa.evaluation.frames import read_video
from liveditor_isa.training.editor import encoders, loop, validation
from liveditor_isa.training.editor.objective import Draws
from liveditor_isa.training.editor.pairs import bucket_for, read_raw
from liveditor_isa.training.editor.parallel import Spread
from liveditor_isa.training.editor.recipe import recipe_of
from liveditor_isa.training.editor.settings import Objective
from liveditor_isa.training.stopping import Stopped
from small_training import write_encoded, write_network

CPU = Spread(torch.device("cpu"), torch.float32)


def recipe(source, **tables):
    stage = {"steps": 2, "batch": 1, "sources": [{"path": str(source)}]}
    return recipe_of({"stage": [stage], "lora": {"rank": 2}, "data": {"buckets": [[64, 48, 5], [48, 64, 5]]}} | tables)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("raw"), 2)


def test_cached_pairs_are_what_is_encoded_on_the_fly(raw, tmp_path, monkeypatch, pipe):
    """And so is what the training makes of them; they are encoded once."""
    of = recipe(raw)
    sources = encoders.Sources(of, tmp_path / "cache", CPU)
    cached = sources.pairs[str(raw)]
    assert cached.buckets == [(64, 48, 5)] * 2
    for number in range(2):
        context, target = (
            pipe.vae.encode(
                (read_video(raw / f"{number}.{role}.mp4").frames.float() / 255).movedim(-1, 0)[None] * 2 - 1
            ).latent_dist.mode()
            for role in ("context", "target")
        )
        mean, deviation = (
            torch.tensor(values).view(-1, 1, 1, 1) for values in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
        )
        text = pipe.encode_prompt(INSTRUCTION, do_classifier_free_guidance=False)[0][0]
        fresh = {
            "context": ((context[0] - mean) / deviation).bfloat16(),
            "target": ((target[0] - mean) / deviation).bfloat16(),
            "text": text[: len(cached[number]["text"])].bfloat16(),
        }
        assert not text[len(cached[number]["text"]) :].any()
        for name in TENSORS:
            found, expected = cached[number][name].float(), fresh[name].float()
            assert (found - expected).norm() < 0.01 * expected.norm(), name  # roundings of bf16 and of pixels
        draws = Draws(Objective(shift=6.0), 0, sources.texts.own, sources.texts.empty)
        kept, made = (draws.inputs(3, 1, 0, [pair]) for pair in (cached[number], fresh))
        with torch.no_grad():
            losses = [loop_loss(pipe.transformer, inputs) for inputs in (kept, made)]
        assert abs(losses[0] - losses[1]) < 2e-3
    monkeypatch.setattr(encoders, "open_encoders", None)  # neither VAE nor text encoder is needed again
    again = encoders.Sources(of, tmp_path / "cache", CPU)
    assert torch.equal(again.pairs[str(raw)][1]["target"], cached[1]["target"])
    assert torch.equal(again.texts.empty, sources.texts.empty) and again.texts.own == 32


def loop_loss(network, inputs):
    from liveditor_isa.training.editor.objective import loss_of

    return loss_of(network, inputs, torch.device("cpu"), torch.float32).item()


@pytest.fixture(scope="module")
def pipe():
    from liveditor_isa.pipelines.pipeline import LIVEditorPipeline

    return LIVEditorPipeline.included(torch.float32)


def test_another_text_or_file_is_encoded_anew(raw, tmp_path):
    folder = shutil.copytree(raw, tmp_path / "raw")
    first = set(names(encoders.Sources(recipe(folder), tmp_path / "cache", CPU), folder))
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    rows[1]["instruction"] = "make it night"
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    second = set(names(encoders.Sources(recipe(folder), tmp_path / "cache", CPU), folder))
    assert len(first & second) == 1 and len(first | second) == 3


def names(sources, folder):
    return [file.name for file in sources.pairs[str(folder)].files]


def test_a_folder_of_files_and_a_list_are_the_same_pairs(raw, tmp_path):
    for number in range(2):
        for role in ("context", "target"):
            shutil.copy(raw / f"{number}.{role}.mp4", tmp_path)
        (tmp_path / f"{number}.txt").write_text(INSTRUCTION + "\n", encoding="utf-8")
    by_name = [(Path(one.context).name, Path(one.target).name, one.instruction) for one in read_raw(tmp_path)]
    assert by_name == [(Path(one.context).name, Path(one.target).name, one.instruction) for one in read_raw(raw)]
    assert read_raw(raw / "pairs.jsonl") == read_raw(raw)
    (tmp_path / "1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="1.txt is not UTF-8"):
        read_raw(tmp_path)
    (tmp_path / "1.txt").unlink()
    with pytest.raises(ValueError, match="has no 1.txt beside it"):
        read_raw(tmp_path)


@pytest.mark.parametrize(
    "size, frames, bucket",
    [
        ((1280, 720), 100, (832, 480, 81)), ((720, 1280), 90, (480, 832, 81)), ((1280, 720), 60, (832, 480, 33)),
        ((1280, 720), 30, (832, 480, 29)), ((1280, 720), 1, (832, 480, 1)), ((700, 700), 81, (720, 720, 17)),
    ],
)  # fmt: skip
def test_a_pair_gets_the_bucket_nearest_in_shape_and_the_longest_that_it_fills(size, frames, bucket):
    assert bucket_for(size, frames, [(832, 480, 81), (832, 480, 33), (480, 832, 81), (720, 720, 17)]) == bucket


@pytest.mark.parametrize(
    "content, said",
    [
        ("{", "is no list of pairs"),
        ('{"context": "a.mp4", "target": "b.mp4"}\n', "line 1 lacks context, target or instruction"),
        ('{"context": "a.mp4", "target": "b.mp4", "instruction": "x"}\n', "names .*a.mp4, which is not there"),
        ('{"context": "a.mp4", "target": "b.mp4", "instruction": "x", "status": "rejected"}\n', "holds no pair"),
    ],
)
def test_a_bad_list_is_a_sentence(tmp_path, content, said):
    (tmp_path / "pairs.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        read_raw(tmp_path / "pairs.jsonl")


def test_a_clip_that_cannot_be_read_is_named(raw, tmp_path):
    folder = shutil.copytree(raw, tmp_path / "raw")
    (folder / "1.target.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"The pair of .*1.target.mp4 cannot be encoded \(.*repair it"):
        encoders.Sources(recipe(folder), tmp_path / "cache", CPU)


def test_validation_edits_with_the_averaged_weights_as_the_command_does(raw, tmp_path):
    """The last validation is what `liveditor edit` makes with the file that the run wrote."""
    from liveditor_isa.pipelines.edit import edit_file, load
    from liveditor_isa.pipelines.request import Edit, ModelChoice

    network = write_network(tmp_path / "liveditor.safetensors")
    pairs = write_encoded(tmp_path / "shards")
    clip = raw / "0.context.mp4"
    model = {"start": str(network), "text_encoder": path_of("text_encoder"), "vae": path_of("vae"), "trains": "full"}
    validation = {"every": 2, "clips": [{"video": str(clip), "prompt": "make it night"}], "width": 64, "height": 48, "steps": 2}
    stage = {"steps": 3, "batch": 1, "ema": 0.9, "rate": 1e-2, "sources": [{"path": str(pairs)}]}
    of = recipe_of({"model": model, "validation": validation, "stage": [stage]})
    file = loop.run(of, tmp_path / "run", "cpu", progress=False).file
    made = sorted(
        path.relative_to(tmp_path / "run/validation").as_posix() for path in (tmp_path / "run/validation").rglob("*.mp4")
    )
    assert made == ["step-00000002/0.mp4", "step-00000003/0.mp4"]
    pipe = load(ModelChoice(str(file), path_of("text_encoder"), path_of("vae"), isa=None))
    edit = Edit(str(clip), "make it night", steps=2, size=(64, 48))
    edit_file(pipe, edit, tmp_path / "again.mp4", progress=False)
    last, again, first = (
        read_video(path).frames.float()
        for path in (
            tmp_path / "run/validation/step-00000003/0.mp4",
            tmp_path / "again.mp4",
            tmp_path / "run/validation/step-00000002/0.mp4",
        )
    )
    # The file is bf16, which an untrained network makes much of.
    assert (last - again).abs().mean() < 0.1 * (last - first).abs().mean() and last.shape == (5, 48, 64, 3)


def test_a_signal_within_a_validation_edit_saves_and_stops(raw, tmp_path, monkeypatch):
    before = validation.edit_file

    def edit(*clip, **settings):
        os.kill(os.getpid(), signal.SIGTERM)
        return before(*clip, **settings)

    monkeypatch.setattr(validation, "edit_file", edit)
    clips = [{"video": str(raw / "0.context.mp4"), "prompt": "make it night"}]
    looked_at = {"every": 1, "clips": clips, "width": 64, "height": 48, "steps": 2}
    with pytest.raises(Stopped):
        loop.run(recipe(write_encoded(tmp_path / "shards"), validation=looked_at), tmp_path / "run", "cpu", progress=False)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000001"]
    assert not [*(tmp_path / "run/validation").rglob("*.mp4")]
